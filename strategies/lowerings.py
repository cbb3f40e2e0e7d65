"""Our own lowerings, for operators that torchlib lacks or lowers so that results differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript import evaluator, opset18
from onnxscript.function_libs.torch_lib.ops import core
from onnxscript.function_libs.torch_lib.tensor_typing import TFloat, TReal, TTensor
from onnxscript.onnx_types import BOOL, INT64

from strategies import loop_markers, scans, whole

Value = Any  # an ONNX value that is being recorded

# Its own annotations know only numpy-like values.
op: Any = opset18


def size(tensor: TTensor) -> INT64:
    """Number of elements.

    torch.onnx reads the kinds of the arguments off the annotations.
    """
    result: INT64 = op.Size(tensor)
    return result


def stride(tensor: TTensor, axis: int) -> INT64:
    """Distance in elements between neighbours along an axis; ONNX tensors are contiguous.

    torch.onnx reads the kinds of the arguments off the annotations.
    """
    shape: Any = tensor.shape
    following = op.Shape(tensor, start=axis % len(shape) + 1)
    result: INT64 = op.ReduceProd(following, keepdims=0)
    return result


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


def index(tensor: Value, indices: Sequence[Value | None]) -> Value:
    """Reads at several indices, of which some may be masks."""
    return core.aten_index(tensor, _positions(indices))


def index_put(
    tensor: TReal,
    indices: Sequence[INT64 | BOOL | None],
    values: TReal,
    accumulate: bool = False,  # noqa: FBT001, FBT002 - the operator's arguments
) -> TReal:
    """Writes at several indices, of which some may be masks.

    torch.onnx reads the kinds of the arguments off the annotations.
    """
    result: TReal = core.aten_index_put(tensor, _positions(indices), values, accumulate)
    return result


def _positions(indices: Sequence[Value | None]) -> Sequence[Value | None]:
    """Masks among several indices as the positions that they choose, as PyTorch has it.

    torchlib takes a mask alone, or masks of one axis each.
    """
    if len(indices) == 1:
        return indices
    positions: list[Value | None] = []
    for given in indices:
        if given is None or given.dtype != ir.DataType.BOOL:
            positions.append(given)
            continue
        chosen = op.NonZero(given)
        rank = len(given.shape)
        for axis in range(rank):
            one = op.Gather(chosen, op.Constant(value_int=axis), axis=0)
            one.dtype, one.shape = ir.DataType.INT64, ir.Shape([None])
            positions.append(one)
    return positions


def linear_recurrence(factors: Value, terms: Value, axis: int) -> Value:
    """All states of `state = factor * state + term` along an axis, from zeros on."""
    axis %= len(terms.shape)
    first = op.Gather(terms, op.Constant(value_int=0), axis=axis)
    start = op.Expand(op.CastLike(0.0, first), op.Shape(first))
    scan = scans.scan_node(start, factors, terms, axis, terms.dtype)
    recorder: Any = evaluator.default()
    recorder.nodes.append(scan)
    return scan.outputs[1]


def loop_index(count: INT64, loop: int) -> INT64:
    """The number of a loop's step, a marker as those that follow."""
    result: INT64 = _marker(loop_markers.INDEX, [count], loop=loop)
    return result


def loop_start(x: TTensor, loop: int, place: int) -> TTensor:
    """What a step is given."""
    result: TTensor = _marker(loop_markers.START, [x], loop=loop, place=place)
    return result


def loop_end(
    ends: Sequence[TTensor],
    starts: Sequence[TTensor],
    loop: int,
    places: Sequence[int],
    place: int,
) -> TTensor:
    """What a step ends with."""
    inputs = [*ends, *starts]
    result: TTensor = _marker(loop_markers.END, inputs, loop=loop, places=list(places), place=place)
    return result


def loop_joined(  # noqa: PLR0913, PLR0917 - the operator's arguments
    piece: TTensor,
    ends: Sequence[TTensor],
    starts: Sequence[TTensor],
    before: Sequence[TTensor],
    loop: int,
    places: Sequence[int],
    axis: int,
    stacked: int,
    dtype: int,
    _shape: Sequence[INT64],
) -> TTensor:
    """What all steps add to a list, joined."""
    kind = {"loop": loop, "axis": axis, "stacked": stacked, "dtype": dtype}
    inputs = [piece, *ends, *starts, *before]
    result: TTensor = _marker(loop_markers.JOINED, inputs, **kind, places=list(places))
    return result


def _marker(kind: str, inputs: Sequence[Value], **attributes: Any) -> Value:
    places = attributes.pop("places", None)
    if places is not None:
        attributes["places"] = ir.AttrInt64s("places", places)
    node = ir.node(kind, inputs, attributes, domain=loop_markers.DOMAIN)
    recorder: Any = evaluator.default()
    recorder.nodes.append(node)
    return node.outputs[0]


def _iteration(name: str) -> Callable[..., Any]:
    iteration = whole.ITERATIONS[name]

    def lower(*inputs: Value) -> Value:
        scan = iteration.node(inputs, inputs[0].dtype)
        recorder: Any = evaluator.default()
        recorder.nodes.append(scan)
        return scan.outputs[0] if len(scan.outputs) == 1 else tuple(scan.outputs)

    return lower


