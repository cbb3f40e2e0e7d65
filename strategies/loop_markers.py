"""Operators that mark one step of a loop in a capture; what stands between becomes its body."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

DOMAIN = "autoexport"
# The markers' operators in ONNX.
INDEX, START, END, JOINED = "LoopIndex", "LoopStart", "LoopEnd", "LoopJoined"


def _marker(name: str, schema: str, function: Callable[..., Tensor]) -> Any:
    marker: Any = torch.library.custom_op(
        f"{DOMAIN}::{name}", function, mutates_args=(), schema=schema
    )
    marker.register_fake(lambda *args: torch.empty_like(function(*args)))
    return marker


index = _marker(
    "loop_index", "(Tensor count, int loop) -> Tensor", lambda count, _: torch.zeros_like(count)
)
# The same for sizes that are symbols; what it answers is one that nothing can be asked about.
open_index: Any = torch.library.custom_op(
    f"{DOMAIN}::loop_open_index",
    lambda count, loop: 0,  # noqa: ARG005 - the operator's names
    mutates_args=(),
    schema="(SymInt count, int loop) -> SymInt",
)
open_index.register_fake(lambda *_: torch.library.get_ctx().new_dynamic_size(min=0))
# What a step is given under a number; a copy, as it may be written to.
start = _marker("loop_start", "(Tensor x, int loop, int place) -> Tensor", lambda x, *_: x.clone())
# One of all that it ends with, by its place among the numbers. Each has all of it, and what
# it was given, so that nothing is lost that only the next step reads.
end = _marker(
    "loop_end",
    "(Tensor[] ends, Tensor[] starts, int loop, int[] places, int place) -> Tensor",
    lambda ends, _, __, places, place: ends[places.index(place)].clone(),
)


# What all steps put into a list, joined as torch joins them, behind what stood in it before.
# It too has all that a step ends with and was given.
joined = _marker(
    "loop_joined",
    "(Tensor piece, Tensor[] ends, Tensor[] starts, Tensor[] before, int loop, int[] places,"
    " int axis, int stacked, int dtype, SymInt[] shape) -> Tensor",
    lambda piece, *rest: piece.new_empty(rest[-1]),
)
