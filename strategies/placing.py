"""Puts a checkpoint's own file beside a model: as a hard link, or as a copy made by the kernel."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

LINK = "link"
CHUNK_BYTES = 1 << 23
# Where the kernel or the file system copies nothing by itself.
_NOT_HERE = frozenset({errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP})
_SHARD = re.compile(r"-\d{5}-of-\d{5}(?=\.safetensors$)")


def names_beside(files: Iterable[Path], stem: str) -> dict[Path, str]:
    """What a checkpoint's files are called beside a model: after its stem, shards numbered."""
    listed = list(dict.fromkeys(files))
    shards = [match.group() if (match := _SHARD.search(file.name)) else "" for file in listed]
    if len(set(shards)) < len(listed):
        # Shards of several checkpoints, or files that say no number.
        shards = [f"-{number:05d}-of-{len(listed):05d}" for number in range(1, len(listed) + 1)]
    return {file: f"{stem}{shard}.safetensors" for file, shard in zip(listed, shards, strict=True)}


def place(source: Path, target: Path, how: str) -> str | None:
    """Makes `target` a hard link to the file, or a copy.

    Args:
        source: A file, or a symbolic link to one.
        target: Does not exist yet.
        how: `link`, or anything else for a copy.

    Returns:
        What the user should know: that a link was refused.
    """
    source = source.resolve()
    if how == LINK:
        try:
            os.link(source, target)
        except OSError as error:
            copy_file(source, target)
            return f"{source.name} was copied, as it cannot be linked to: {error.strerror}"
        return None
    copy_file(source, target)
    return None


def copy_file(source: Path, target: Path) -> None:
    """Copies bytes without reading them where the system can; holes stay holes."""
    with source.open("rb") as reading, target.open("xb") as writing:
        size = os.fstat(reading.fileno()).st_size
        writing.truncate(size)
        for begin, end in _extents(reading, size):
            _copy_range(reading.fileno(), writing.fileno(), begin, end)


def _extents(file: BinaryIO, size: int) -> Iterator[tuple[int, int]]:
    """Where the file has data, begin and end, in order."""
    end = 0
    while end < size:
        try:
            begin = os.lseek(file.fileno(), end, os.SEEK_DATA)
            end = os.lseek(file.fileno(), begin, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            if error.errno not in _NOT_HERE:
                raise
            begin, end = end, size
        yield begin, end


def _copy_range(reading: int, writing: int, begin: int, end: int) -> None:
    while begin < end:
        try:
            copied = os.copy_file_range(reading, writing, end - begin, begin, begin)
        except OSError as error:
            if error.errno not in _NOT_HERE:
                raise
            copied = _copy_chunk(reading, writing, begin, end)
        if not copied:
            raise OSError(errno.EIO, "the file became shorter while it was copied")
        begin += copied


def _copy_chunk(reading: int, writing: int, begin: int, end: int) -> int:
    chunk = os.pread(reading, min(CHUNK_BYTES, end - begin), begin)
    written = 0
    while written < len(chunk):
        written += os.pwrite(writing, chunk[written:], begin + written)
    return written
