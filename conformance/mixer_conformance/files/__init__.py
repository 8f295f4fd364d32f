"""The suite without Python: cases written as files, and a foreign program's answers judged.

``docs/cases.md`` is the protocol. No case is written twice: an export runs every case against a
backend that writes down what it is asked, a check runs it against one that reads the answers.
"""

from .index import Index, read_index
from .recording import export
from .replaying import Check, check

__all__ = ["Check", "Index", "check", "export", "read_index"]
