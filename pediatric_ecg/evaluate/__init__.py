"""Evaluation: figures with intervals over patients, calibration, and windows that are worse than those of training."""
from .calibration import calibrate, ece, fit_temperature
from .conditions import conditions
from .scores import compare, per_class, scores, summarise

__all__ = ['calibrate', 'compare', 'conditions', 'ece', 'fit_temperature', 'per_class', 'scores', 'summarise']
