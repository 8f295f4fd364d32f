"""Zip files as NumPy and PyTorch use them: members in place, with everything declared checked first.

Nothing is inflated before the sizes that all members declare are known to be reasonable; every
member is compared with its checksum when it is read.
"""

from __future__ import annotations

import json
import mmap
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from mixer_spec.errors import FileError

from .mapped import map_file

_ALLOWANCE = 1 << 28  # bytes that even a small file may inflate to
_RATIO = 16  # weights hardly compress; zeros do, but most weights are not zero
_MARK = b"mixer_spec "
_LONGEST_COMMENT = zipfile.ZIP_MAX_COMMENT  # of the zip, and of each member


@dataclass(frozen=True, slots=True)
class Member:
    """One file in a zip.

    Args:
        path: of the zip, for messages.
        name: in the zip.
        memory: the zip.
        offset: of the member's bytes in it.
        stored: bytes there.
        size: bytes when inflated; the same if the member is not compressed.
        checksum: CRC-32 of those.
        compressed: whether it has to be inflated.
    """

    path: Path
    name: str
    memory: mmap.mmap
    offset: int
    stored: int
    size: int
    checksum: int
    compressed: bool

    def head(self, length: int) -> bytes:
        """The first bytes, at most ``length``, unchecked."""
        if not self.compressed:
            return self.memory[self.offset : self.offset + min(length, self.size)]
        return self._inflate(length)

    def check(self) -> None:
        """Compare an uncompressed member with its checksum.

        Raises:
            FileError: if a bit differs.
        """
        with memoryview(self.memory) as whole:
            self._check(zlib.crc32(whole[self.offset : self.offset + self.stored]))

    def whole(self) -> bytes:
        """All of it, checked.

        Raises:
            FileError: if a bit differs.
        """
        found = self.head(self.size)
        if len(found) != self.size:
            raise FileError(
                str(self.path),
                f"{self.name} is cut off; expected {self.size} bytes, got {len(found)}",
            )
        self._check(zlib.crc32(found))
        return found

    def _inflate(self, length: int) -> bytes:
        try:
            with memoryview(self.memory) as whole:
                packed = whole[self.offset : self.offset + self.stored]
                return zlib.decompressobj(-15).decompress(packed, min(length, self.size) or 1)
        except zlib.error as error:
            raise FileError(str(self.path), f"{self.name} does not inflate: {error}") from None

    def _check(self, found: int) -> None:
        if found != self.checksum:
            raise FileError(
                str(self.path),
                f"{self.name} is damaged; expected checksum {self.checksum:08x}, got {found:08x}; "
                "get the file again",
            )


def members(path: Path) -> tuple[dict[str, Member], dict[str, str]]:
    """The members of a zip by name, and the strings that :func:`add_strings` put there.

    Raises:
        FileError: if it is damaged, encrypted, declares absurd sizes or a name twice.
    """
    memory = map_file(path)
    try:
        # Of the same bytes: by now another file may have the name.
        with zipfile.ZipFile(cast(IO[bytes], memory)) as archive:
            infos = archive.infolist()
            comments = [archive.comment, *(info.comment for info in infos)]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
        raise FileError(
            str(path), f"is not a whole zip file, got: {error}; get the file again"
        ) from None
    found: dict[str, Member] = {}
    problems = []
    for info in infos:
        if info.filename.endswith("/"):
            continue
        offset = _data_offset(memory, info)
        if info.filename in found:
            problems.append(f"{info.filename} stands twice in the zip")
        elif info.flag_bits & 1 or info.compress_type not in (
            zipfile.ZIP_STORED,
            zipfile.ZIP_DEFLATED,
        ):
            problems.append(f"{info.filename} is encrypted or packed; expected stored or deflated")
        elif offset is None or offset + info.compress_size > len(memory):
            problems.append(f"{info.filename} does not lie inside the file; get the file again")
        elif info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
            problems.append(f"{info.filename} declares two sizes; get the file again")
        else:
            found[info.filename] = Member(
                path,
                info.filename,
                memory,
                offset,
                info.compress_size,
                info.file_size,
                info.CRC,
                info.compress_type == zipfile.ZIP_DEFLATED,
            )
    problems += _too_much(found, len(memory))
    if problems:
        raise FileError(str(path), problems[:20])
    return found, _strings(comments)


def add_strings(archive: zipfile.ZipFile, metadata: Mapping[str, str]) -> None:
    """Put strings into the comments of a zip and of its members, which other readers pass over.

    To be called when every member is written; the text begins in the comment of the zip itself.

    Raises:
        FileError: if they are longer than all the comments together may be.
    """
    if not metadata:
        return
    text = _MARK + json.dumps(dict(metadata)).encode()
    first, *others = (
        text[at : at + _LONGEST_COMMENT] for at in range(0, len(text), _LONGEST_COMMENT)
    )
    infos = archive.infolist()
    if len(others) > len(infos):
        most = _LONGEST_COMMENT * (1 + len(infos))
        raise FileError(
            str(archive.filename),
            f"has no place for so much metadata; expected at most {most} bytes, got {len(text)}; "
            "shorten labels and provenance, or write a .safetensors",
        )
    archive.comment = first
    for info, piece in zip(infos, others, strict=False):
        info.comment = piece


def _strings(comments: Sequence[bytes]) -> dict[str, str]:
    """What :func:`add_strings` put into the comments, if it did."""
    if not comments[0].startswith(_MARK):
        return {}
    try:
        found = json.loads(b"".join(comments).removeprefix(_MARK))
    except (ValueError, RecursionError):
        return {}
    return {k: v for k, v in found.items() if isinstance(v, str)} if type(found) is dict else {}


def _data_offset(memory: mmap.mmap, info: zipfile.ZipInfo) -> int | None:
    """Where a member's bytes begin: behind its local header."""
    at = info.header_offset
    if at < 0 or memory[at : at + 4] != b"PK\x03\x04" or at + 30 > len(memory):
        return None
    name, extra = struct.unpack("<HH", memory[at + 26 : at + 30])
    return at + 30 + int(name) + int(extra)


def _too_much(found: Mapping[str, Member], size: int) -> list[str]:
    """A zip bomb, of either kind: bytes that are used twice, or that inflate beyond reason."""
    stored = sum(member.stored for member in found.values())
    declared = sum(member.size for member in found.values())
    if stored > size:
        return [f"its members overlap; expected at most {size} bytes of them, got {stored}"]
    allowed = _ALLOWANCE + _RATIO * size
    if declared > allowed:
        return [f"it would inflate beyond reason; expected at most {allowed} bytes, got {declared}"]
    return []
