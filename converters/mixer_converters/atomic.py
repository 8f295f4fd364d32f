"""Writing a file or a folder so that a crash leaves the old or the new one, never half of either."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Collection, Iterator
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


def check_folder(path: str | os.PathLike[str], names: Collection[str], *, overwrite: bool) -> None:
    """Refuse a path that no folder of files called ``names`` can be written to.

    Raises:
        FileError: if there is something already, unless it may be overwritten and is a folder
            with such files only; or if the folder that it is in does not exist.
    """
    target = Path(path).resolve()
    if not target.parent.is_dir():
        raise FileError(
            str(path), f"there is no folder {str(target.parent)!r}; make it, or write elsewhere"
        )
    if not target.exists():
        return
    if not overwrite:
        raise FileError(
            str(path), "is there already; choose another name, or replace it: overwrite=True"
        )
    inside = target.iterdir() if target.is_dir() else [target]
    others = sorted(file.name for file in inside if file.name not in names or not file.is_file())
    if others:
        raise FileError(
            str(path),
            f"is not replaced; expected a folder with nothing but {sorted(names)}, "
            f"got {others[:3]} too; choose another name",
        )


@contextmanager
def replacing_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary folder beside ``path`` that takes its place when the block ends without an error.

    All bytes are on the disk before the names change. When anything fails, the temporary folder is
    removed and ``path`` is as it was. Folders cannot be exchanged in one step: a machine that
    stops between two renamings leaves the old one, whole, under a name that ends in ``.old``.

    Raises:
        FileError: if the operating system refuses the writing.
    """
    target = Path(path).resolve()
    mark = secrets.token_hex(4)
    temporary = target.with_name(f".{target.name}.{mark}.tmp")
    old = target.with_name(f".{target.name}.{mark}.old")
    try:
        temporary.mkdir()
        yield temporary
        for file in temporary.iterdir():
            _sync(file)
        _sync(temporary)
        _exchange(temporary, target, old)
        _sync(target.parent)
    except OSError as error:
        raise FileError(
            str(path), f"could not be written; what was there is untouched; got: {error}"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _exchange(new: Path, target: Path, old: Path) -> None:
    """Rename ``new`` to ``target``; what was there goes, or comes back if that fails."""
    replaced = target.exists()
    if replaced:
        target.rename(old)
    try:
        new.rename(target)
    except OSError:
        if replaced:
            old.rename(target)
        raise
    if replaced:
        shutil.rmtree(old)


def _sync(path: Path) -> None:
    """Wait until the disk has the file's bytes, or the folder's names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
