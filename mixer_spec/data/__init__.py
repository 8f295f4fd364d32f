"""Labelled images by number: files, folders and libraries behind one protocol.

Example:
    >>> from mixer_spec.data import open_source
    >>> digits = open_source("digits", "test")
    >>> len(digits), digits[0].image.shape, digits.classes[:3]
    (360, (8, 8, 3), ('0', '1', '2'))
"""

from .arrays import ArraySource
from .class_names import read_class_names
from .folder import FolderSource
from .opening import open_source
from .rows import RowSource
from .source import Example, Source

__all__ = [
    "ArraySource",
    "Example",
    "FolderSource",
    "RowSource",
    "Source",
    "open_source",
    "read_class_names",
]
