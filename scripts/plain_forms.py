"""Plain modules that take and return unusual things: nested, optional, scalar, of other dtypes."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from scripts.plain_inputs import Plain, count, floats, truths, whole


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


class NestedOutput(nn.Module):
    """Returns tuples in lists in a dict, and None among them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(5, 5) for _ in range(3))

    def forward(self, x: Tensor) -> OrderedDict[str, object]:
        """(batch, 5) to tensors of the same shape."""
        steps: list[tuple[Tensor, Tensor | None]] = []
        for i, layer in enumerate(self.layers):
            x = layer(x)
            steps.append((x, x.relu() if i else None))
        return OrderedDict(last=x, steps=steps, extra={"size": x.norm(dim=-1), "none": None})


@dataclass
class Found:
    """What a detector found."""

    boxes: Tensor
    scores: Tensor
    hidden: tuple[Tensor, ...]


class DataclassOutput(nn.Module):
    """Returns a dataclass."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(6, 8)
        self.boxes = nn.Linear(8, 4)
        self.scores = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Found:
        """(batch, items, 6) to (batch, items, 4) and (batch, items)."""
        hidden = torch.relu(self.body(x))
        return Found(
            boxes=self.boxes(hidden).sigmoid(),
            scores=self.scores(hidden).squeeze(-1),
            hidden=(x, hidden),
        )


class State(NamedTuple):
    """Where a filter stands."""

    mean: Tensor
    covariance: Tensor


class NamedOutput(nn.Module):
    """Returns a named tuple beside a tensor: one step of a Kalman filter."""

    move: Tensor
    noise: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("move", torch.tensor([[1.0, 1.0], [0.0, 1.0]]))
        self.register_buffer("noise", 0.1 * torch.eye(2))

    def forward(self, mean: Tensor, covariance: Tensor, seen: Tensor) -> tuple[State, Tensor]:
        """(batch, 2), (2, 2) and (batch, 1) to the first two, and (batch, 1)."""
        mean = mean @ self.move.T
        covariance = self.move @ (covariance @ covariance.T) @ self.move.T + self.noise
        missed = seen - mean[:, :1]
        gain = covariance[:, :1] / (covariance[:1, :1] + 0.5)
        mean = mean + missed @ gain.T
        return State(mean, covariance - gain @ covariance[:1]), missed


class Optional(nn.Module):
    """Takes inputs that may be left out, of which one is given."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.addition = nn.Linear(2, 4)

    def forward(self, x: Tensor, mask: Tensor | None = None, extra: Tensor | None = None) -> Tensor:
        """(batch, 4), (batch, 4) and (batch, 2) to (batch, 4)."""
        out: Tensor = self.layer(x)
        if extra is not None:
            out = out + self.addition(extra)
        if mask is not None:
            out = out.masked_fill(mask, 0.0)
        return out


class Scalars(nn.Module):
    """Takes Python's own numbers and switches beside a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(
        self, x: Tensor, scale: float = 1.0, power: int = 2, *, negate: bool = False
    ) -> Tensor:
        """Keeps (batch, 4)."""
        out: Tensor = self.layer(x) * scale + x**power
        return -out if negate else out


class ScalarTensors(nn.Module):
    """Takes numbers in tensors without axes, and returns such."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(batch, 4) and two numbers to (batch, 4) and two numbers."""
        out = self.layer(x) * scale + shift
        return out, out.sum(), (out > 0).sum()


class ManyArguments(nn.Module):
    """Takes any number of tensors by place."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, first: Tensor, *others: Tensor, **named: Tensor) -> Tensor:
        """Any of (batch, 4) to (batch, 4)."""
        out: Tensor = self.layer(first)
        for other in (*others, *named.values()):
            out = out + other
        return out


class Constants(nn.Module):
    """Returns what does not depend on any input, an input as it is, and one tensor twice."""

    def __init__(self) -> None:
        super().__init__()
        self.anchors = nn.Parameter(torch.randn(3, 2))
        self.layer = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(batch, 4) to tensors, and the size of the batch as one."""
        out = self.layer(x)
        return {
            "anchors": self.anchors,
            "given": x,
            "out": out,
            "again": out,
            "size": torch.tensor(x.shape[0]),
        }


class Integers(nn.Module):
    """Works on whole numbers all the way: bits, remainders, floor division."""

    def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        """Two of (batch, items) to as many again."""
        return {
            "floor": torch.div(a, b, rounding_mode="floor"),
            "trunc": torch.div(a, b, rounding_mode="trunc"),
            "remainder": a % b,
            "fmod": torch.fmod(a, b),
            "and": (a & 7) | (b << 2),
            "xor": (a ^ b) >> 1,
            "not": ~a,
            "power": a**2,
            "product": b.prod(dim=-1),
            "hash": (a * 2654435761 + b) % 1000003,
        }


