"""Plain numerical modules: complex numbers, Fourier transforms, statistics, special functions."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from scripts.plain_inputs import Plain, floats, within


class Spectral(nn.Module):
    """Mixes a sequence by its Fourier transform alone, as FNet does."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        """Keeps (batch, 8, 8)."""
        mixed = torch.fft.fft(torch.fft.fft(x, dim=-1), dim=-2).real
        out: Tensor = self.layer(mixed) + x
        return out


class FourierOperator(nn.Module):
    """Multiplies the lowest frequencies of a signal by learnt complex weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4, 5, dtype=torch.cfloat) * 0.3)

    def forward(self, wave: Tensor) -> Tensor:
        """(batch, 3, length) to (batch, 4, length)."""
        spectrum = torch.fft.rfft(wave)
        low = torch.einsum("bim,iom->bom", spectrum[:, :, :5], self.weight)
        kept = torch.zeros(wave.size(0), 4, spectrum.size(-1), dtype=torch.cfloat)
        kept[:, :, :5] = low
        out: Tensor = torch.fft.irfft(kept, n=wave.size(-1))
        return out


class Spectrogram(nn.Module):
    """Short-time Fourier transform to a log-mel picture."""

    window: Tensor
    mel: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(16))
        self.register_buffer("mel", torch.rand(9, 6))

    def forward(self, wave: Tensor) -> Tensor:
        """(batch, length) to (batch, frames, 6)."""
        spectrum = torch.stft(wave, 16, hop_length=8, window=self.window, return_complex=True)
        power = spectrum.abs().pow(2).transpose(1, 2)
        return torch.log10((power @ self.mel).clamp(min=1e-5))


class Denoise(nn.Module):
    """There and back by short-time Fourier transforms, the quiet bins left out."""

    window: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(16))

    def forward(self, wave: Tensor) -> Tensor:
        """Keeps (batch, length)."""
        spectrum = torch.stft(wave, 16, window=self.window, return_complex=True)
        loud = spectrum.abs() > 0.5
        kept = spectrum * loud
        return torch.istft(kept, 16, window=self.window, length=wave.shape[-1])


class DftConvolution(nn.Module):
    """A discrete Fourier transform written as two convolutions, and its magnitude."""

    basis: Tensor

    def __init__(self) -> None:
        super().__init__()
        angles = 2 * math.pi * torch.outer(torch.arange(9), torch.arange(16)) / 16
        self.register_buffer("basis", torch.cat([angles.cos(), -angles.sin()]).unsqueeze(1))

    def forward(self, wave: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, length) to (batch, 9, frames) and (batch, 7, frames)."""
        both = functional.conv1d(wave.unsqueeze(1), self.basis, stride=4)
        real, imaginary = both[:, :9], both[:, 9:]
        # The angle of the first and the last bin, whose sine is zero, hangs on rounding.
        angle = torch.atan2(imaginary[:, 1:-1], real[:, 1:-1])
        return torch.sqrt(real**2 + imaginary**2 + 1e-8), angle.cos()


class ComplexLayer(nn.Module):
    """A linear layer of complex weights on real parts given apart."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 4, dtype=torch.cfloat))

    def forward(self, real: Tensor, imaginary: Tensor) -> tuple[Tensor, Tensor]:
        """Two of (batch, 6) to magnitude and angle, (batch, 4) each."""
        z = torch.complex(real, imaginary) @ self.weight
        z = z * torch.exp(1j * z.conj().real) + z.conj() / 2
        return z.abs(), torch.view_as_real(z)[..., 0]


class ComplexInput(nn.Module):
    """Takes and returns complex tensors."""

    def forward(self, signal: Tensor) -> Tensor:
        """Keeps (batch, 8), complex."""
        out: Tensor = torch.fft.ifft(torch.fft.fft(signal) * torch.linspace(1, 0, 8))
        return out


class Neighbours(nn.Module):
    """The nearest points' values, weighed by distance."""

    known: Tensor
    values: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("known", torch.randn(20, 3))
        self.register_buffer("values", torch.randn(20, 2))

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """(points, 3) to (points, 2) and the neighbours, (points, 4)."""
        distances, nearest = torch.cdist(points, self.known).topk(4, largest=False)
        weights = functional.normalize(1.0 / (distances + 1e-3), p=1.0, dim=-1)
        return (weights.unsqueeze(-1) * self.values[nearest]).sum(dim=1), nearest


class Statistics(nn.Module):
    """Medians, quantiles, deviations and such, by row."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(batch, items) to tensors of (batch,), and quantiles of (3, batch)."""
        variance, mean = torch.var_mean(x, dim=1)
        return {
            "median": x.median(dim=1).values,
            "quantiles": torch.quantile(x, torch.tensor([0.1, 0.5, 0.9]), dim=1),
            "third": torch.kthvalue(x, 3, dim=1).values,
            "deviation": x.std(dim=1, correction=0),
            "skewness": ((x - mean[:, None]) / variance.sqrt()[:, None]).pow(3).mean(dim=1),
            "spread": x.amax(dim=1) - x.amin(dim=1),
            "smooth": torch.logsumexp(x, dim=1),
        }


