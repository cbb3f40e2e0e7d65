"""Plain layers: normalisations, parametrised weights, activations, state kept in buffers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, parametrize

from scripts.plain_inputs import Plain, count, floats, whole, within


class Normalised(nn.Module):
    """Group, instance, batch and local response normalisation of one image."""

    def __init__(self) -> None:
        super().__init__()
        self.group = nn.GroupNorm(2, 8)
        self.instance = nn.InstanceNorm2d(8, affine=True)
        self.batch = nn.BatchNorm2d(8)
        self.local = nn.LocalResponseNorm(3)

    def forward(self, image: Tensor) -> Tensor:
        """Keeps (batch, 8, height, width)."""
        local: Tensor = self.local(self.group(image) + self.instance(image) + self.batch(image))
        return local


class RootMeanSquare(nn.Module):
    """RMS normalisation, torch's and one written out, around layer normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.rms = nn.RMSNorm(12, eps=1e-6)
        self.layer = nn.LayerNorm((12,), bias=False)
        self.weight = nn.Parameter(torch.rand(12))

    def forward(self, x: Tensor) -> Tensor:
        """Keeps (batch, steps, 12)."""
        x = self.layer(self.rms(x))
        scale = torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * (x.float() * scale).type_as(x)


class Momentless(nn.Module):
    """Normalises by the batch's own statistics, as training does, in eval as well."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 8)
        self.norm = nn.BatchNorm1d(8, track_running_stats=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(batch, 6) to (batch, 8), and twice (8,)."""
        hidden = self.layer(x)
        variance, mean = torch.var_mean(hidden, dim=0, correction=0)
        return self.norm(hidden), mean, variance.sqrt()


class WeightNormed(nn.Module):
    """Weights as a direction and a length, and of a bounded norm."""

    def __init__(self) -> None:
        super().__init__()
        self.first = parametrizations.weight_norm(nn.Conv1d(2, 6, 3, padding=1))
        self.second = parametrizations.spectral_norm(nn.Conv1d(6, 4, 3, padding=1))

    def forward(self, wave: Tensor) -> Tensor:
        """(batch, 2, length) to (batch, 4, length)."""
        out: Tensor = self.second(functional.leaky_relu(self.first(wave), 0.2))
        return out


class Orthogonal(nn.Module):
    """A weight that stays orthogonal."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = parametrizations.orthogonal(nn.Linear(4, 4, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Keeps (batch, 4)."""
        turned: Tensor = self.turn(x)
        return torch.relu(turned)


class Symmetric(nn.Module):
    """Makes a matrix symmetric from its upper half."""

    def forward(self, weight: Tensor) -> Tensor:
        """Keeps (width, width)."""
        return weight.triu() + weight.triu(1).transpose(-1, -2)


class Parametrized(nn.Module):
    """A weight with a parametrization of our own, used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)
        parametrize.register_parametrization(self.layer, "weight", Symmetric())

    def forward(self, x: Tensor) -> Tensor:
        """Keeps (batch, 6)."""
        with parametrize.cached():
            out: Tensor = self.layer(torch.relu(self.layer(x)))
        return out


class Activations(nn.Module):
    """One layer each of the less usual activations."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds = nn.ModuleList(
            [
                *(nn.Mish(), nn.SELU(), nn.CELU(0.5), nn.Softsign(), nn.Tanhshrink()),
                *(nn.Hardshrink(0.3), nn.Softshrink(0.2), nn.Hardtanh(-2, 2), nn.LogSigmoid()),
                *(nn.GELU(approximate="tanh"), nn.GLU()),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 6) to (batch, 63)."""
        return torch.cat([kind(x) for kind in self.kinds], dim=-1)


class Thresholds(nn.Module):
    """Rectifiers with a value of their own below the threshold, and with a random slope."""

    def __init__(self) -> None:
        super().__init__()
        self.threshold = nn.Threshold(0.1, 0.5)
        self.slope = nn.RReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Keeps (batch, 6)."""
        out: Tensor = self.threshold(x) + self.slope(x)
        return out


class Dropouts(nn.Module):
    """Every dropout, none of which does anything in eval; one functional and forgotten."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Dropout(0.5)
        self.channels = nn.Dropout2d(0.3)
        self.alpha = nn.AlphaDropout(0.2)
        self.layer = nn.Conv2d(3, 4, 1)

    def forward(self, image: Tensor) -> Tensor:
        """(batch, 3, height, width) to (batch, 4, height, width)."""
        x = self.channels(self.layer(self.plain(image)))
        return functional.dropout(self.alpha(x), p=0.4, training=self.training)


class Counter(nn.Module):
    """Counts its calls and keeps a running mean in buffers that forward changes."""

    calls: Tensor
    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 5)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(5))

    def forward(self, x: Tensor) -> Tensor:
        """Keeps (batch, 5)."""
        self.calls += 1
        self.mean.mul_(0.9).add_(0.1 * x.mean(dim=0))
        out: Tensor = self.layer(x - self.mean) / self.calls
        return out


class KeyValueBuffer(nn.Module):
    """Writes each call's keys into a buffer of fixed length, from a given place on."""

    keys: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.key = nn.Linear(4, 4)
        self.register_buffer("keys", torch.zeros(2, 24, 4), persistent=False)

    def forward(self, x: Tensor, start: Tensor) -> Tensor:
        """(2, steps, 4) and a place to (2, steps, 24)."""
        self.keys[:, start + torch.arange(x.shape[1])] = self.key(x)
        return x @ self.keys.transpose(1, 2)


