"""A simulated heart: surface ECG, intracardiac electrograms and annotations whose cause is known.

`simulate` writes a database of them in Leipzig's form, `simulate_people` a population in the form of any database.
Every signal from here is simulated, never a patient's.
"""

from .events import Heart, Patient, draw_ladder
from .population import Population, simulate_people, simulated_form, stand_ins
from .signals import Renderer
from .simulator import draw_strip, simulate

__all__ = [
    'Heart', 'Patient', 'Population', 'Renderer', 'draw_ladder', 'draw_strip', 'simulate', 'simulate_people',
    'simulated_form', 'stand_ins',
]