class Histogram(nn.Module):
    """Counts values in bins, softly and hard."""

    edges: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("edges", torch.linspace(-2, 2, 9))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(points,) to counts of 8 or 10 bins."""
        bins = torch.bucketize(x, self.edges)
        return {
            "hard": torch.histc(x, bins=8, min=-2.0, max=2.0),
            "counted": torch.bincount(bins, minlength=10),
            "soft": torch.exp(-((x[:, None] - self.edges[None, :]) ** 2) * 8).sum(dim=0),
        }


class Cumulative(nn.Module):
    """Running sums, products, largest and log sums, and differences."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(batch, steps) to tensors of the same shape."""
        largest, place = torch.cummax(x, dim=1)
        return {
            "sum": x.cumsum(dim=1),
            "product": torch.cumprod(x.abs() + 0.5, dim=-1),
            "largest": largest,
            "place": place,
            "log": torch.logcumsumexp(x, dim=1),
            "difference": torch.diff(x, dim=1, prepend=x[:, :1]),
            "backwards": x.flip(1).cumsum(1).flip(1),
        }


class Sinkhorn(nn.Module):
    """Balances a matrix of scores to a soft matching, in log space."""

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """(batch, items, 4) and (batch, targets, 4) to (batch, items, targets)."""
        scores = torch.matmul(left, right.transpose(1, 2)) / 0.5
        for _ in range(5):
            scores = scores - scores.logsumexp(dim=2, keepdim=True)
            scores = scores - scores.logsumexp(dim=1, keepdim=True)
        return scores.exp()


class Special(nn.Module):
    """Functions beyond the usual dozen that have a counterpart, or are composed of such."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(batch, items), between 0.1 and 0.9, to tensors of the same shape."""
        return {
            "erf": torch.erf(x) + torch.erfc(x) * 0.5,
            "logit": torch.logit(x, eps=1e-4),
            "hyperbolic": torch.asinh(x) + torch.atanh(x) + torch.cosh(x),
            "sinc": torch.sinc(x),
            "log1p": torch.log1p(x) + torch.expm1(x) + torch.exp2(x),
            "xlogy": torch.xlogy(x, x + 1),
            "hypot": torch.hypot(x, 1 - x),
            "sign": torch.copysign(x, torch.tensor(-1.0)) + torch.sign(x - 0.5),
            "parts": x.mul(9).frac() + x.mul(9).trunc() + torch.floor(x * 5) % 3,
            "entropy": torch.special.entr(x),
        }


class Distributions(nn.Module):
    """Quantiles and densities that take functions which ONNX lacks."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(batch, items), between 0.1 and 0.9, to tensors of the same shape."""
        return {
            "normal": torch.erfinv(2 * x - 1),
            "beta": torch.lgamma(x) + torch.lgamma(2 - x),
            "digamma": torch.digamma(x),
            "mises": torch.special.i0(x).log(),
        }


class Interpolated(nn.Module):
    """A table looked up between its entries: searched, weighed, clamped."""

    places: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("places", torch.linspace(-2, 2, 11))
        self.values = nn.Parameter(torch.randn(11))

    def forward(self, x: Tensor) -> Tensor:
        """Keeps (batch, items)."""
        right = torch.searchsorted(self.places, x.contiguous()).clamp(1, 10)
        low, high = self.places[right - 1], self.places[right]
        share = ((x - low) / (high - low)).clamp(0, 1)
        return torch.lerp(self.values[right - 1], self.values[right], share)


class Coupling(nn.Module):
    """A normalising flow's coupling layers, with the log determinant and the way back."""

    order: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nn.Linear(2, 4) for _ in range(2))
        self.register_buffer("order", torch.tensor([2, 3, 0, 1]))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(batch, 4) to the same, (batch,), and the former restored."""
        y, total = x, x.new_zeros(x.size(0))
        for net in self.nets:
            still, moved = y.tensor_split(2, dim=1)
            scale, shift = net(still).chunk(2, dim=1)
            y = torch.hstack([still, moved * torch.exp(scale.tanh()) + shift])[:, self.order]
            total = total + scale.tanh().sum(dim=1)
        z = y
        for net in reversed(self.nets):
            still, moved = z[:, self.order.argsort()].tensor_split(2, dim=1)
            scale, shift = net(still).chunk(2, dim=1)
            z = torch.hstack([still, (moved - shift) * torch.exp(-scale.tanh())])
        return y, total, z


WAVE = {"wave": floats("batch length")}
TABLE = {"x": floats("batch items")}

MODULES = {
    "spectral": Plain(build=Spectral, inputs={"x": floats("batch 8 8")}),
    "fourier_operator": Plain(build=FourierOperator, inputs={"wave": floats("batch 3 length")}),
    "spectrogram": Plain(build=Spectrogram, inputs=WAVE),
    "denoise": Plain(build=Denoise, inputs=WAVE),
    "dft_convolution": Plain(build=DftConvolution, inputs=WAVE),
    "complex_layer": Plain(
        build=ComplexLayer, inputs={"real": floats("batch 6"), "imaginary": floats("batch 6")}
    ),
    "complex_input": Plain(
        build=ComplexInput, inputs={"signal": floats("batch 8", torch.complex64)}
    ),
    "neighbours": Plain(build=Neighbours, inputs={"points": floats("points 3")}),
    "statistics": Plain(build=Statistics, inputs=TABLE),
    "histogram": Plain(build=Histogram, inputs={"x": floats("points")}),
    "cumulative": Plain(build=Cumulative, inputs={"x": floats("batch steps")}),
    "sinkhorn": Plain(
        build=Sinkhorn,
        inputs={"left": floats("batch items 4"), "right": floats("batch targets 4")},
    ),
    "distributions": Plain(build=Distributions, inputs={"x": within("batch items", 0.1, 0.9)}),
    "special": Plain(build=Special, inputs={"x": within("batch items", 0.1, 0.9)}),
    "interpolated": Plain(build=Interpolated, inputs=TABLE),
    "coupling": Plain(build=Coupling, inputs={"x": floats("batch 4")}),
}
