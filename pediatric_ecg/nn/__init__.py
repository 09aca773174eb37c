"""The network: encoders, fusion, Transformer and the periodicity block, put together in `RhythmNet`.

Other people's networks stand behind the same call; `PEERS` names them.
"""
from .encoders import Encoder
from .fusion import Fusion
from .peers import PEERS
from .periodicity import Periodicity
from .rhythmnet import RhythmNet, RhythmNetConfig, RhythmNetOutput
from .transformer import Transformer

__all__ = ['RhythmNet', 'RhythmNetConfig', 'RhythmNetOutput',
           'Encoder', 'Fusion', 'Transformer', 'Periodicity', 'PEERS']
