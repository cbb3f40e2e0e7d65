"""Compositions against the functions that they stand in for: in PyTorch, and in ONNX Runtime."""

# mypy: allow-untyped-calls
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from strategies.base import Candidate
from strategies.calling import flatten_outputs
from strategies.compositions import COMPOSITIONS
from strategies.exportable import exportable
from strategies.usage_based import UsageBasedStrategy
from tests.exporting import largest_error, request_for

Case = Callable[[Tensor], Any]
CAT: Any = torch.cat  # torch's annotations do not know all its names of arguments

ROWS, OTHER_ROWS = (2, 3, 8), (3, 3, 12)
IMAGES, OTHER_IMAGES = (2, 3, 8, 8), (3, 3, 10, 12)


def whole(x: Tensor) -> Tensor:
    """Small whole numbers, some of them negative."""
    return (x * 3).round().long()


def ids(x: Tensor) -> Tensor:
    """Whole numbers from 0 to 8."""
    return whole(x).abs().clamp(max=8)


def in_place(x: Tensor) -> tuple[Tensor, Tensor]:
    mask = whole(x) > 0
    mask |= x < -1
    mask &= x < 1.5
    mask ^= x > 1
    bits = ids(x)
    bits <<= 2
    bits |= 3
    bits >>= 1
    bits &= 7
    bits ^= 1
    return mask, bits


def placed(x: Tensor) -> Tensor:
    """Where a mask of the first axes holds, with further axes taken whole."""
    y = x.clone()
    mask = y[..., 0] > 0
    y[mask, :] = y[mask, :] + 1
    y[:, 1, ...] = 0.5
    y[mask & (y[..., 1] > 1)] = 2.0
    y[y > 1.5] = 1
    y[..., -1:] = y[..., :1]
    return y


