"""Training: settings, augmentation, and one call that turns a fold of a store into a network chosen on validation patients."""
from .augment import Augment
from .config import TrainConfig
from .loop import fit, predict

__all__ = ['Augment', 'TrainConfig', 'fit', 'predict']
