"""Fake inputs whose axes that vary have symbols for sizes, and what became of the symbols."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch._dynamo.source import ConstantSource
from torch._functorch import config as functorch_config
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.fx.experimental.symbolic_shapes import (
    DimDynamic,
    GuardOnDataDependentSymNode,
    ShapeEnv,
)

from strategies.errors import FrozenAxisError

# Raised where forward asks for a value that fake tensors do not have.
VALUE_NEEDED = (
    DataDependentOutputException,
    DynamicOutputShapeException,
    GuardOnDataDependentSymNode,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeInputs:
    """Inputs without values.

    Attributes:
        mode: The mode that the tensors belong to.
        tensors: In the order of the inputs.
        symbols: The size of each axis that varies, by its name.
        unknowns: What stands for that size in expressions as long as it is free, by the same.
    """

    mode: FakeTensorMode
    tensors: list[torch.Tensor]
    symbols: Mapping[str, torch.SymInt]
    unknowns: Mapping[str, object]


def fake_inputs(
    inputs: Mapping[str, torch.Tensor],
    dynamic_axes: Mapping[str, Mapping[int, str]],
    *,
    follow_values: bool,
) -> FakeInputs:
    """Makes fake tensors of the inputs' shapes, with one symbol per name of an axis.

    Args:
        inputs: Real tensors by name.
        dynamic_axes: For each input its axes that vary, index to name.
        follow_values: Whether each fake tensor carries the real one along, so that
            decisions on values can be taken as the real values take them.
    """
    with functorch_config.patch(fake_tensor_propagate_real_tensors=follow_values):
        environment = ShapeEnv(duck_shape=False)
        mode = FakeTensorMode(shape_env=environment, allow_non_fake_inputs=True)
    if dynamic_axes:
        # A cache that hardly ever hits where sizes are symbols, and costs a third of a capture.
        mode.cache_enabled = False
    symbols: dict[str, torch.SymInt] = {}
    tensors: list[torch.Tensor] = []
    for name, tensor in inputs.items():
        sizes: list[int | torch.SymInt] = list(tensor.shape)
        for axis, axis_name in dynamic_axes.get(name, {}).items():
            if axis_name not in symbols:
                symbols[axis_name] = _symbol(environment, axis_name, tensor.shape[axis])
            sizes[axis] = symbols[axis_name]
        with mode:
            fake = torch.empty(sizes, dtype=tensor.dtype)
        if follow_values:
            fake.real_tensor = tensor.clone()  # type: ignore[attr-defined]  # it is a FakeTensor
        tensors.append(fake)
    unknowns = {name: symbol.node.expr for name, symbol in symbols.items()}
    return FakeInputs(mode=mode, tensors=tensors, symbols=symbols, unknowns=unknowns)


def check_free(inputs: FakeInputs) -> None:
    """Makes sure that every axis that was to vary still can.

    Raises:
        FrozenAxisError: One became fixed, or two became equal.
    """
    seen: dict[object, str] = {}
    for name, symbol in inputs.symbols.items():
        expression = symbol.node.expr
        if expression.is_number:
            where = _where(inputs.mode, inputs.unknowns[name])
            raise FrozenAxisError(f"axis {name} became fixed at {expression}{where}")
        if expression in seen:
            raise FrozenAxisError(f"axes {seen[expression]} and {name} must be equal")
        seen[expression] = name


def _symbol(environment: ShapeEnv, name: str, size: int) -> torch.SymInt:
    source = ConstantSource(name)
    expression = environment.create_symbol(size, source, dynamic_dim=DimDynamic.DYNAMIC)
    symbol = environment.create_symintnode(expression, hint=size, source=source)
    if not isinstance(symbol, torch.SymInt):
        raise FrozenAxisError(f"axis {name} cannot vary")
    return symbol


def _where(mode: FakeTensorMode, unknown: object) -> str:
    """The line of forward that fixed a size, where torch noted it."""
    guards = mode.shape_env.guards if mode.shape_env is not None else []
    for guard in guards:
        frame = guard.sloc.framework_loc
        fixed_here = guard.expr.is_Equality and guard.expr.free_symbols == {unknown}
        if fixed_here and isinstance(frame, traceback.FrameSummary):
            return f" by {Path(frame.filename).name}:{frame.lineno} in {frame.name}"
    return ""
