"""A simulated heart: surface ECG, intracardiac electrograms and annotations whose cause is known.

`simulate` writes a database of them in Leipzig's form. Every signal from here is simulated, never a patient's.
"""

from .events import Heart, Patient, draw_ladder
from .signals import Renderer
from .simulator import draw_strip, simulate

__all__ = ['Heart', 'Patient', 'Renderer', 'draw_ladder', 'draw_strip', 'simulate']
