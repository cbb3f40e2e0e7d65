"""Where on disk a tensor's bytes lie."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

# By torch's name of the dtype; known without importing torch.
ITEM_BYTES = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """A contiguous tensor within a file, little endian, row by row.

    Attributes:
        file: Absolute path.
        offset: Bytes from the beginning of the file.
        dtype: torch's name of the element type as stored, "bfloat16" and such.
        shape: Sizes of the axes.
    """

    file: Path
    offset: int
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes that it takes on disk."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]
