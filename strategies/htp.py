"""Hierarchical trace-and-project: one recorded execution, lowered operator by operator."""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import torch

from strategies import internals
from strategies.base import ExportRequest, ExportStrategy
from strategies.exportable import exportable
from strategies.packed_vision import PackedVision
from strategies.transformers_patches import translations_for

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch import nn

    from strategies import symbolic_loops


class HtpStrategy(ExportStrategy):
    """Records every aten operation of one run, with the module that issued it.

    Follows data-dependent control flow along the path that the example inputs take. A
    dynamic candidate records with symbolic sizes and real shapes only where they are fixed.
    """

    name: ClassVar[str] = "htp"

    def warm_up(self) -> None:
        """Reads torchlib, which takes seconds, and imports what records need."""
        internals.require_supported_torch(internals.RECORDING)
        importlib.import_module("strategies.symbolic")
        importlib.import_module("strategies.torchlib").toolkit()

    def _export(self, model: nn.Module, request: ExportRequest) -> ir.Model:
        internals.require_supported_torch(internals.RECORDING)
        from strategies import symbolic_loops  # noqa: PLC0415 - it imports what was just made sure of

        open_sizes = request.candidate.dynamic and request.dynamic_axes
        loops = symbolic_loops.Loops() if open_sizes else None
        try:
            return _recorded(model, request, loops)
        except Exception:
            if loops is None or not loops.count:
                raise
            return _recorded(model, request, None)


def _recorded(
    model: nn.Module, request: ExportRequest, loops: symbolic_loops.Loops | None
) -> ir.Model:
    """Records a call of the module, its loops over sizes kept or unrolled, and lowers it."""
    from strategies import (  # noqa: PLC0415 - they import private parts of torch
        loop_bodies,
        loop_keys,
        pieces,
        recording,
        scans,
        simplification,
        sizes,
        torchlib,
    )

    tools = torchlib.toolkit()
    record: Callable[..., recording.Record] = recording.record
    keys = loop_keys.SUBSCRIPTS if loops else None
    with contextlib.ExitStack() as stack:
        stack.enter_context(exportable(model, plain_attention=False, replacements=keys))
        stack.enter_context(scans.solved_at_once(model))
        if request.candidate.dynamic and request.dynamic_axes:
            axes = request.dynamic_axes
            record = functools.partial(recording.record_symbolic, dynamic_axes=axes)
            stack.enter_context(PackedVision(model).applied())
            stack.enter_context(scans.kept_whole(model))
            stack.enter_context(pieces.kept_together())
            stack.enter_context(sizes.kept_open(model))
        if loops:
            stack.enter_context(loops.kept(model))
        recorded = record(
            model, request.inputs, request.constants, decompositions=tools.decompositions
        )
    translations = {
        operator: function
        for operator, function in translations_for(model).items()
        if operator not in _TORCHLIB_IS_RIGHT
    }
    graph = torchlib.lower(recorded, _tensor_names(model), translations)
    simplification.simplify(graph)
    loop_bodies.fill_in(graph)
    return graph


# torchlib's own write to a mask takes values of every shape.
_TORCHLIB_IS_RIGHT = frozenset({torch.ops.aten.index_put.default})


def _tensor_names(model: nn.Module) -> dict[int, str]:
    """Dotted names of parameters and buffers by the tensor's id, the first of each."""
    names = {id(buffer): name for name, buffer in model.named_buffers()}
    return names | {id(parameter): name for name, parameter in model.named_parameters()}
