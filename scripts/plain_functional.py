"""Plain modules that write in place, differentiate, map over others, or are changed by hooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from scripts.plain_inputs import Plain, floats


class InPlace(nn.Module):
    """Writes into slices, under a mask, and over what it just read."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        """Keeps (batch, 6)."""
        y: Tensor = self.layer(x).clone()
        y[:, 0] = 1.0
        y[:, 1:3] *= 2
        y[:, -1] += y[:, 0]
        y[y < 0] = 0.5
        y.clamp_(max=2).sub_(x, alpha=0.1)
        view = y[:, 2:4]
        view.copy_(view.flip(-1))
        return y


class WritesInput(nn.Module):
    """Changes what it was given, which callers may or may not expect."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Keeps (batch, 4)."""
        x.add_(1.0)
        x[:, 0].zero_()
        out: Tensor = self.layer(x)
        return out


class _Clipped(torch.autograd.Function):
    """Rounds, with the gradient of a clipped identity."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bound: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.bound = bound
        return torch.round(x.clamp(-bound, bound))

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return slope * (x.abs() <= ctx.bound), None


class CustomGradient(nn.Module):
    """Uses an autograd function of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Keeps (batch, 5)."""
        apply: Callable[..., Tensor] = _Clipped.apply
        rounded = apply(self.layer(x) * 4, 3.0)
        return rounded / 4


class Gumbel(nn.Module):
    """Picks one of several hard, as a straight-through estimate in training."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Linear(6, 4)
        self.values = nn.Parameter(torch.randn(4, 3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, 6) to (batch, 3) and (batch, 4)."""
        scores = self.scores(x)
        if self.training:
            hard = functional.gumbel_softmax(scores, hard=True)
        else:
            soft = scores.softmax(dim=-1)
            one = torch.zeros_like(soft).scatter_(-1, soft.argmax(-1, keepdim=True), 1.0)
            hard = one - soft.detach() + soft
        return hard @ self.values, hard


class Checkpointed(nn.Module):
    """Runs its blocks under gradient checkpointing."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(6, 6), nn.ReLU()) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Keeps (batch, 6)."""
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False)
        return x


class Hyper(nn.Module):
    """A network makes the weights that another is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.maker = nn.Linear(3, 4 * 2)
        self.layer = nn.Linear(4, 2)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """(batch, 4) and (3,) to (batch, 2)."""
        weights = {"weight": self.maker(context).view(2, 4), "bias": self.layer.bias}
        out: Tensor = functional_call(self.layer, weights, (x,))
        return out


class Ensemble(nn.Module):
    """Three networks at once, their weights stacked and mapped over."""

    def __init__(self) -> None:
        super().__init__()
        self.members = nn.ModuleList(nn.Linear(5, 2) for _ in range(3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, 5) to mean and deviation, (batch, 2) each."""
        parameters, buffers = stack_module_state(list(self.members))
        weights = {name: value.detach() for name, value in parameters.items()}

        def call(weights: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
            out: Tensor = functional_call(self.members[0], (weights, buffers), (x,))
            return out

        said = vmap(call)(weights, buffers)
        return said.mean(dim=0), said.std(dim=0)


class Physics(nn.Module):
    """Returns the field and its slope at each point, by differentiating in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.field = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """(points, 2) to (points,) and (points, 2)."""

        def at(point: Tensor) -> Tensor:
            value: Tensor = self.field(point).squeeze(-1)
            return value

        return at(points), vmap(grad(at))(points)


class Flow(nn.Module):
    """Integrates a learnt field by Runge and Kutta's method, in a fixed number of steps."""

    def __init__(self) -> None:
        super().__init__()
        self.field = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))

    def forward(self, state: Tensor, end: float = 1.0) -> Tensor:
        """Keeps (batch, 3)."""
        step = end / 5
        for i in range(5):
            first = self._slope(state, i * step)
            second = self._slope(state + step / 2 * first, (i + 0.5) * step)
            third = self._slope(state + step / 2 * second, (i + 0.5) * step)
            fourth = self._slope(state + step * third, (i + 1) * step)
            state = state + step / 6 * (first + 2 * second + 2 * third + fourth)
        return state

    def _slope(self, state: Tensor, time: float) -> Tensor:
        slope: Tensor = self.field(torch.cat([state, torch.full_like(state[:, :1], time)], -1))
        return slope


class Numpy(nn.Module):
    """Leaves torch for numpy in the middle of forward."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Keeps (batch, 4)."""
        counts = self.layer(x).detach().numpy()
        return torch.from_numpy(counts - counts.mean(axis=0)).abs()


class Hooked(nn.Module):
    """Its layers are changed by hooks, before and after."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)
        self.layer.register_forward_pre_hook(_halved)
        self.layer.register_forward_hook(_activated)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 4) to (batch, 2)."""
        out: Tensor = self.head(self.layer(x))
        return out


def _halved(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x / 2 for x in given)


def _activated(_: nn.Module, __: object, output: Tensor) -> Tensor:
    return torch.relu(output)


MODULES = {
    "in_place": Plain(build=InPlace, inputs={"x": floats("batch 6")}),
    "writes_input": Plain(build=WritesInput, inputs={"x": floats("batch 4")}),
    "custom_gradient": Plain(build=CustomGradient, inputs={"x": floats("batch 5")}),
    "gumbel": Plain(build=Gumbel, inputs={"x": floats("batch 6")}),
    "checkpointed": Plain(build=Checkpointed, inputs={"x": floats("batch 6")}),
    "hyper": Plain(build=Hyper, inputs={"x": floats("batch 4"), "context": floats("3")}),
    "ensemble": Plain(build=Ensemble, inputs={"x": floats("batch 5")}),
    "physics": Plain(build=Physics, inputs={"points": floats("points 2")}),
    "flow": Plain(build=Flow, inputs={"state": floats("batch 3"), "end": 0.5}),
    "numpy": Plain(build=Numpy, inputs={"x": floats("batch 4")}),
    "hooked": Plain(build=Hooked, inputs={"x": floats("batch 4")}),
}
