"""Plain feed-forward networks, as users build them by hand."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from scripts.plain_inputs import Plain, floats, whole


class Mlp(nn.Module):
    """Two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 8) to (batch, 4)."""
        hidden: Tensor = self.layers(x)
        return hidden


class Latent(NamedTuple):
    """What a variational encoder finds."""

    mean: Tensor
    log_variance: Tensor
    sample: Tensor


class Variational(nn.Module):
    """A variational encoder, which samples in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(12, 16), nn.SiLU())
        self.mean = nn.Linear(16, 4)
        self.log_variance = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Latent:
        """(batch, 12) to three tensors of (batch, 4)."""
        hidden = self.encode(x)
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        sample = mean
        if self.training:
            sample = mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance)
        return Latent(mean, log_variance.clamp(-10, 10), sample)


class Siamese(nn.Module):
    """One encoder for two inputs, compared by cosine and distance."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 8))

    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """Two of (batch, 10) to two of (batch,)."""
        a, b = self.encoder(left), self.encoder(right)
        return functional.cosine_similarity(a, b), functional.pairwise_distance(a, b)


class Shared(nn.Module):
    """Calls one submodule twice."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(6, 6), nn.GELU())
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 6) to (batch, 2)."""
        out: Tensor = self.head(self.block(self.block(x)))
        return out


class Tied(nn.Module):
    """An autoencoder whose decoder is its encoder's weight, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(12, 5)
        self.bias = nn.Parameter(torch.zeros(12))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 12) to (batch, 12)."""
        hidden = torch.sigmoid(self.encoder(x))
        return functional.linear(hidden, self.encoder.weight.t(), self.bias)


class Clicks(nn.Module):
    """Recommends: embedded categories, a bag of words, and products of every pair."""

    pairs: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(20, 8) for _ in range(3))
        self.words = nn.EmbeddingBag(50, 8, mode="mean")
        self.dense = nn.Linear(5, 8)
        self.top = nn.Linear(8 + 10, 1)
        self.register_buffer("pairs", torch.triu_indices(5, 5, offset=1))

    def forward(self, dense: Tensor, categories: Tensor, words: Tensor) -> Tensor:
        """(batch, 5), (batch, 3) and (batch, items) to (batch,)."""
        vectors = [table(categories[:, i]) for i, table in enumerate(self.tables)]
        vectors += [self.words(words), self.dense(dense)]
        stacked = torch.stack(vectors, dim=1)
        products = torch.bmm(stacked, stacked.transpose(1, 2))
        crossed = products[:, self.pairs[0], self.pairs[1]]
        return torch.sigmoid(self.top(torch.cat([vectors[-1], crossed], dim=1))).squeeze(-1)


class Mixer(nn.Module):
    """Mixes tokens, then channels."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, stride=8)
        self.token_norm = nn.LayerNorm(16)
        self.tokens = nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 6))
        self.channel_norm = nn.LayerNorm(16)
        self.channels = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))

    def forward(self, image: Tensor) -> Tensor:
        """(batch, 3, 16, 24) to (batch, 16)."""
        x = self.patches(image).flatten(2).transpose(1, 2)
        x = x + self.tokens(self.token_norm(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.channels(self.channel_norm(x))
        return torch.mean(x, dim=1)


class RadianceField(nn.Module):
    """Points as sines and cosines of many frequencies, through a network with a skip."""

    frequencies: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", 2.0 ** torch.arange(4))
        self.first = nn.Linear(27, 16)
        self.second = nn.Linear(43, 16)
        self.density = nn.Linear(16, 1)
        self.colour = nn.Linear(16, 3)

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """(points, 3) to (points, 3) and (points,)."""
        angles = (points.unsqueeze(-1) * self.frequencies).flatten(1)
        coded = torch.cat([points, angles.sin(), angles.cos()], dim=-1)
        hidden = functional.softplus(self.first(coded))
        hidden = functional.softplus(self.second(torch.cat([coded, hidden], dim=-1)))
        return torch.sigmoid(self.colour(hidden)), self.density(hidden).relu().squeeze(-1)


IMAGE = {"image": floats("batch 3 height width")}

MODULES = {
    "mlp": Plain(build=Mlp, inputs={"x": floats("batch 8")}),
    "variational": Plain(build=Variational, inputs={"x": floats("batch 12")}),
    "siamese": Plain(
        build=Siamese, inputs={"left": floats("batch 10"), "right": floats("batch 10")}
    ),
    "shared": Plain(build=Shared, inputs={"x": floats("batch 6")}),
    "tied": Plain(build=Tied, inputs={"x": floats("batch 12")}),
    "clicks": Plain(
        build=Clicks,
        inputs={
            "dense": floats("batch 5"),
            "categories": whole("batch 3", 20),
            "words": whole("batch items", 50),
        },
    ),
    "mixer": Plain(build=Mixer, inputs={"image": floats("batch 3 16 24")}),
    "radiance_field": Plain(build=RadianceField, inputs={"points": floats("points 3")}),
}
