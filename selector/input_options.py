"""Inputs as the command line gives them: `name=2x8:int64` and `.npz` files."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selector.cases import ShapeDtype
from selector.errors import InvalidRequestError

if TYPE_CHECKING:
    import numpy as np

OPTION = re.compile(r"(?P<name>[A-Za-z_]\w*)=(?P<shape>(\d+(x\d+)*)?)(:(?P<dtype>\w+))?")
DTYPES = (
    "bool",
    "uint8",
    "int8",
    "int16",
    "int32",
    "int64",
    "float16",
    "bfloat16",
    "float32",
    "float64",
)


def parse_input_option(text: str) -> tuple[str, ShapeDtype]:
    """Reads `name=2x8:int64`; the dtype may be left out, an empty shape is a scalar.

    Raises:
        InvalidRequestError: The text has another form, or names an unknown dtype.
    """
    found = OPTION.fullmatch(text.strip())
    if found is None:
        msg = f"cannot read input {text!r}; write name=2x8:int64"
        raise InvalidRequestError(msg)
    dtype = found["dtype"]
    if dtype is not None and dtype not in DTYPES:
        msg = f"input {found['name']!r}: unknown dtype {dtype!r}; known: {', '.join(DTYPES)}"
        raise InvalidRequestError(msg)
    shape = tuple(int(size) for size in found["shape"].split("x") if size)
    if 0 in shape:
        msg = f"input {found['name']!r}: an axis of size 0 in {found['shape']}"
        raise InvalidRequestError(msg)
    return found["name"], ShapeDtype(shape, dtype)


def load_npz(path: str | Path) -> dict[str, np.ndarray[Any, Any]]:
    """Reads the arrays of a `.npz` file, one per input; never unpickles.

    Raises:
        InvalidRequestError: The file is missing, is no `.npz`, or holds objects.
    """
    import numpy  # noqa: ICN001, PLC0415 - a tenth of a second, which --help must not pay

    try:
        with Path(path).open("rb") as file:
            if not zipfile.is_zipfile(file):
                msg = "it is no .npz; save one with numpy.savez(file, name=array)"
                raise ValueError(msg)  # noqa: TRY301 - worded below, as what numpy raises
            file.seek(0)
            with numpy.load(file, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        msg = f"cannot read inputs from {path}: {reason}"
        raise InvalidRequestError(msg) from error
