"""The network: encoders, fusion, Transformer and the periodicity block, put together in `RhythmNet`.

Other people's networks stand behind the same call; `nn.peers.PEERS` names them.
"""
from .encoders import Encoder
from .fusion import Fusion
from .periodicity import Periodicity
from .rhythmnet import RhythmNet, RhythmNetConfig
from .transformer import Transformer

__all__ = ['RhythmNet', 'RhythmNetConfig', 'Encoder', 'Fusion', 'Transformer', 'Periodicity']
