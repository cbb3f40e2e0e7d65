"""Hierarchical trace-and-project: one recorded execution, lowered operator by operator."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from strategies.base import ExportRequest, ExportStrategy, first_line
from strategies.errors import CaptureError, StrategyError

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
        from strategies import recording, simplification, torchlib

        tools = torchlib.toolkit()
        axes = request.dynamic_axes if request.candidate.dynamic else {}
        with _plain_implementations(model):
            try:
                record = recording.record(
                    model,
                    request.inputs,
                    request.constants,
                    decompositions=tools.decompositions,
                    dynamic_axes=axes,
                )
            except StrategyError:
                raise
            except Exception as error:
                raise CaptureError(first_line(error), stage="capture") from error
        graph = torchlib.lower(record, _tensor_names(model))
        simplification.simplify(graph)
        return graph


def _tensor_names(model: nn.Module) -> dict[int, str]:
    """Dotted names of parameters and buffers by the tensor's id, the first of each."""
    names = {id(buffer): name for name, buffer in model.named_buffers()}
    return names | {id(parameter): name for name, parameter in model.named_parameters()}


@contextlib.contextmanager
def _plain_implementations(model: nn.Module) -> Iterator[None]:
    """Makes a transformers model compute attention and experts with ordinary operators.

    Its fused attention skips masks by looking at their values, and its grouped experts
    have no lowering. What was set before is set again afterwards.
    """
    yield
