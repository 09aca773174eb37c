"""Folds of windows that keep patients apart, and the audit that checks it before anything is trained."""
from ..core import LeakError
from .audit import audit
from .folds import Fold
from .split import evaluable, leave_one_patient_out, patient_folds, random_folds

__all__ = ['audit', 'LeakError', 'Fold', 'patient_folds', 'random_folds', 'leave_one_patient_out', 'evaluable']
