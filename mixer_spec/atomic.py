"""Writing a file or a folder so that a crash leaves the old or the new one, never half of either.

What is not whole yet has a name that says who writes it, as ``.model.npz.HOST.PID.1f00.tmp``. A
killed process leaves it behind; whoever writes to the same target next takes it away.
"""

from __future__ import annotations

import os
import platform
import secrets
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import FileError, MixerSpecError


def check_target(path: str | os.PathLike[str]) -> None:
    """Refuse a path that no file can be written to, before any work is done for it.

    Raises:
        FileError: if it is a folder, or is in a folder that does not exist.
    """
    target = Path(path).resolve()
    if target.is_dir():
        raise FileError(str(path), "is a folder; expected the name of a file to write")
    _check_parent(path, target)


def _check_parent(path: str | os.PathLike[str], target: Path) -> None:
    if not target.parent.is_dir():
        raise FileError(
            str(path), f"there is no folder {str(target.parent)!r}; make it, or write elsewhere"
        )


@contextmanager
def replacing(path: str | os.PathLike[str], *, overwrite: bool = True) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends without an error.

    The bytes are on the disk before the name changes. When anything fails, the temporary file is
    removed and ``path`` is as it was. A link is followed: the file that it points to is replaced.

    Args:
        path: where.
        overwrite: whether a file that is there in the end, perhaps another writer's, is replaced.

    Raises:
        FileError: if the folder does not exist, the operating system refuses the writing, or there
            is a file that may not be replaced.

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
    temporary = _unfinished(target)
    try:
        with _told_of(path, temporary, "the old file is untouched"):
            temporary.touch(exist_ok=False)
            yield temporary
            _sync(temporary)
            if overwrite:
                os.replace(temporary, target)
            else:
                _appear(temporary, target)
            _sync(target.parent)
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def _told_of(path: str | os.PathLike[str], temporary: Path, kept: str) -> Iterator[None]:
    """Errors of writing in terms of ``path``, since nobody has asked for the temporary one."""
    try:
        yield
    except FileExistsError:
        raise is_there(path) from None
    except OSError as error:
        raise FileError(str(path), f"could not be written; {kept}; got: {error}") from error
    except MixerSpecError as error:
        where = error.where.replace(str(temporary), str(path))
        raise type(error)(where, error.problems) from error


def _unfinished(target: Path) -> Path:
    """A new name beside ``target`` for what is not whole yet; those of dead writers are removed."""
    begin = f".{target.name}.{platform.node()}."
    with suppress(OSError):  # what cannot be removed is in nobody's way
        for left in target.parent.iterdir():
            process = left.name.removeprefix(begin).partition(".")[0]
            ours = left.name.startswith(begin) and left.suffix == ".tmp" and process.isdecimal()
            if ours and not _is_alive(int(process)):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
    return target.with_name(f"{begin}{os.getpid()}.{secrets.token_hex(4)}.tmp")


def _is_alive(process: int) -> bool:
    """Whether there is such a process on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it is another user's
    return True


def _appear(temporary: Path, target: Path) -> None:
    """Give ``temporary`` the name ``target``, unless something has it already.

    Raises:
        FileExistsError: if something has.
    """
    try:
        os.link(temporary, target)  # which refuses in one step, where a question would race
    except FileExistsError:
        raise
    except OSError:  # a disk without links
        if target.exists():
            raise FileExistsError from None
        os.replace(temporary, target)


def is_there(path: str | os.PathLike[str]) -> FileError:
    """The error of a target that may not be replaced."""
    return FileError(
        str(path),
        "is there already; choose another name, or replace it: --force, or overwrite=True in Python",
    )


def check_folder(path: str | os.PathLike[str], names: Collection[str], *, overwrite: bool) -> None:
    """Refuse a path that no folder of files called ``names`` can be written to.

    Raises:
        FileError: if there is something already, unless it may be overwritten and is a folder
            with such files only; or if the folder that it is in does not exist.
    """
    target = Path(path).resolve()
    _check_parent(path, target)
    if not target.exists():
        return
    if not overwrite:
        raise is_there(path)
    inside = target.iterdir() if target.is_dir() else [target]
    others = sorted(file.name for file in inside if file.name not in names or not file.is_file())
    if others:
        raise FileError(
            str(path),
            f"is not replaced; expected a folder with nothing but {sorted(names)}, "
            f"got {others[:3]} too; choose another name",
        )


@contextmanager
def replacing_folder(path: str | os.PathLike[str], *, overwrite: bool = True) -> Iterator[Path]:
    """A temporary folder beside ``path`` that takes its place when the block ends without an error.

    All bytes are on the disk before the names change. When anything fails, the temporary folder is
    removed and ``path`` is as it was. Folders cannot be exchanged in one step: a machine that
    stops between two renamings leaves the old one, whole, under a name that ends in ``.old``.

    Args:
        path: where.
        overwrite: whether a folder that is there in the end, perhaps another writer's, is replaced.

    Raises:
        FileError: if the operating system refuses the writing, or there is a folder that may not
            be replaced.
    """
    target = Path(path).resolve()
    temporary = _unfinished(target)
    old = temporary.with_suffix(".old")
    try:
        with _told_of(path, temporary, "what was there is untouched"):
            temporary.mkdir()
            yield temporary
            for inside in temporary.rglob("*"):
                _sync(inside)
            _sync(temporary)
            if target.exists() and not overwrite:
                raise FileExistsError
            _exchange(temporary, target, old)
            _sync(target.parent)
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
        if replaced and target.exists():  # another writer's, who was faster
            shutil.rmtree(old)
        elif replaced:
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
