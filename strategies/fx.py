"""FX: the symbolic graph that `torch.export` captures, lowered by torchlib.

Capture is `torch.export` in its non-strict form, under the patches that
`transformers.exporters` has for the module's parts from transformers. Forward runs on
tensors without data, so a branch on a tensor's value is an error and never a choice
frozen unseen, and the axes that stay symbolic are free in the file too.

`torch.fx.symbolic_trace` takes no part: the non-strict capture follows all that it can
follow, costs the same on a plain CNN or MLP, and keeps the module path of every
operation, where a traced copy of the module keeps those of its leaves.
"""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
import torch._dynamo.config
from torch.fx.experimental.symbolic_shapes import is_concrete_int

from strategies.base import ExportRequest, ExportStrategy, first_line
from strategies.calling import NamedCall
from strategies.errors import CaptureError
from strategies.exported_program import lower, quiet
from strategies.transformers_patches import patched_for_export

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch import nn

# Frames from these folders are the exporters' own, not the model's.
_EXPORTERS = (
    str(Path(torch.__file__).parent),
    str(Path(__file__).parent),
    os.path.join("transformers", "exporters"),  # noqa: PTH118 - a part of a path as text
    os.path.join("site-packages", "sympy"),  # noqa: PTH118 - as above
)


class FxStrategy(ExportStrategy):
    """Captures by `torch.export`, lowers through torchlib."""

    name: ClassVar[str] = "fx"

    def _export(self, model: nn.Module, request: ExportRequest) -> ir.Model:
        call = NamedCall(model, tuple(request.inputs), request.constants).eval()
        with quiet(), patched_for_export(model) as translations:
            program = _capture(call, request)
            return lower(program, model, translations, opset=request.opset)


def _capture(call: NamedCall, request: ExportRequest) -> torch.export.ExportedProgram:
    free = torch.export.Dim.AUTO
    axes = tuple(dict.fromkeys(request.dynamic_axes.get(name, {}), free) for name in request.inputs)
    try:
        with torch.no_grad(), _without_slow_cache(dynamic=any(axes)):
            program = torch.export.export(
                call,
                tuple(request.inputs.values()),
                dynamic_shapes={"tensors": axes},
                strict=False,
            )
    except Exception as error:
        raise CaptureError(_explain(error)) from error
    _require_free_axes(program, request)
    return program


@contextlib.contextmanager
def _without_slow_cache(*, dynamic: bool) -> Iterator[None]:
    """Switches off a cache of torch's that, with symbolic sizes, costs a third of the capture."""
    if not dynamic:
        yield
        return
    with torch._dynamo.config.patch(fake_tensor_cache_enabled=False):  # noqa: SLF001 - the switch's documented name
        yield


def _require_free_axes(program: torch.export.ExportedProgram, request: ExportRequest) -> None:
    """Raises CaptureError where an axis that should vary was given a fixed size."""
    given = set(program.graph_signature.user_inputs)
    placeholders = [node for node in program.graph.nodes if node.name in given]
    for name, node in zip(request.inputs, placeholders, strict=True):
        for axis, label in request.dynamic_axes.get(name, {}).items():
            size = node.meta["val"].shape[axis]
            if is_concrete_int(size):
                msg = f"axis {axis} ({label}) of {name} came out fixed at {size}"
                raise CaptureError(msg, hint="forward depends on that size in Python")


def _explain(error: Exception) -> str:
    """The essential sentence of an exporter's error, and the line of the model it is about."""
    sentence = first_line(error).partition(" (unhinted: ")[0]
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not any(folder in frame.filename for folder in _EXPORTERS)
    ]
    if not frames:
        return sentence
    frame = frames[-1]
    where = f"{sentence} at {Path(frame.filename).name}:{frame.lineno}"
    return f"{where}: {frame.line}" if frame.line else where