class Codebook(nn.Module):
    """Vector quantisation: the nearest code of each vector, with a straight-through estimate."""

    def __init__(self) -> None:
        super().__init__()
        self.codes = nn.Embedding(16, 6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(batch, steps, 6) to the same, (batch, steps), and the loss."""
        distances = torch.cdist(x, self.codes.weight.unsqueeze(0).expand(x.shape[0], -1, -1))
        chosen = distances.argmin(dim=-1)
        coded = self.codes(chosen)
        loss = functional.mse_loss(coded, x.detach()) + 0.25 * functional.mse_loss(x, coded)
        return x + (coded - x).detach(), chosen, loss


class Losses(nn.Module):
    """Returns its loss beside its scores, as models that are trained do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 5)

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """(batch, 6) and (batch,) to scores and losses."""
        logits = self.layer(x)
        wanted = functional.one_hot(labels, 5).to(logits.dtype)
        return {
            "loss": functional.cross_entropy(logits, labels, label_smoothing=0.1),
            "binary": functional.binary_cross_entropy_with_logits(logits, wanted),
            "smooth": functional.smooth_l1_loss(logits, wanted, reduction="none").sum(-1),
            "divergence": functional.kl_div(
                logits.log_softmax(-1), wanted, reduction="batchmean", log_target=False
            ),
            "logits": logits,
        }


class Bilinear(nn.Module):
    """Bilinear and low-rank layers over two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.full = nn.Bilinear(4, 5, 3)
        self.rank = nn.Parameter(torch.randn(2, 4, 5))

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """(batch, 4) and (batch, 5) to (batch, 5)."""
        low = torch.einsum("bi,rij,bj->br", left, self.rank, right)
        return torch.cat([self.full(left, right), low], dim=-1)


class Splines(nn.Module):
    """A Kolmogorov-Arnold layer: cubic B-splines by the Cox-de Boor recursion."""

    knots: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("knots", torch.linspace(-2, 2, 12))
        self.weight = nn.Parameter(torch.randn(3, 4, 8) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 4) to (batch, 3)."""
        x, knots = x.unsqueeze(-1), self.knots
        basis = ((x >= knots[:-1]) & (x < knots[1:])).to(x.dtype)
        for order in range(1, 4):
            left = (x - knots[: -order - 1]) / (knots[order:-1] - knots[: -order - 1])
            right = (knots[order + 1 :] - x) / (knots[order + 1 :] - knots[1:-order])
            basis = left * basis[..., :-1] + right * basis[..., 1:]
        return torch.einsum("bik,oik->bo", basis, self.weight)


MODULES = {
    "normalised": Plain(build=Normalised, inputs={"image": floats("batch 8 height width")}),
    "root_mean_square": Plain(build=RootMeanSquare, inputs={"x": floats("batch steps 12")}),
    "batch_statistics": Plain(build=Momentless, inputs={"x": floats("batch 6")}),
    "weight_normed": Plain(build=WeightNormed, inputs={"wave": floats("batch 2 length")}),
    "orthogonal": Plain(build=Orthogonal, inputs={"x": floats("batch 4")}),
    "parametrized": Plain(build=Parametrized, inputs={"x": floats("batch 6")}),
    "activations": Plain(build=Activations, inputs={"x": floats("batch 6")}),
    "thresholds": Plain(build=Thresholds, inputs={"x": floats("batch 6")}),
    "dropouts": Plain(build=Dropouts, inputs={"image": floats("batch 3 height width")}),
    "counter": Plain(build=Counter, inputs={"x": floats("batch 5")}),
    "key_value_buffer": Plain(
        build=KeyValueBuffer, inputs={"x": floats("2 steps 4"), "start": count(2)}
    ),
    "codebook": Plain(build=Codebook, inputs={"x": floats("batch steps 6")}),
    "losses": Plain(build=Losses, inputs={"x": floats("batch 6"), "labels": whole("batch", 5)}),
    "bilinear": Plain(
        build=Bilinear, inputs={"left": floats("batch 4"), "right": floats("batch 5")}
    ),
    "splines": Plain(build=Splines, inputs={"x": within("batch 4", -1.0, 1.0)}),
}
