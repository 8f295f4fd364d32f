"""Writing a file so that a crash leaves the old one or the new one, never half of either."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mixer_spec.errors import FileError


def check_target(path: str | os.PathLike[str]) -> None:
    """Refuse a path that no file can be written to, before any work is done for it.

    Raises:
        FileError: if it is a folder, or is in a folder that does not exist.
    """
    target = Path(path).resolve()
    if target.is_dir():
        raise FileError(str(path), "is a folder; expected the name of a file to write")
    if not target.parent.is_dir():
        raise FileError(
            str(path), f"there is no folder {str(target.parent)!r}; make it, or write elsewhere"
        )


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends without an error.

    The bytes are on the disk before the name changes. When anything fails, the temporary file is
    removed and ``path`` is as it was. A link is followed: the file that it points to is replaced.

    Raises:
        FileError: if the folder does not exist or the operating system refuses the writing.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp(), "notes.txt")
        >>> with replacing(target) as temporary:
        ...     _ = temporary.write_text("whole")
        >>> target.read_text(), len(list(target.parent.iterdir()))
        ('whole', 1)
    """
    check_target(path)
    target = Path(path).resolve()
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.touch(exist_ok=False)
        rights = temporary.stat().st_mode  # as the user's umask gives them
        yield temporary
        temporary.chmod(rights)  # safetensors puts a private file in its place
        _sync(temporary)
        os.replace(temporary, target)
        _sync(target.parent)
    except OSError as error:
        raise FileError(
            str(path), f"could not be written; the old file is untouched; got: {error}"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _sync(path: Path) -> None:
    """Wait until the disk has the file's bytes, or the folder's names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
