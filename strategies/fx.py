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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from strategies import internals, sizes
from strategies.base import ExportRequest, ExportStrategy, first_line
from strategies.calling import NamedCall
from strategies.errors import (
    CaptureError,
    DataDependentError,
    FrozenAxisError,
    StrategyUnavailableError,
)
from strategies.patching import attribute, attributes_restored
from strategies.recurrent import KeepRecurrent
from strategies.transformers_patches import load_translations, patched_for_export

if TYPE_CHECKING:
    import onnx_ir as ir

    from strategies import symbolic_loops

# Nothing public says whether a size was fixed, tells operators from other functions, traces
# one operator by itself, or changes a graph that is about to be lowered.
PRIVATE_PARTS = (
    "torch.export:Dim.AUTO",
    "torch.export.graph_signature:TensorArgument",
    "torch.onnx._internal.exporter._core:_prepare_exported_program_for_export",
    "torch._dispatch.python:enable_python_dispatcher",
    "torch._guards:detect_fake_mode",
    "torch.fx.experimental.proxy_tensor:make_fx",
    "torch.fx.experimental.symbolic_shapes:is_concrete_int",
    "torch._dynamo.config:fake_tensor_cache_enabled",
    "torch._higher_order_ops.associative_scan:associative_scan",
    "torch._ops:HigherOrderOperator",
    "torch._ops:OpOverload",
    "torch._subclasses.fake_tensor:FakeTensor.tolist",
    "torch._subclasses.functional_tensor:FunctionalTensor.tolist",
    "torch:_from_functional_tensor",
    "torch.fx.experimental.symbolic_shapes:free_unbacked_symbols",
    "torch.fx.experimental.symbolic_shapes:ShapeEnv.set_real_tensor_prop_unbacked_vals",
    "onnxscript.function_libs.torch_lib.registration:default_registry",
)
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

    def warm_up(self) -> None:
        """Imports and builds what exporting the smallest of modules takes."""
        _require_private_parts()
        from strategies.exported_program import lower, quiet  # noqa: PLC0415 - needs those parts

        call = NamedCall(nn.Linear(2, 2), ("input",), {}).eval()
        with quiet():
            load_translations()
            program = _run_export(call, (torch.zeros(3, 2),), ((0,),))
            lower(program, call.module, {}, opset=18)

    def _export(self, model: nn.Module, request: ExportRequest) -> ir.Model:
        _require_private_parts()
        from strategies import symbolic_loops  # noqa: PLC0415 - needs those parts
        from strategies.exported_program import quiet  # noqa: PLC0415 - as above

        loops = symbolic_loops.Loops() if request.dynamic_axes else None
        with quiet():
            try:
                return _captured(model, request, loops)
            except Exception:
                if loops is None or not loops.count:
                    raise
                return _captured(model, request, None)


def _captured(
    model: nn.Module, request: ExportRequest, loops: symbolic_loops.Loops | None
) -> ir.Model:
    """Captures a call of the module, its loops over sizes kept or unrolled, and lowers it."""
    from strategies import loop_bodies  # noqa: PLC0415 - needs private parts of torch
    from strategies.exported_program import lower  # noqa: PLC0415 - as above

    call = NamedCall(model, tuple(request.inputs), request.constants).eval()
    with patched_for_export(model, open_loops=loops is not None) as translations:
        with loops.kept(model) if loops else contextlib.nullcontext():
            program = _capture(call, request)
        graph = lower(program, model, translations, opset=request.opset)
    loop_bodies.fill_in(graph)
    return graph


def _require_private_parts() -> None:
    for part in PRIVATE_PARTS:
        try:
            internals.find(part)
        except (ImportError, AttributeError) as error:
            msg = f"torch {torch.__version__} or its onnxscript has no {part.replace(':', '.')}"
            raise StrategyUnavailableError(
                msg, stage="prepare", hint="install the versions that constraints.txt names"
            ) from error


def _capture(call: NamedCall, request: ExportRequest) -> torch.export.ExportedProgram:
    free = tuple(tuple(request.dynamic_axes.get(name, ())) for name in request.inputs)
    try:
        program = _run_export(call, tuple(request.inputs.values()), free)
    except Exception as error:
        from strategies.symbolic import VALUE_NEEDED  # noqa: PLC0415 - slow, and seldom needed

        kind = DataDependentError if isinstance(error, VALUE_NEEDED) else CaptureError
        raise kind(_explain(error)) from error
    _require_free_axes(program, request)
    return program


def _run_export(
    call: NamedCall, tensors: tuple[torch.Tensor, ...], free: tuple[tuple[int, ...], ...]
) -> torch.export.ExportedProgram:
    axes = tuple(dict.fromkeys(indices, torch.export.Dim.AUTO) for indices in free)
    slow = _without_slow_cache(dynamic=any(free))
    model = call.module
    open_sizes = sizes.kept_open(model, values=True)
    as_it_is = attribute(nn.Module, "to", _to)
    with torch.no_grad(), slow, attributes_restored(model), open_sizes, as_it_is, KeepRecurrent():
        return torch.export.export(call, tensors, dynamic_shapes={"tensors": axes}, strict=False)


def _to(module: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
    """`Module.to`, which would swap weights, and cannot, where they have the dtype already."""
    tensors = (*module.parameters(), *module.buffers())
    kinds = {item.dtype for item in tensors if item.is_floating_point() or item.is_complex()}
    wanted = (*args, *kwargs.values())
    if len(wanted) == 1 and isinstance(wanted[0], torch.dtype) and kinds <= {wanted[0]}:
        return module
    return _MOVE(module, *args, **kwargs)


_MOVE: Callable[..., nn.Module] = nn.Module.to


@contextlib.contextmanager
def _without_slow_cache(*, dynamic: bool) -> Iterator[None]:
    """Switches off a cache of torch's that, with symbolic sizes, costs a third of the capture."""
    if not dynamic:
        yield
        return
    import torch._dynamo.config  # noqa: PLC0415 - slow, and of no use to a static capture

    with torch._dynamo.config.patch(fake_tensor_cache_enabled=False):  # noqa: SLF001 - the switch's documented name
        yield


def _require_free_axes(program: torch.export.ExportedProgram, request: ExportRequest) -> None:
    """Raises FrozenAxisError where an axis that should vary was given a fixed size."""
    from torch.fx.experimental.symbolic_shapes import is_concrete_int  # noqa: PLC0415 - slow

    given = set(program.graph_signature.user_inputs)
    placeholders = [node for node in program.graph.nodes if node.name in given]
    for name, node in zip(request.inputs, placeholders, strict=True):
        for axis, label in request.dynamic_axes.get(name, {}).items():
            size = node.meta["val"].shape[axis]
            if is_concrete_int(size):
                msg = f"axis {axis} ({label}) of {name} came out fixed at {size}"
                raise FrozenAxisError(
                    msg, hint="something in forward takes that size as a plain number"
                )


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
