"""Losses for a long tail: AGCACL and its rivals behind one call, and the measures of the class space that they leave."""
from .agcacl import AGCACL
from .agcacl_patients import PatientAGCACL
from .contrastive import BCL, PaCo, ProxyAnchor, SupCon
from .geometry import diagnose, simplex
from .logits import LDAM, ClassBalanced, Focal, LogitAdjusted
from .objectives import OBJECTIVES, make_objective

__all__ = ['AGCACL', 'PatientAGCACL', 'LogitAdjusted', 'ClassBalanced', 'Focal', 'LDAM', 'SupCon', 'ProxyAnchor', 'BCL',
           'PaCo', 'OBJECTIVES', 'make_objective', 'simplex', 'diagnose']
