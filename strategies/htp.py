"""Hierarchical trace-and-project: one recorded execution, lowered operator by operator."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from strategies import internals
from strategies.base import ExportRequest, ExportStrategy

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch import nn


class HtpStrategy(ExportStrategy):
    """Records every aten operation of one run, with the module that issued it.

    Follows data-dependent control flow along the path that the example inputs take. A
    dynamic candidate records with symbolic sizes and real shapes only where they are fixed.
    """

    name: ClassVar[str] = "htp"

    def _export(self, model: nn.Module, request: ExportRequest) -> ir.Model:
        internals.require_supported_torch()
        from strategies import (  # noqa: PLC0415 - they import what was just made sure of
            recording,
            simplification,
            torchlib,
        )

        tools = torchlib.toolkit()
        record: Callable[..., recording.Record] = recording.record
        if request.candidate.dynamic and request.dynamic_axes:
            record = functools.partial(recording.record_symbolic, dynamic_axes=request.dynamic_axes)
        with _batched_experts(model):
            recorded = record(
                model, request.inputs, request.constants, decompositions=tools.decompositions
            )
        graph = torchlib.lower(recorded, _tensor_names(model))
        simplification.simplify(graph)
        return graph


def _tensor_names(model: nn.Module) -> dict[int, str]:
    """Dotted names of parameters and buffers by the tensor's id, the first of each."""
    names = {id(buffer): name for name, buffer in model.named_buffers()}
    return names | {id(parameter): name for name, parameter in model.named_parameters()}


@contextlib.contextmanager
def _batched_experts(model: nn.Module) -> Iterator[None]:
    """Makes transformers models compute their experts with operators that have a lowering.

    What was set before is set again afterwards.
    """
    modules: list[Any] = [
        module for module in model.modules() if hasattr(module, "set_experts_implementation")
    ]
    # They can be set publicly, but not read.
    saved = [(module, module.config._experts_implementation) for module in modules]  # noqa: SLF001
    try:
        for module, _ in saved:
            module.set_experts_implementation("batched_mm")
        yield
    finally:
        for module, implementation in saved:
            module.set_experts_implementation(implementation)
