"""Normalisation, attention and linear algebra, composed of functions that the exporter lowers."""

# mypy: allow-untyped-calls
# ruff: noqa: A002, FBT001, FBT002, N803, PLR0913, PLR0917 - the signatures are torch's
from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from strategies import whole
from strategies.compositions.tables import Table, composing
from strategies.torchscript import is_tracing

TABLE: Table = {}
composes = composing(TABLE)


@composes("rms_norm")
def _rms_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Any:
    x = input.float() if input.dtype in {torch.float16, torch.bfloat16} else input
    axes = tuple(range(-len(normalized_shape), 0))
    smallest = torch.finfo(x.dtype).eps if eps is None else eps
    x = x * torch.rsqrt((x * x).mean(axes, keepdim=True) + smallest)
    return (x if weight is None else x * weight).to(input.dtype)


@composes("scaled_dot_product_attention")
def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    if enable_gqa:
        groups = int(query.shape[-3]) // int(key.shape[-3])
        key, value = (item.repeat_interleave(groups, -3) for item in (key, value))
    if is_causal:
        places = torch.arange(query.shape[-2]), torch.arange(key.shape[-2])
        attn_mask = places[0].unsqueeze(-1) >= places[1]
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    scores = (query * factor) @ key.transpose(-2, -1)
    if attn_mask is None or attn_mask.dtype is not torch.bool:
        scores = scores if attn_mask is None else scores + attn_mask
        return F.dropout(torch.softmax(scores, -1), dropout_p) @ value
    # What may look nowhere gives zeros.
    seeing = attn_mask.any(-1, keepdim=True)
    scores = torch.where(attn_mask | ~seeing, scores, torch.full_like(scores, float("-inf")))
    found = F.dropout(torch.softmax(scores, -1), dropout_p) @ value
    return torch.where(seeing, found, torch.zeros_like(found))


def _convolution(name: str) -> Callable[..., Any]:
    """With a kernel of known shape, which the exporter asks for, where it was computed."""
    function = getattr(F, name)

    def convolve(input: Tensor, weight: Tensor, *args: Any, **options: Any) -> Any:
        if not isinstance(weight, torch.nn.Parameter):
            weight = weight.reshape([int(size) for size in weight.shape])
        return function(input, weight, *args, **options)

    return convolve


for _rank in (1, 2, 3):
    for _name in (f"conv{_rank}d", f"conv_transpose{_rank}d"):
        composes(_name)(_convolution(_name))


@composes("outer", "ger")
def _outer(x: Tensor, y: Tensor) -> Any:
    return x.unsqueeze(-1) * y


@composes("cdist")
def _cdist(x: Tensor, y: Tensor, p: float = 2.0, **options: Any) -> Any:
    if p == 2 and is_tracing():
        return torch.cdist(x, y, p, **options)
    return torch.linalg.vector_norm(x.unsqueeze(-2) - y.unsqueeze(-3), p, -1)