class Truths(nn.Module):
    """Works on true and false: logic, any, all, counting."""

    def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        """Two of (batch, items) to as many again, and reductions."""
        return {
            "both": a & b,
            "either": torch.logical_or(a, b),
            "unlike": a ^ b,
            "any": a.any(dim=1),
            "all": torch.all(a | b, dim=-1),
            "count": a.sum(dim=0),
            "share": b.float().mean(dim=1),
            "first": a.int().argmax(dim=1),
        }


class Casts(nn.Module):
    """Goes through many dtypes, and lets torch promote mixed ones."""

    def forward(self, x: Tensor, n: Tensor) -> dict[str, Tensor]:
        """(batch, items) of float32 and of int32 to as many again."""
        return {
            "double": x.double() * n,
            "bytes": (x.sigmoid() * 255).to(torch.uint8),
            "long": x.long() + n,
            "short": n.to(torch.int16) * 2,
            "truth": x.bool(),
            "mean": n.float().mean(dim=-1),
            "mixed": x + n * 2.5,
            "divided": n / 3,
        }


class HalfIsland(nn.Module):
    """Computes in float16 between float32 ends, as under autocast."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 6) to (batch, 8)."""
        small = (x.half() + 1) * 3
        out: Tensor = self.layer(small.float())
        return out


class HalfPrecision(nn.Module):
    """Its weights and its inputs are float16."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 8, dtype=torch.float16)
        self.norm = nn.LayerNorm(8, dtype=torch.float16)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 6) to (batch, 8), both float16."""
        out: Tensor = self.norm(torch.relu(self.layer(x)))
        return out


class BrainPrecision(nn.Module):
    """Computes in bfloat16 between float32 ends."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 8, dtype=torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 6) to (batch, 8)."""
        out: Tensor = self.layer(x.to(torch.bfloat16)).float()
        return out.softmax(dim=-1)


class DoublePrecision(nn.Module):
    """Its weights and its inputs are float64."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 6) to (batch, 3), both float64."""
        hidden = self.layer(x)
        return torch.logsumexp(hidden, dim=-1, keepdim=True) + torch.tanh(hidden)


class DoubleActivation(nn.Module):
    """GELU in float64, whose error function runtimes may lack at that width."""

    def forward(self, x: Tensor) -> Tensor:
        """Keeps (batch, 6), float64."""
        return nn.functional.gelu(x)


class Quantized(nn.Module):
    """Keeps its weights as whole numbers with a scale, and rounds what comes in."""

    scale: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        weight = torch.randn(5, 8)
        scale = weight.abs().amax(dim=1, keepdim=True) / 127
        self.register_buffer("scale", scale)
        self.register_buffer("weight", (weight / scale).round().to(torch.int8))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 8) to (batch, 5)."""
        x = torch.fake_quantize_per_tensor_affine(x, 0.05, 0, -128, 127)
        return x @ (self.weight.to(x.dtype) * self.scale).t()


PAIR = {"a": truths("batch items"), "b": truths("batch items")}

MODULES = {
    "dict_output": Plain(
        build=DictOutput, inputs={"left": floats("batch 4"), "right": floats("batch 3")}
    ),
    "nested_output": Plain(build=NestedOutput, inputs={"x": floats("batch 5")}),
    "dataclass_output": Plain(build=DataclassOutput, inputs={"x": floats("batch items 6")}),
    "named_output": Plain(
        build=NamedOutput,
        inputs={
            "mean": floats("batch 2"),
            "covariance": floats("2 2"),
            "seen": floats("batch 1"),
        },
    ),
    "optional": Plain(build=Optional, inputs={"x": floats("batch 4"), "extra": floats("batch 2")}),
    "scalars": Plain(
        build=Scalars, inputs={"x": floats("batch 4"), "scale": 0.5, "power": 3, "negate": True}
    ),
    "scalar_tensors": Plain(
        build=ScalarTensors,
        inputs={"x": floats("batch 4"), "scale": floats(""), "shift": count(2)},
    ),
    "many_arguments": Plain(
        build=ManyArguments,
        inputs={"first": floats("batch 4"), "second": floats("batch 4")},
    ),
    "constants": Plain(build=Constants, inputs={"x": floats("batch 4")}),
    "integers": Plain(
        build=Integers,
        inputs={"a": whole("batch items", 50, low=-50), "b": whole("batch items", 9, low=1)},
    ),
    "truths": Plain(build=Truths, inputs=PAIR),
    "casts": Plain(
        build=Casts,
        inputs={
            "x": floats("batch items"),
            "n": whole("batch items", 20, low=-20, dtype=torch.int32),
        },
    ),
    "half_island": Plain(build=HalfIsland, inputs={"x": floats("batch 6")}),
    "half_precision": Plain(build=HalfPrecision, inputs={"x": floats("batch 6", torch.float16)}),
    "brain_precision": Plain(build=BrainPrecision, inputs={"x": floats("batch 6")}),
    "double_precision": Plain(
        build=DoublePrecision, inputs={"x": floats("batch 6", torch.float64)}
    ),
    "double_activation": Plain(
        build=DoubleActivation, inputs={"x": floats("batch 6", torch.float64)}
    ),
    "quantized": Plain(build=Quantized, inputs={"x": floats("batch 8")}),
}
