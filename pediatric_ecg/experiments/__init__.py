"""A folder of records or windows in, a judged network out: the run, its folder, and grids of runs under one protocol."""
from .grid import experiment
from .pretrain import pretrain
from .recipes import RECIPES
from .reproduce import reproduce
from .run import evaluate_run, run, train_store
from .run_folder import Protocol, RunFolder

__all__ = [
    'RECIPES', 'Protocol', 'RunFolder', 'evaluate_run', 'experiment', 'pretrain', 'reproduce', 'run', 'train_store',
]
