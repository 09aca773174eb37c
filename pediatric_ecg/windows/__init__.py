"""From recordings to labelled windows on disk: filters, cutting, the store and views of it.

`Windows` is the contract that training and evaluation rely on; `prepare` makes a `WindowStore` from a folder of records."""
from .prepare import cut, prepare
from .signals import Preprocess
from .store import Windows, WindowStore
from .views import Beside, View

__all__ = ['Windows', 'WindowStore', 'View', 'Beside', 'prepare', 'cut', 'Preprocess']