ITERATIONS: Mapping[str, Callable[..., Any]] = {name: _iteration(name) for name in whole.ITERATIONS}


def conv3d(  # noqa: PLR0913, PLR0917 - the operator's arguments
    tensor: TFloat,
    weight: TFloat,
    bias: TFloat | None = None,
    stride: Sequence[int] = (1, 1, 1),
    padding: Sequence[int] = (0, 0, 0),
    dilation: Sequence[int] = (1, 1, 1),
    groups: int = 1,
) -> TFloat:
    """Convolution in three dimensions; torchlib's makes up a missing bias of two axes.

    torch.onnx reads the kinds of the arguments off the annotations.
    """
    if bias is None:
        bias = op.Expand(op.CastLike(0.0, tensor), op.Shape(weight, start=0, end=1))
    result: TFloat = core.aten_conv3d(tensor, weight, bias, stride, padding, dilation, groups)
    return result


def determinant(tensor: Value) -> tuple[Value, None, None]:
    """And nothing of the factors that the operator gives besides."""
    return op.Det(tensor), None, None


def squeeze(tensor: TTensor, dim: int) -> TTensor:
    """Without an axis, if that is of length 1; ONNX refuses any other.

    A length that is a symbol is another, as the capture took it.
    """
    return squeeze_all(tensor, (dim,))


def squeeze_all(tensor: TTensor, dims: Sequence[int]) -> TTensor:
    """Without those of the axes that are of length 1."""
    shape: Any = tensor.shape
    gone = [dim for dim in dims if len(shape) and shape[dim] == 1]
    result: TTensor = (
        op.Squeeze(tensor, op.Constant(value_ints=gone)) if gone else op.Identity(tensor)
    )
    return result


def complex_unsqueeze(tensor: Value, axis: int) -> Value:
    """A new axis of length 1; complex numbers are pairs on an axis of their own, the last."""
    return op.Unsqueeze(tensor, op.Constant(value_ints=[axis % len(tensor.shape)]))


def complex_size(tensor: Value, axis: int) -> Value:
    """Length of an axis."""
    axis %= len(tensor.shape) - 1
    return op.Squeeze(op.Shape(tensor, start=axis, end=axis + 1))


def complex_select(tensor: Value, axis: int, place: Value | int) -> Value:
    """One slice along an axis."""
    axis %= len(tensor.shape) - 1
    return op.Gather(
        tensor, op.Constant(value_int=place) if isinstance(place, int) else place, axis=axis
    )


def complex_exp(tensor: Value) -> Value:
    """By Euler's formula."""
    real, imaginary = op.Split(tensor, num_outputs=2, axis=-1)
    circle = op.Concat(op.Cos(imaginary), op.Sin(imaginary), axis=-1)
    return op.Mul(op.Exp(real), circle)


def complex_mul(tensor: Value, other: Value | float) -> Value:
    """A product with a complex tensor or a real number."""
    if isinstance(other, int | float):
        return op.Mul(tensor, _constant(other, tensor))
    return core.aten_mul_complex(tensor, other)


def _lower_triangle(query: Value, key: Value) -> Value:
    lengths = op.Concat(op.Shape(query, start=2, end=3), op.Shape(key, start=2, end=3), axis=0)
    ones = op.Expand(op.Constant(value_int=1), lengths)
    return op.Cast(op.Trilu(ones, upper=0), to=ir.DataType.BOOL)


def _constant(number: float, like: Value) -> Value:
    return op.Constant(value=ir.tensor(number, dtype=like.dtype))


def _lowest(like: Value) -> float:
    return float(like.dtype.min)


# Of what a loop's step is captured between.
MARKERS: Mapping[str, Callable[..., Any]] = {
    "loop_open_index": loop_index,
    "loop_start": loop_start,
    "loop_end": loop_end,
    "loop_joined": loop_joined,
}
OWN: Mapping[str, Callable[..., Any]] = {
    "aten::sym_numel": size,
    "aten::sym_stride.int": stride,
    "aten::zero": zero,
    "aten::copy": copy,
    "aten::index.Tensor": index,
    "aten::_unsafe_index.Tensor": index,
    "aten::index_put": index_put,
    "aten::_unsafe_index_put": index_put,
    "aten::_linalg_det": determinant,
    "aten::squeeze.dim": squeeze,
    "aten::squeeze.dims": squeeze_all,
    "autoexport::linear_recurrence": linear_recurrence,
    **{f"autoexport::{name}": function for name, function in MARKERS.items()},
    "aten::_scaled_dot_product_flash_attention_for_cpu": attention,
    **{f"autoexport::{name}": lower for name, lower in ITERATIONS.items()},
}

# On complex numbers.
COMPLEX: Mapping[str, Callable[..., Any]] = {
    "aten::unsqueeze": complex_unsqueeze,
    "aten::sym_size.int": complex_size,
    "aten::select.int": complex_select,
    "aten::exp": complex_exp,
    "aten::squeeze.dim": core.aten_squeeze_dim_complex,
    "aten::mul.Tensor": complex_mul,
}

# Operators that go to the torchlib function of another.
SAME_AS: Mapping[str, str] = {
    "autoexport::lstm": "aten::lstm.input",
    "autoexport::gru": "aten::gru.input",
}