def put_together(x: Tensor) -> tuple[Tensor, ...]:
    """Writes to stretches: from either end, along several axes, at one place."""
    y, length = x.clone(), x.shape[-1]
    y[:, 1:, length // 2 :] = x[:, :-1, : length - length // 2]
    y[0, :, -3:-1] = 7
    y[:, -1] = x[:1, 0]
    y[..., 0] = torch.ones(1, x.shape[0], 1, dtype=torch.int64)
    turned = (x * 2).transpose(0, 1)
    turned[:2, :, 1:-1] = 0.5
    turned[3:] = 1
    turned[1:, ..., ::2] = 3
    return y, turned


def interleaved(x: Tensor) -> Tensor:
    """Writes to every so many: of all, from the second on, and between two places."""
    batch, channels, length = x.shape
    waves = torch.zeros(batch, length, 2 * channels)
    angles = torch.ones(batch, length).cumsum(1).unsqueeze(-1) * torch.arange(channels)
    waves[..., 0::2] = angles.sin() + x.mT
    waves[..., 1::2] = angles.cos()
    waves[1:, 1:-1:3, -1] = 5
    waves[:, ::4] = waves[:, :1] * 2
    return waves


def chunks(x: Tensor) -> tuple[Tensor, ...]:
    """Overlapping ones, read from memory: of every row, of turned rows, and of one piece."""
    batch, channels, length = x.shape
    wide = x.contiguous().view(batch, -1, 4, channels)
    steps = list(wide.stride())
    steps[1] //= 2
    return (
        wide.as_strided([batch, wide.shape[1] * 2 - 1, 4, channels], steps),
        x.mT.as_strided((batch, channels, 3, 2), (*x.stride()[:2], 2, 1)),
        x.as_strided((batch, length - 1), (channels * length, 1), storage_offset=1),
        x.as_strided((batch, channels, 2), x.stride()),
    )


def written(x: Tensor) -> Tensor:
    y = x.clone()
    return y.expm1_().trunc_()


def square(x: Tensor) -> Tensor:
    return x @ x.mT / 8 + 3 * torch.eye(x.shape[1], dtype=x.dtype)


MODES = ("bilinear", "bicubic", "area", "nearest-exact")


def resized(mode: str, target: Callable[[Tensor], dict[str, Any]]) -> Case:
    smooth = mode in {"bilinear", "bicubic"}
    return lambda x: F.interpolate(x, **target(x), mode=mode, antialias=smooth)


ELEMENTWISE: dict[str, Case] = {
    "expm1": torch.expm1,
    "exp2": lambda x: x.exp2(),
    "sinc": lambda x: torch.sinc(x.round()) + torch.special.sinc(x),
    "xlogy": lambda x: torch.xlogy(x.abs().round(), x.abs().round()) + torch.xlogy(2.0, x.exp()),
    "logaddexp": lambda x: torch.logaddexp(x, torch.full_like(x, float("-inf"))),
    "erfc": torch.erfc,
    "entr": lambda x: torch.special.entr(x.relu()),
    "hyperbolic": lambda x: (torch.cosh(x * 30), torch.sinh(x * 1e-3), (x * 30).sinh()),
    "special": lambda x: (
        torch.erfinv(x.float().tanh()),
        torch.lgamma(x * 3),
        x.abs().lgamma() + torch.digamma(x.double() * 2),
        torch.special.i0(x * 9),
    ),
    "signs": lambda x: (
        torch.signbit(x.round() * 0.0),
        x.copysign(-1.0),
        torch.copysign(x, x.flip(-1).round() * -1),
    ),
    "atanh": lambda x: torch.atanh(x.tanh() * 0.9),
    "asinh": lambda x: torch.asinh(x * 100),
    "acosh": lambda x: torch.acosh(x.abs() + 1),
    "trunc": lambda x: (torch.trunc(x * 3), whole(x).fix()),
    "frac": lambda x: torch.frac(x * 3),
    "sgn": lambda x: (x.sgn(), whole(x).sgn()),
    "hypot": lambda x: torch.hypot(x, x + 1),
    "fmax": lambda x: torch.fmax(torch.log(x), x),
    "fmin": lambda x: torch.fmin(torch.log(x), x),
    "infinite": lambda x: (torch.isposinf(x / 0), (x / 0).isneginf()),
    "heaviside": lambda x: torch.heaviside(x.round(), torch.tensor(0.5, dtype=x.dtype)),
    "ldexp": lambda x: torch.ldexp(x, ids(x)),
    "addcdiv": lambda x: torch.addcdiv(x, x, x.abs() + 1, value=2),
    "threshold": lambda x: F.threshold(x, 0.1, 5),
    "floor_divide": lambda x: (torch.floor_divide(x, 0.7), whole(x) // 2, whole(x) // -3),
    "shifts": lambda x: (whole(x) >> 1, whole(x) >> ids(x), 5 - whole(x).bitwise_right_shift(2)),
    "bitwise": lambda x: (whole(x) | ids(x), whole(x) ^ 5, 3 | ids(x), ~whole(x)),
    "filled": lambda x: (
        torch.full_like(x > 0, True),
        (x > 0).masked_fill(x < 1, True) & (x < 2).masked_fill_(x > 1.5, False),
        torch.where(x > 0, x < 1, x < -1) & (x > 0).where(x < 1, x < 2),
        x.where(x > 0, 1) + torch.where(x > 0, x, 0.5) + torch.where(x[0] > 0)[0].sum(),
        (x > 0).masked_fill(x > 1, torch.tensor(False)),
        (x > 0).index_fill(-1, torch.tensor([0, 2]), True),
        torch.full_like(x, fill_value=2.5),
    ),
    "in place": in_place,
    "written": written,
}
LEARNING: dict[str, Case] = {
    "label smoothing": lambda x: (
        F.cross_entropy(x[:, 0], ids(x)[:, 1, 0], label_smoothing=0.1),
        F.cross_entropy(x, ids(x)[:, 1].clamp(max=2), label_smoothing=0.3, reduction="none"),
        F.cross_entropy(
            x, ids(x)[:, 1].clamp(max=2), x[0, :, 0].abs(), ignore_index=1, label_smoothing=0.2
        ),
        F.cross_entropy(x[0], ids(x)[0, :, 0].clamp(max=7), label_smoothing=0.1, reduction="sum"),
        F.cross_entropy(x, x.softmax(1), x[0, :, 0].abs(), label_smoothing=0.1),
        F.cross_entropy(x, x.softmax(1), reduction="none"),
    ),
    "smooth l1 loss": lambda x: (
        F.smooth_l1_loss(x, x.flip(-1), beta=0.5),
        F.smooth_l1_loss(x, x.flip(-1), reduction="none", beta=0.0),
    ),
    "batch statistics": lambda x: (
        nn.BatchNorm1d(3, track_running_stats=False, affine=False)(x),
        F.batch_norm(x[:, :, 0], None, None, x[0, :, 1], x[1, :, 1], training=True),
        F.batch_norm(x, x[0, :, 0], x[0, :, 1].abs(), training=False),
    ),
}
COUNTING: dict[str, Case] = {
    "histc": lambda x: (torch.histc(x, 9, -1, 1), ids(x).to(x.dtype).histc(9, 0, 8), x.histc(5)),
    "bincount": lambda x: (ids(x).flatten().bincount(), torch.bincount(ids(x)[0, 0], x[0, 0], 12)),
    "count_nonzero": lambda x: (ids(x).count_nonzero(), torch.count_nonzero(ids(x), dim=1)),
    "nansum": lambda x: torch.nansum(torch.log(x), -1, keepdim=True),
    "nanmean": lambda x: (torch.log(x + 1).nanmean(1), torch.nanmean(torch.log(x))),
    "kthvalue": lambda x: x.kthvalue(2, 1),
    "median": lambda x: (x.median(-1), x.median()),
    "quantile": lambda x: (
        x.quantile(0.3, -1),
        torch.quantile(x, torch.tensor([0.25, 1.0], dtype=x.dtype), 1, keepdim=True),
        torch.quantile(x, 0.6, interpolation="nearest"),
    ),
    "cumprod": lambda x: (torch.cumprod(x, 1), ids(x).clamp(1, 2).cumprod(1)),
    "logcumsumexp": lambda x: torch.logcumsumexp(x, 1),
    "cummax": lambda x: (torch.cummax(x, -1), whole(x).cummax(1)),
    "cummin": lambda x: (torch.cummin(x, 0), whole(x).cummin(-1)),
}
MOVING: dict[str, Case] = {
    "index_put adds up": lambda x: (
        torch.zeros_like(x).index_put((ids(x)[:, 0, 0] % 2,), x, accumulate=True),
        x.clone().index_put_(
            (ids(x)[:, 0] % 2, ids(x)[:, 1] % 3 - 3), x[:, 0, :, None], accumulate=True
        ),
        x.index_put((ids(x)[0, :, 0] % 2,), torch.tensor(2.0, dtype=x.dtype)),
    ),
    "unfold": lambda x: (x.unfold(-1, 4, 2), x.unfold(dimension=1, size=2, step=1)),
    "unique_consecutive": lambda x: torch.unique_consecutive(
        ids(x).flatten().sort()[0], return_inverse=True, return_counts=True
    ),
    "unique rows": lambda x: ids(x / 9)[:, :2, :2].unique_consecutive(dim=0),
    "isin": lambda x: (
        torch.isin(ids(x), torch.tensor([1, 3])),
        torch.isin(ids(x), 3, invert=True),
    ),
    "take_along_dim": lambda x: (
        torch.take_along_dim(x, x.argsort(-1)[:, :1], -1),
        x.take_along_dim(ids(x)),
    ),
    "searchsorted": lambda x: (
        torch.searchsorted(torch.tensor([-1.0, 0.0, 0.5], dtype=x.dtype), x),
        torch.searchsorted(whole(x).sort(-1)[0], whole(x), right=True, out_int32=True),
    ),
    "bucketize": lambda x: (
        torch.bucketize(x, torch.tensor([-1.0, 0.0, 0.5], dtype=x.dtype)),
        torch.bucketize(whole(x), torch.tensor([-1, 0, 2]), out_int32=True, right=True),
    ),
    "argwhere": lambda x: torch.argwhere(x > 0),
    "stable sort": lambda x: (torch.sort(ids(x), stable=True, dim=1), x.argsort(stable=True)),
    "msort": torch.msort,
    "select_scatter": lambda x: torch.select_scatter(x, x[..., 0], -1, 1),
    "slice_scatter": lambda x: torch.slice_scatter(x, x[..., :2], -1, 1, 5, 2),
    "triangles": lambda x: (
        x[..., torch.tril_indices(3, 4)[1]],
        torch.triu_indices(x.shape[-1], 5, 1),
    ),
    "diag_embed": lambda x: (torch.diag_embed(x), x.diag_embed(1), x.diag_embed(-2, 1, 0)),
    "fill_diagonal": lambda x: (
        (x[0] * 1).fill_diagonal_(5.0),
        x[0].t().repeat(2, 1).fill_diagonal_(-1, wrap=True),
        (x[:2, :2, :2] * 1).fill_diagonal_(0.5),
    ),
    "roll": lambda x: (torch.roll(x, (1, -1), (1, 2)), x.roll(3), x.roll(x.shape[-1] // 2, -1)),
    "repeat_interleave": lambda x: (
        x.repeat_interleave(2, -1),
        torch.repeat_interleave(x, torch.tensor(3)),
        torch.repeat_interleave(x, ids(x)[0, 0, :3], dim=1),
        torch.repeat_interleave(ids(x)[0, 1]),
        x.sum(-1),
    ),
    "flips": lambda x: (torch.fliplr(x), torch.flipud(x)),
    "rot90": lambda x: tuple(torch.rot90(x, turns, (1, 2)) for turns in range(4)),
    "movedim": lambda x: (x.movedim(0, -1), x.movedim((-1, 0), (0, -2)), torch.moveaxis(x, 1, 0)),
    "permute": lambda x: (x.permute(0, -1, -2), torch.permute(x, (-1, 0, 1))),
    "pad_sequence": lambda x: nn.utils.rnn.pad_sequence([x[0].mT, x[1].mT[2:]], True, 7.0),
    "ravel": lambda x: x.mT.ravel(),
    "channel_shuffle": lambda x: F.channel_shuffle(x.repeat(1, 2, 1), 2),
    "stacks": lambda x: (torch.dstack([x[0], x[1]]), torch.column_stack([x[0, 0], x[1].mT])),
    "block_diag": lambda x: torch.block_diag(x[0], x[1, 0], x[1]),
    "cartesian_prod": lambda x: torch.cartesian_prod(torch.arange(x.shape[2]), torch.arange(3)),
    "vander": lambda x: (torch.vander(x[0, 0], 3), torch.vander(x[0, 0], increasing=True)),
    "kron": lambda x: torch.kron(x[0], x[1, :, :2]),
    "scatter": lambda x: (
        (x > 0).scatter(-1, ids(x).clamp(max=7), True),
        x.scatter(-1, ids(x).clamp(max=7), value=0.5),
        torch.scatter(x, 1, ids(x).clamp(max=0), x),
    ),
    "index_add": lambda x: (
        x.index_add(-1, ids(x)[0, 0].clamp(max=7), x, alpha=0.5),
        torch.zeros_like(x).index_add_(0, torch.tensor([1, 1, 0, 1]), x[[0, 1, 1, 0]]),
    ),
    "scatter_reduce": lambda x: tuple(
        values.scatter_reduce(1, ids(x).clamp(max=1), values, how, include_self=whole_)
        for values, how, whole_ in (
            (x, "amax", False),
            (x, "sum", False),
            (x, "mean", False),
            (x, "amin", True),
            (x, "mean", True),
            (whole(x), "mean", False),
        )
    ),
    "one_hot": lambda x: (F.one_hot(ids(x)), F.one_hot(ids(x), 10)),
    "placed": placed,
    "put together": put_together,
    "interleaved": interleaved,
    "mT": lambda x: x.mT,
}
SIZES: dict[str, Case] = {
    "split": lambda x: (
        *x.split(x.shape[-1] // 2, -1),
        *torch.split(x, [2, x.shape[-1] - 2], -1),
        *x.split(2, 1),
        *torch.split(x, 100, -1),  # more than there are
        *x.split(2, dim=1)[1:],  # the last one is shorter
    ),
    "strides": lambda x: (
        x.sum() * torch.tensor([*x.stride(), *x.mT.stride(), x.stride(0)]),
        x.as_strided((x.shape[0], x.shape[-1] - 1, 2), (x.stride(0), 1, x.stride(1))),
        x.mT.as_strided((3, 4), (2, 1), 5),
    ),
    "chunks": chunks,
    # As many pieces as rows, and another number of rows in the other size.
    "pieces": lambda x: torch.cat(x.flatten(0, 1).split((ids(x)[:, 0, 0] * 0 + 3).tolist())),
    "flattened pieces": lambda x: torch.cat(
        [part.reshape(-1, 3) for part in x.mT.split((ids(x)[:, 0, 0] * 0 + 1).tolist())]
    ),
    "elements": lambda x: (
        torch.cat(list(x)),
        torch.stack(x.unbind()),
        torch.stack(x[:2].unbind(1), 1),
    ),
    "names as in NumPy": lambda x: (CAT([x, x], axis=1), CAT([x], axis=0)),
    "tensor": lambda x: x.sum() * torch.tensor([[x.shape[0], 2], [3.0, x.shape[-1]]]),
    "as_tensor": lambda x: (
        torch.as_tensor([(x.shape[0], 2), (3, x.shape[-1])], dtype=torch.int64) * x.sum(),
        torch.as_tensor(x, dtype=torch.float64),
        torch.as_tensor([1, 2]),
    ),
    "new_tensor": lambda x: x.new_tensor([x.shape[-1], 2]) * x.sum(),
    "full": lambda x: (
        torch.full((x.shape[0],), x.shape[-1]) // 5 * x.sum(),
        torch.full((x.shape[-1],), 7),
    ),
    "squeeze": lambda x: (
        x[:, :1].squeeze(1),
        x.squeeze(0),
        torch.squeeze(x.sum((0, 2), keepdim=True)),
        x.sum().squeeze(),
        x.sum((0, 2), keepdim=True).squeeze((0, -1)),
    ),
    "numbers": lambda x: (
        torch.arange(ids(x).sum().item()) * x.sum(),
        x.flatten()[ids(x).max().int().item() : 9] * x.shape[0],
        torch.zeros(ids(x)[0, :2, :2].sum(-1).tolist()) + x.sum().item() * 0,
    ),
    "nothing": lambda x: torch.cat(
        [x, x[..., x.shape[-1] :].reshape(x.shape[0], x.shape[1], x.shape[-1] - x.shape[-1])], -1
    ),
    "linspace": lambda x: (
        torch.linspace(0.5, x.shape[-1] - 0.5, x.shape[-1], dtype=x.dtype) * x.sum(),
        torch.linspace(-1, 1, 7) + torch.linspace(2, 3, x.shape[0] // x.shape[0]),
        torch.linspace(x[0, 0, 0], 3.0, x.shape[0], dtype=x.dtype),
    ),
    "eye": lambda x: (
        torch.eye(x.shape[-1], dtype=torch.bool),
        torch.eye(x.shape[0], 3) + torch.eye(3, dtype=torch.int64)[0],
    ),
    "unflatten": lambda x: torch.ones(x.unflatten(-1, (2, -1)).shape) * x.sum(),
}
PRODUCTS: dict[str, Case] = {
    "rms_norm": lambda x: F.rms_norm(x.mT, (3,), x[0, :, 0]) + F.rms_norm(x.mT, (3,), eps=0.1),
    "grouped attention": lambda x: F.scaled_dot_product_attention(
        x.mT[:, None].repeat(1, 4, 1, 1),
        x.mT[:, None].repeat(1, 2, 1, 1),
        x.mT[:, None].repeat(1, 2, 1, 1),
        enable_gqa=True,
    ),
    "attention": lambda x: (
        F.scaled_dot_product_attention(x.mT, x.mT, x.mT, is_causal=True),
        F.scaled_dot_product_attention(x.mT, x.mT, x.mT, x[:, :1] - 1, scale=0.5),
    ),
    # Some of the queries may look nowhere.
    "masked attention": lambda x: F.scaled_dot_product_attention(
        x.mT, x.mT, x.mT, (x[:, 0].unsqueeze(-1) > 0) & (x[:, :1] > 0)
    ),
    "computed kernels": lambda x: (
        F.conv1d(x, torch.hann_window(5).to(x).expand(x.shape[1], 1, -1), groups=3),
        F.conv_transpose1d(x, x[0, :, :2].mean().expand(x.shape[1], 2, 4), stride=2),
    ),
    "outer": lambda x: torch.outer(torch.arange(x.shape[-1]), x[0, 0]),
    "cdist": lambda x: (torch.cdist(x.mT, x.mT + 1), torch.cdist(x.mT, x.mT, 1.0)),
    "vdot": lambda x: torch.vdot(x[0, 0], x[0, 1]),
    "cholesky": lambda x: (
        torch.linalg.cholesky(square(x)),
        torch.linalg.cholesky(square(x), upper=True),
    ),
    "cholesky_solve": lambda x: (
        torch.cholesky_solve(x, torch.linalg.cholesky(square(x))),
        torch.cholesky_solve(x, torch.linalg.cholesky(square(x)).mT, upper=True),
    ),
    "layers": lambda x: (
        F.bilinear(x.mT, x.mT[..., :2], x[0, :, :6].reshape(3, 3, 2), x[0, :, 0]),
        F.bilinear(x.mT, x.mT, x[0, :, :6].reshape(2, 3, 3)),
        F.rrelu(x),
        F.rrelu(x.clone(), 0.1, 0.5, inplace=True),
        torch.linalg.multi_dot([x[0].T, x[1], x[0].T, x[0, :, 0]]),
        torch.linalg.det(x[..., :3]),
    ),
    "bags": lambda x: tuple(
        F.embedding_bag(ids(x[:, 0]), x.flatten()[:45].view(9, 5), mode=mode)
        for mode in ("mean", "sum", "max")
    ),
    "eigenvalues": lambda x: (
        torch.linalg.eigh(square(x))[0],
        torch.linalg.eigh(square(x), UPLO="U").eigenvectors.square(),
        torch.linalg.svdvals(x),
        torch.linalg.svdvals(x.mT),
        (torch.diag(x[0, 0], 1), torch.diag(x[0], 1)),
    ),
    "adjoint": lambda x: (x.mH, torch.adjoint(x), x[0].H),
    "matrix_exp": lambda x: (torch.matrix_exp(x @ x.mT / 8), torch.matrix_exp(x[0, :, :3] * 9)),
    "trace": lambda x: torch.trace(square(x)[0]),
    "matrix_power": lambda x: torch.linalg.matrix_power(square(x), 3),
    "solve_triangular": lambda x: (
        torch.linalg.solve_triangular(square(x).tril(), x, upper=False),
        torch.linalg.solve_triangular(square(x).triu(), x, upper=True, unitriangular=True),
        torch.linalg.solve_triangular(square(x).tril(), x.mT, upper=False, left=False),
        torch.linalg.solve_triangular(
            x.flatten()[:36].view(6, 6), x[0].flatten()[:24].view(6, 4), upper=True
        ),
    ),
}


def rotated(x: Tensor) -> Tensor:
    """The rotary embedding of positions by complex numbers, as models write it."""
    pairs = torch.view_as_complex(x.mT.repeat(1, 1, 2).reshape(*x.mT.shape[:-1], -1, 2))
    angles = torch.outer(torch.arange(x.shape[-1]), torch.tensor([1.0, 0.5, 0.1]))
    turns = torch.polar(torch.ones_like(angles), angles) * 1.5
    turned = pairs[..., :2] * turns.unsqueeze(0)[:, :, :2]
    return torch.view_as_real(turned).flatten(2)


def arithmetic(x: Tensor) -> tuple[Tensor, ...]:
    first, second = torch.complex(x, x.flip(-1)), torch.polar(x.abs() + 1, x)
    both = torch.cat([first / second + 1, 2 * first.conj() - x, -second], 1)
    assert both.is_complex()
    return (
        both.real,
        both.imag.mH,
        both.mH.imag + 0,
        both.abs(),
        torch.view_as_real((first @ second.mT).exp() / 1e6),
    )


COMPLEX: dict[str, Case] = {
    "rotary embedding": rotated,
    "complex arithmetic": arithmetic,
    "fft": lambda x: (
        torch.view_as_real(torch.fft.fft(x)),
        torch.fft.ifft(torch.fft.fft(x, 10, 1, "ortho"), dim=1, norm="ortho").real,
        torch.fft.fftn(x, dim=(1, 2)).real,
        torch.fft.ifft2(torch.fft.fft2(x, norm="forward"), norm="forward").real,
    ),
    "rfft": lambda x: (
        torch.fft.rfft(x).abs(),
        torch.fft.irfft(torch.fft.rfft(x, n=x.shape[-1], dim=1), n=x.shape[-1], dim=1),
        torch.fft.irfft(torch.fft.rfft(x, norm="ortho"), norm="ortho"),
        torch.fft.irfft(torch.fft.rfft(x, dim=1) * torch.fft.rfft(x, dim=1).conj(), 3, 1),
    ),
    "stft": lambda x: (
        torch.view_as_real(
            torch.stft(x.flatten(1), 8, 2, window=torch.hann_window(8), return_complex=True)
        ),
        x[0].flatten().stft(6, window=x[1, 0, :6], normalized=True, return_complex=True).abs(),
    ),
}
RESIZING: dict[str, Case] = {
    **{f"{mode} by size": resized(mode, lambda _: {"size": (5, 11)}) for mode in MODES},
    **{f"{mode} by factor": resized(mode, lambda _: {"scale_factor": 1.7}) for mode in MODES},
    **{
        f"{mode} by traced size": resized(
            mode, lambda x: {"size": (x.shape[-2] * 2, x.shape[-1] - 1)}
        )
        for mode in MODES
    },
    "corners": lambda x: F.interpolate(
        x, (5, 11), mode="bicubic", antialias=True, align_corners=True
    ),
    "adaptive pooling": lambda x: (
        F.adaptive_avg_pool2d(x, 3),
        F.adaptive_avg_pool2d(x, (None, 5)),
        F.adaptive_avg_pool1d(x.flatten(2), 7),
    ),
    "affine_grid": lambda x: (
        F.affine_grid(x[:, 0, :2, :3], list(x.shape), align_corners=False),
        F.affine_grid(x[:, 0, :2, :3], [x.shape[0], 1, x.shape[-1], 2], align_corners=True),
        F.affine_grid(x[:, 0, :3, :4], [x.shape[0], 1, 2, x.shape[-1], 3], align_corners=False),
    ),
    "pooling": lambda x: (
        F.max_pool2d(x[0], 3, 1, 1),
        F.avg_pool2d(x[0], (2, 3)),
        nn.MaxPool1d(3, 2, 1)(x.flatten(2)) + F.max_pool1d(x[:, :, 0], 2)[:, :, :1],
        F.max_pool1d(x[0, 0], [2]),
        *F.max_pool2d(x[0], 2, return_indices=True),
    ),
    "fold": lambda x: (
        F.fold(F.unfold(x, 2, stride=2), x.shape[-2:], 2, stride=2),
        F.fold(F.unfold(x, (3, 2), 1, (1, 0), 2), x.shape[-2:], (3, 2), 1, (1, 0), 2),
    ),
}
ON_ROWS = ELEMENTWISE | LEARNING | COUNTING | MOVING | SIZES | PRODUCTS | COMPLEX
CASES = {
    **{name: (case, ROWS, OTHER_ROWS) for name, case in ON_ROWS.items()},
    **{name: (case, IMAGES, OTHER_IMAGES) for name, case in RESIZING.items()},
}


def draw(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


def results(case: Case, x: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return [tensor for _, tensor in flatten_outputs(case(x))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_gives_what_torch_gives(name: str, dtype: torch.dtype) -> None:
    case, shape, _ = CASES[name]
    x = draw(shape).to(dtype)
    expected = results(case, x.clone())
    with exportable(nn.Identity(), plain_attention=False, replacements=COMPOSITIONS):
        found = results(case, x.clone())
    torch.testing.assert_close(found, expected, equal_nan=True)


class Calls(nn.Module):
    """A case as a module, its outputs as numbers."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.case = case

    def forward(self, x: Tensor) -> list[Tensor]:
        return [
            tensor if tensor.is_floating_point() else tensor.long()
            for _, tensor in flatten_outputs(self.case(x))
        ]


@pytest.mark.parametrize("name", CASES)
def test_lowers_and_follows_sizes(name: str, tmp_path: Path) -> None:
    case, shape, other_shape = CASES[name]
    model = Calls(case).eval()
    axes = {index: f"axis_{index}" for index in range(len(shape)) if index != 1}
    request = request_for(
        model, {"x": draw(shape)}, Candidate(strategy="usage_based"), tmp_path, axes={"x": axes}
    )
    path = UsageBasedStrategy()(request).path
    for size in (shape, other_shape):
        assert largest_error(path, model, {"x": draw(size)}) < 1e-5


def test_stretches_are_written_without_an_index_for_each_element(tmp_path: Path) -> None:
    def write(x: Tensor) -> Tensor:
        y = torch.zeros_like(x)
        y[:, 1:, :-2] = x[:, 1:, 2:]
        y[-1, ..., 0] = 1
        return y

    model = Calls(write).eval()
    request = request_for(
        model, {"x": draw(ROWS)}, Candidate(strategy="usage_based", dynamic=False), tmp_path
    )
    path = UsageBasedStrategy()(request).path
    assert largest_error(path, model, {"x": draw(ROWS)}) < 1e-6
    assert "ScatterND" not in {node.op_type for node in onnx.load(path).graph.node}


class WritesWhatItWasGiven(nn.Module):
    """Writes to its input, by a key and through a view."""

    def forward(self, x: Tensor) -> Tensor:
        x[:, 1:] = x[:, :-1] + 1
        x[..., 0].zero_()
        x[:, 0] = 0.5
        return x * 2


def test_an_input_is_written_to(tmp_path: Path) -> None:
    model = WritesWhatItWasGiven()
    request = request_for(
        model,
        {"x": draw(ROWS)},
        Candidate(strategy="usage_based"),
        tmp_path,
        axes={"x": {0: "rows"}},
    )
    path = UsageBasedStrategy()(request).path
    x = torch.randn(5, *ROWS[1:])
    found = ort.InferenceSession(path).run(None, {"x": x.numpy().copy()})
    assert abs(torch.from_numpy(found[0]) - model(x)).max() < 1e-6
