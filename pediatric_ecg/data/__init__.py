"""Rhythm databases: what they are (`Database`), what a folder holds, and which rhythm is where."""
from .check import check
from .databases import LEIPZIG, MITDB, Database, get_database, register
from .download import download
from .annotations import read_annotations
from .headers import read_header
from .records import read_signals
from .rhythms import all_segments, group, segments
from .subjects import subjects

__all__ = [
    'Database', 'LEIPZIG', 'MITDB', 'get_database', 'register',
    'read_header', 'read_annotations', 'read_signals', 'subjects',
    'segments', 'all_segments', 'group',
    'check', 'download',
]
