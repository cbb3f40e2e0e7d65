"""The discrete Fourier transform as a product with a matrix of waves."""

# ruff: noqa: A002, FBT001, FBT002, PLR0913, PLR0917 - the signatures are torch's
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from strategies.compositions.complex_pairs import Pair, by_parts, parts
from strategies.compositions.tables import Table, composing

TABLE: Table = {}
composes = composing(TABLE)


def _fft(sign: int) -> Callable[..., Any]:
    def transform(input: Any, n: Any = None, dim: int = -1, norm: str | None = None) -> Any:
        real, imag = parts(input)
        size = input.shape[dim] if n is None else n
        cosines, sines = _waves(size, size, real.dtype)
        waves = Pair(cosines, sign * sines) * _scale(size, norm, inverse=sign > 0)
        signal: Any = _fitted(real, n, dim)
        if imag is not None:
            signal = Pair(signal, _fitted(imag, n, dim))
        result = by_parts(torch.matmul)(signal, waves)
        return Pair(result.real.transpose(dim, -1), result.imag.transpose(dim, -1))

    return transform


def _fftn(one: Callable[..., Any], default: Sequence[int] | None) -> Callable[..., Any]:
    def transform(input: Any, s: Any = None, dim: Any = default, norm: str | None = None) -> Any:
        count = input.dim() if s is None else len(s)
        axes = range(-count, 0) if dim is None else [dim] if isinstance(dim, int) else dim
        result = input
        for index, axis in enumerate(axes):
            result = one(result, None if s is None else s[index], axis, norm)
        return result

    return transform


def _rfft(input: Tensor, n: Any = None, dim: int = -1, norm: str | None = None) -> Any:
    size = input.shape[dim] if n is None else n
    cosines, sines = _waves(size, size // 2 + 1, input.dtype)
    rows = _fitted(input, n, dim) * _scale(size, norm, inverse=False)
    return Pair((rows @ cosines).transpose(dim, -1), -(rows @ sines).transpose(dim, -1))


def _irfft(input: Any, n: Any = None, dim: int = -1, norm: str | None = None) -> Any:
    real, imag = parts(input)
    size = 2 * (real.shape[dim] - 1) if n is None else n
    half = size // 2 + 1
    wanted = None if n is None else half
    cosines, sines = _waves(size, half, real.dtype)
    # All waves but those that are their own mirror image stand for two.
    mirrored = torch.arange(half) * 2 % size != 0
    weights = (mirrored.to(real.dtype) + 1) * _scale(size, norm, inverse=True)
    result = (_fitted(real, wanted, dim) * weights) @ cosines.t()
    if imag is not None:
        result = result - (_fitted(imag, wanted, dim) * weights) @ sines.t()
    return result.transpose(dim, -1)


def _waves(size: Any, count: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the first `count` frequencies: each (size, count)."""
    steps = torch.arange(size).unsqueeze(-1) * torch.arange(count) % size
    angles = steps.double() * (2 * torch.pi / torch.as_tensor(size).double())
    return torch.cos(angles).to(dtype), torch.sin(angles).to(dtype)


def _scale(size: Any, norm: str | None, *, inverse: bool) -> Any:
    if norm == "ortho":
        return torch.as_tensor(size).float().rsqrt()
    if (norm == "forward") is inverse:
        return 1.0
    return 1.0 / torch.as_tensor(size).float()


def _fitted(x: Tensor, size: Any, dim: int) -> Tensor:
    """The axis as the last one, cut or filled up with zeros to a size, if one is given."""
    last = x.transpose(dim, -1)
    return last if size is None else F.pad(last, (0, size - last.shape[-1]))


@composes("stft")
def _stft(
    input: Tensor,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Tensor | None = None,
    center: bool = True,
    pad_mode: str = "reflect",
    normalized: bool = False,
    onesided: bool | None = None,
    return_complex: bool | None = None,
    align_to_window: bool | None = None,
) -> Any:
    del align_to_window  # Counts without centering only, and only aligned otherwise.
    width = n_fft if win_length is None else win_length
    shape = torch.ones(width, dtype=input.dtype) if window is None else window
    left = (n_fft - width) // 2
    shape = F.pad(shape, (left, n_fft - width - left))
    signal = input.unsqueeze(0) if input.dim() == 1 else input
    if center:
        signal = F.pad(signal.unsqueeze(1), (n_fft // 2, n_fft // 2), mode=pad_mode).squeeze(1)
    frames = signal.unfold(-1, n_fft, n_fft // 4 if hop_length is None else hop_length) * shape
    norm = "ortho" if normalized else None
    found = (_fft(-1) if onesided is False else _rfft)(frames, None, -1, norm)
    found = found.transpose(-2, -1)
    found = found[0] if input.dim() == 1 else found
    return found if return_complex else torch.stack([found.real, found.imag], -1)


for _name, _function in {
    "fft": _fft(-1),
    "ifft": _fft(1),
    "fft2": _fftn(_fft(-1), (-2, -1)),
    "ifft2": _fftn(_fft(1), (-2, -1)),
    "fftn": _fftn(_fft(-1), None),
    "ifftn": _fftn(_fft(1), None),
    "rfft": _rfft,
    "irfft": _irfft,
}.items():
    TABLE[getattr(torch.fft, _name)] = _function