@composes("bilinear")
def _bilinear(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    outputs, width, other = (int(size) for size in weight.shape)
    mixed = (y @ weight.reshape(outputs * width, other).t()).unflatten(-1, (outputs, width))
    product = (mixed * x.unsqueeze(-2)).sum(-1)
    return product if bias is None else product + bias


@composes("multi_dot")
def _multi_dot(tensors: Sequence[Tensor]) -> Any:
    """From left to right; which order is the cheapest depends on sizes."""
    return functools.reduce(torch.matmul, tensors)


@composes("embedding_bag")
def _embedding_bag(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Any:
    """Of bags of one size; others are left to the exporters."""
    if input.dim() != 2 or max_norm is not None or padding_idx is not None:
        return F.embedding_bag(
            *(input, weight, offsets, max_norm, norm_type, scale_grad_by_freq, mode, sparse),
            *(per_sample_weights, include_last_offset, padding_idx),
        )
    vectors = F.embedding(input, weight)
    if per_sample_weights is not None:
        vectors = vectors * per_sample_weights.unsqueeze(-1)
    return vectors.amax(1) if mode == "max" else getattr(vectors, mode)(1)


@composes("vdot")
def _vdot(x: Tensor, y: Tensor) -> Any:
    return (x * y).sum()


@composes("trace")
def _trace(x: Tensor) -> Any:
    return x.diagonal().sum()


@composes("matrix_power")
def _matrix_power(x: Tensor, n: int) -> Any:
    result = torch.eye(x.shape[-1], dtype=x.dtype).expand_as(x)
    for _ in range(n):
        result = result @ x
    return result


@composes("cholesky")
def _cholesky(A: Tensor, upper: bool = False) -> Any:
    columns = whole.ITERATIONS["cholesky"].operator(A, torch.arange(A.shape[-1]))[1]
    return columns.mT if upper else columns


@composes("solve_triangular")
def _solve_triangular(
    A: Tensor,
    B: Tensor,
    *,
    upper: bool,
    left: bool = True,
    unitriangular: bool = False,
) -> Any:
    if not left:
        turned = (item.transpose(-2, -1) for item in (A, B))
        solved = _solve_triangular(*turned, upper=not upper, unitriangular=unitriangular)
        return solved.transpose(-2, -1)
    if _is_by_rows(A):
        return _by_rows(A, B, upper, unitriangular)
    if upper:
        inverse = _inverse_of_lower(A.transpose(-2, -1), unitriangular).transpose(-2, -1)
    else:
        inverse = _inverse_of_lower(A, unitriangular)
    return inverse @ B


def _is_by_rows(x: Tensor) -> bool:
    """Whether the size may be open; a trace does not say so, and many at once are of one size."""
    size: object = x.shape[-1]
    return x.dim() == 2 if is_tracing() else isinstance(size, torch.SymInt)


def _by_rows(x: Tensor, right: Tensor, upper: bool, unitriangular: bool) -> Any:
    if unitriangular:
        off = x.triu(1) if upper else x.tril(-1)
        x = off + torch.eye(x.shape[-1], dtype=x.dtype)
    if upper:
        x, right = x.flip(-2, -1), right.flip(-2)
    # Each of a batch has both, whichever had the axes of the batch.
    x, right = x + torch.zeros_like(right[..., :1, :1]), right + torch.zeros_like(x[..., :1, :1])
    places = torch.arange(x.shape[-1])
    found = whole.ITERATIONS["substitute"].operator(torch.zeros_like(right), x, right, places)
    return found.flip(-2) if upper else found


@composes("cholesky_solve")
def _cholesky_solve(B: Tensor, L: Tensor, upper: bool = False) -> Any:
    lower = L.transpose(-2, -1) if upper else L
    half = _solve_triangular(lower, B, upper=False)
    return _solve_triangular(lower.transpose(-2, -1), half, upper=True)


def _inverse_of_lower(x: Tensor, unitriangular: bool) -> Any:
    """The inverse, from blocks along the diagonal that double in size.

    What stands above the diagonal does not count; of [[A, 0], [C, B]] the inverse is
    [[1/A, 0], [-1/B C 1/A, 1/B]].
    """
    n = int(x.shape[-1])
    size = 1 << (n - 1).bit_length()
    on_diagonal = torch.eye(n, dtype=x.dtype)
    diagonal = torch.ones_like(x[..., 0]) if unitriangular else (x * on_diagonal).sum(-1)
    blocks = 1 / F.pad(diagonal, (0, size - n), value=1.0).unsqueeze(-1).unsqueeze(-1)
    x = F.pad(x, (0, size - n, 0, size - n))
    width = 1
    while width < size:
        count = size // (2 * width)
        grid = x.unflatten(-1, (count, 2 * width)).unflatten(-3, (count, 2 * width))
        pairs = grid.transpose(-3, -2).flatten(-4, -3)
        pairs = pairs.index_select(-3, torch.arange(count) * (count + 1))
        first, second = blocks.unflatten(-3, (count, 2)).unbind(-3)
        corner = -(second @ pairs[..., width:, :width] @ first)
        blocks = torch.cat([F.pad(first, (0, width)), torch.cat([corner, second], -1)], -2)
        width *= 2
    return blocks.squeeze(-3)[..., :n, :n]


@composes("lstm")
def _lstm(input: Tensor, state: Any, *rest: Any) -> Any:
    """With a projection of the output, which ONNX does not know."""
    packed = not isinstance(state, list | tuple)
    if packed or state[0].shape[-1] == state[1].shape[-1]:
        return torch.lstm(input, state, *rest)
    weights, has_biases, layers, _dropout, _train, bidirectional, batch_first = rest
    x = input.transpose(0, 1) if batch_first else input
    directions = 2 if bidirectional else 1
    each = len(weights) // (layers * directions)
    hidden, cells = list[Tensor](), list[Tensor]()
    for layer in range(layers):
        said = []
        for index in range(layer * directions, (layer + 1) * directions):
            taken, kept, *biases, projection = weights[index * each : (index + 1) * each]
            backwards = index % directions == 1
            gates = (x.flip(0) if backwards else x) @ taken.t()
            gates = gates + biases[0] + biases[1] if has_biases else gates
            last, cell, steps = whole.ITERATIONS["projected_lstm"].operator(
                state[0][index], state[1][index], gates, kept.t(), projection.t()
            )
            steps = steps @ projection.t()
            said.append(steps.flip(0) if backwards else steps)
            hidden.append(last)
            cells.append(cell)
        x = torch.cat(said, -1)
    every = x.transpose(0, 1) if batch_first else x
    return every, torch.stack(hidden), torch.stack(cells)
