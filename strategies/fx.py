"""FX: the symbolic graph that `torch.export` captures, lowered by torchlib.

Capture is `torch.export` in its non-strict form, under the per-model patches of
`transformers.exporters` where the module has parts from transformers. It runs forward on
tensors without data, so a branch on a tensor's value is an error and never a frozen
choice, and guards tell which axes are really free. `torch.fx.symbolic_trace` has no part
in it: whatever it can follow, the non-strict capture follows too, in the same time and
with the module path of every operation, which a traced copy of the module would lose.
"""

from __future__ import annotations

import linecache
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch

from strategies.base import ExportRequest, ExportStrategy, first_line
from strategies.calling import NamedCall
from strategies.errors import CaptureError
from strategies.exported_program import lower, quiet
from strategies.transformers_patches import patched_for_export

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch import nn

# Frames of these packages are the exporter's own, not the model's.
_EXPORTER_FOLDERS = tuple(
    str(folder)
    for folder in (
        Path(torch.__file__).parent,
        Path(__file__).parent,
    )
)


class FxStrategy(ExportStrategy):
    """Captures by `torch.export`, lowers through torchlib."""

    name: ClassVar[str] = "fx"

    def _export(self, model: nn.Module, request: ExportRequest) -> ir.Model:
        call = NamedCall(model, tuple(request.inputs), request.constants).eval()
        with quiet(), patched_for_export(model) as patches:
            program = _capture(call, request)
            return lower(program, call, patches, opset=request.opset)


def _capture(call: NamedCall, request: ExportRequest) -> torch.export.ExportedProgram:
    free = torch.export.Dim.AUTO
    shapes = tuple(
        dict.fromkeys(request.dynamic_axes.get(name, {}), free) for name in request.inputs
    )
    try:
        with torch.no_grad():
            program = torch.export.export(
                call,
                tuple(request.inputs.values()),
                dynamic_shapes={"tensors": shapes},
                strict=False,
            )
    except Exception as error:
        raise CaptureError(_explain(error)) from error
    _require_free_axes(program, request)
    return program


def _require_free_axes(program: torch.export.ExportedProgram, request: ExportRequest) -> None:
    """Raises CaptureError where an axis that should vary was given a fixed size."""
    names = set(program.graph_signature.user_inputs)
    placeholders = [
        node for node in program.graph.nodes if node.op == "placeholder" and node.name in names
    ]
    for name, node in zip(request.inputs, placeholders, strict=True):
        for axis, label in request.dynamic_axes.get(name, {}).items():
            size = node.meta["val"].shape[axis]
            if isinstance(size, int):
                msg = f"axis {axis} ({label}) of {name} came out fixed at {size}"
                raise CaptureError(msg, hint="the model's code depends on that size")


def _explain(error: Exception) -> str:
    """The essential sentence of an exporter's error, and the line of the model it is about."""
    sentence = first_line(error).partition(" (unhinted: ")[0]
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(_EXPORTER_FOLDERS)
    ]
    if not frames:
        return sentence
    frame = frames[-1]
    code = frame.line or linecache.getline(frame.filename, frame.lineno or 0).strip()
    return f"{sentence} at {Path(frame.filename).name}:{frame.lineno}: {code}"
