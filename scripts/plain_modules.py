"""Plain PyTorch modules with inputs, each one a shape of forward that exporters trip over."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Mlp(nn.Module):
    """Two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 8) to (batch, 4)."""
        hidden: Tensor = self.layers(x)
        return hidden


class Cnn(nn.Module):
    """Convolutions with batch normalisation, pooled over any image size."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1),
        )
        self.head = nn.Linear(16, 5)

    def forward(self, image: Tensor) -> Tensor:
        """(batch, 3, height, width) to (batch, 5)."""
        logits: Tensor = self.head(self.features(image).mean(dim=(2, 3)))
        return logits


class Lstm(nn.Module):
    """A bidirectional LSTM that returns every step and the last state."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 10, num_layers=2, batch_first=True, bidirectional=True)

    def forward(self, sequence: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, steps, 6) to (batch, steps, 20) and (4, batch, 10)."""
        steps, (last, _) = self.lstm(sequence)
        return steps, last


class Branch(nn.Module):
    """Takes one of two unequal ways, by the sum of the input's values."""

    def __init__(self) -> None:
        super().__init__()
        self.small = nn.Linear(6, 6)
        self.first = nn.Linear(6, 12)
        self.second = nn.Linear(12, 6)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 6) to (batch, 6)."""
        if bool(x.sum() > 0):
            out: Tensor = self.second(torch.relu(self.first(x)))
        else:
            out = torch.tanh(self.small(x)) * 3
        return out


class Loop(nn.Module):
    """Applies a layer as often as a tensor says."""

    def __init__(self) -> None:
        super().__init__()
        self.step = nn.Linear(5, 5)

    def forward(self, x: Tensor, n: Tensor) -> Tensor:
        """(batch, 5) and a count to (batch, 5)."""
        for _ in range(int(n)):
            x = torch.tanh(self.step(x)) + x
        return x


class DictOutput(nn.Module):
    """Takes two inputs and returns a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(4, 7)
        self.right = nn.Linear(3, 7)

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        """(batch, 4) and (batch, 3) to two tensors of (batch, 7)."""
        a, b = self.left(left), self.right(right)
        return {"total": a + b, "product": a * b}


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


def _draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def _mlp() -> tuple[nn.Module, dict[str, Tensor]]:
    return _seeded(Mlp), {"x": _draw(2, 8)}


def _cnn() -> tuple[nn.Module, dict[str, Tensor]]:
    return _seeded(Cnn), {"image": _draw(2, 3, 20, 24)}


def _lstm() -> tuple[nn.Module, dict[str, Tensor]]:
    return _seeded(Lstm), {"sequence": _draw(2, 7, 6)}


def _branch() -> tuple[nn.Module, dict[str, Tensor]]:
    return _seeded(Branch), {"x": _draw(3, 6)}


def _loop() -> tuple[nn.Module, dict[str, Tensor]]:
    return _seeded(Loop), {"x": _draw(2, 5), "n": torch.tensor(3)}


def _dict_output() -> tuple[nn.Module, dict[str, Tensor]]:
    return _seeded(DictOutput), {"left": _draw(2, 4), "right": _draw(2, 3)}


def _shared() -> tuple[nn.Module, dict[str, Tensor]]:
    return _seeded(Shared), {"x": _draw(2, 6)}


def _seeded(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build().eval().requires_grad_(requires_grad=False)


PLAIN: dict[str, Callable[[], tuple[nn.Module, dict[str, Tensor]]]] = {
    "mlp": _mlp,
    "cnn": _cnn,
    "lstm": _lstm,
    "branch": _branch,
    "loop": _loop,
    "dict_output": _dict_output,
    "shared": _shared,
}
