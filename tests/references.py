"""Functions and recipes for the tests of verification and of the reference behind it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from selector.inputs import ExampleInputs, InputSpec
from selector.reference import Reference, compute_reference

X = InputSpec(name="x", axes=("batch_size", "width"), dtype="float32", fill="normal")
FIXED_X = InputSpec(name="x", axes=(2, 5), dtype="float32", fill="normal")


def inputs(*specs: InputSpec, constants: dict[str, object] | None = None) -> ExampleInputs:
    return ExampleInputs(
        specs=specs or (X,),
        sizes={"batch_size": 2, "width": 5},
        other_sizes={"batch_size": 3, "width": 7},
        constants=constants or {},
    )


def fixed(*specs: InputSpec) -> ExampleInputs:
    return ExampleInputs(specs=specs or (FIXED_X,), sizes={}, other_sizes={})


class Function(nn.Module):
    """A module around a function of its inputs."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, **tensors: Any) -> Any:
        return self.function(**tensors)


def reference_of(
    function: Callable[..., Any], recipe: ExampleInputs | None = None, **options: Any
) -> Reference:
    return compute_reference(Function(function), recipe or inputs(), **options)
