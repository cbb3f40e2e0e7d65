"""Type promotion that eager PyTorch does silently and ONNX operators refuse to do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload
from torch._prims_common import ELEMENTWISE_TYPE_PROMOTION_KIND, elementwise_dtypes

# Arguments that take no part in promotion.
_SELECTORS = frozenset({"condition", "mask", "alpha", "value_scale"})
_JOINS = frozenset({"cat", "stack", "concat"})
_REDUCTIONS = frozenset({"sum", "prod", "mean", "cumsum", "cumprod", "nansum"})


def casts(node: fx.Node) -> dict[fx.Node, torch.dtype]:
    """Which arguments of a recorded operator to cast first, and to what."""
    if not isinstance(node.target, OpOverload):
        return {}
    name = node.target.overloadpacket.__name__
    if torch.Tag.pointwise in node.target.tags:
        return _pointwise(node)
    if name in _JOINS or name in _REDUCTIONS:
        return _to_result(node)
    return {}


def _pointwise(node: fx.Node) -> dict[fx.Node, torch.dtype]:
    operands = list(_operands(node))
    result = node.meta.get("val")
    if not operands or not isinstance(result, torch.Tensor) or result.dtype.is_complex:
        return {}
    common = result.dtype
    if common is torch.bool:
        # A comparison: what it compares in does not show in its result.
        common, _ = elementwise_dtypes(
            *(value for _, value in operands),
            type_promotion_kind=ELEMENTWISE_TYPE_PROMOTION_KIND.DEFAULT,
        )
    return {
        argument: common
        for argument, value in operands
        if isinstance(argument, fx.Node) and _kind(value) not in {common, None}
    }


def _to_result(node: fx.Node) -> dict[fx.Node, torch.dtype]:
    result = node.meta.get("val")
    first = node.args[0]
    arguments = first if isinstance(first, list | tuple) else [first]
    return {
        argument: result.dtype
        for argument in arguments
        if isinstance(result, torch.Tensor)
        and isinstance(argument, fx.Node)
        and _kind(argument.meta.get("val")) != result.dtype
    }


def _operands(node: fx.Node) -> Iterator[tuple[Any, Any]]:
    """Each argument that promotion looks at, with its fake tensor or number."""
    if not isinstance(node.target, OpOverload):
        return
    for argument, parameter in zip(node.args, node.target._schema.arguments, strict=False):  # noqa: SLF001 - torch's schemas have no public name
        value = argument.meta.get("val") if isinstance(argument, fx.Node) else argument
        if parameter.name not in _SELECTORS and isinstance(value, _OPERAND_TYPES):
            yield argument, value


_OPERAND_TYPES = (torch.Tensor, torch.SymInt, torch.SymFloat, int, float, complex)


def _kind(value: object) -> torch.dtype | None:
    """The dtype that an operand has in ONNX, or None where it is written as needed."""
    if isinstance(value, torch.Tensor):
        return value.dtype
    if isinstance(value, torch.SymInt):
        return torch.int64
    return torch.float32 if isinstance(value, torch.SymFloat) else None
