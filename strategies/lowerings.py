"""Our own lowerings, for operators that torchlib lacks or lowers so that results differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript import opset18

Value = Any  # an ONNX value that is being recorded

# Its own annotations know only numpy-like values.
op: Any = opset18


def size(tensor: Value) -> Value:
    """Number of elements."""
    return op.Size(tensor)


def stride(tensor: Value, axis: int) -> Value:
    """Distance in elements between neighbours along an axis; ONNX tensors are contiguous."""
    following = op.Shape(tensor, start=axis % len(tensor.shape) + 1)
    return op.ReduceProd(following, keepdims=0)


def zero(tensor: Value) -> Value:
    """Zeros of the tensor's shape."""
    return op.Expand(_constant(0, tensor), op.Shape(tensor))


def copy(target: Value, source: Value, _non_blocking: bool = False) -> Value:  # noqa: FBT001, FBT002 - the operator's arguments
    """The source, in the target's dtype and shape."""
    if source.dtype != target.dtype:
        cast = op.Cast(source, to=target.dtype)
        cast.shape = source.shape
        source = cast
    if source.shape is None or source.shape != target.shape:
        return op.Expand(source, op.Shape(target))
    return op.Identity(source)


def attention(  # noqa: PLR0913 - the operator's arguments
    query: Value,
    key: Value,
    value: Value,
    _dropout: float = 0.0,
    is_causal: bool = False,  # noqa: FBT001, FBT002 - the operator's arguments
    *,
    attn_mask: Value | None = None,
    scale: float | None = None,
) -> tuple[Value, None]:
    """Scaled dot-product attention on (batch, heads, length, width).

    As in PyTorch, a query that may attend to nothing gives zeros; torchlib's lowering
    gives NaN there, which the next layer spreads over the whole sequence.
    """
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    scaled = op.Mul(query, _constant(factor, query))
    scores = op.MatMul(scaled, op.Transpose(key, perm=[0, 1, 3, 2]))
    if is_causal:
        visible = _lower_triangle(query, key)
        scores = op.Where(visible, scores, _constant(_lowest(query), query))
    if attn_mask is None:
        return op.MatMul(op.Softmax(scores, axis=-1), value), None
    bias = op.Max(attn_mask, _constant(_lowest(query), query))
    context = op.MatMul(op.Softmax(op.Add(scores, bias), axis=-1), value)
    widest = op.ReduceMax(attn_mask, op.Constant(value_ints=[-1]), keepdims=1)
    attends = op.Greater(widest, _constant(-np.inf, query))
    return op.Where(attends, context, _constant(0, query)), None


def _lower_triangle(query: Value, key: Value) -> Value:
    lengths = op.Concat(op.Shape(query, start=2, end=3), op.Shape(key, start=2, end=3), axis=0)
    ones = op.Expand(op.Constant(value_int=1), lengths)
    return op.Cast(op.Trilu(ones, upper=0), to=ir.DataType.BOOL)


def _constant(number: float, like: Value) -> Value:
    return op.Constant(value=ir.tensor(number, dtype=like.dtype))


def _lowest(like: Value) -> float:
    return float(like.dtype.min)


OWN: Mapping[str, Callable[..., Any]] = {
    "aten::sym_numel": size,
    "aten::sym_stride.int": stride,
    "aten::zero": zero,
    "aten::copy": copy,
    "aten::_scaled_dot_product_flash_attention_for_cpu": attention,
}

# Operators that go to the torchlib function of another.
SAME_AS: Mapping[str, str] = {
    "autoexport::lstm": "aten::lstm.input",
    "autoexport::gru": "aten::gru.input",
}
