"""Evaluation: figures with intervals over patients, calibration, and windows that are worse than those of training."""
from .calibration import calibrate, fit_temperature
from .conditions import conditions
from .scores import compare, holm, scores, summarise

__all__ = ['calibrate', 'compare', 'conditions', 'fit_temperature', 'holm', 'scores', 'summarise']
