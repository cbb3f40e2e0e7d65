"""Usage-based: a TorchScript trace of the modules that the forward pass really uses.

Where a branch or loop on tensor values must be kept, the module is scripted before the
trace, and TorchScript's exporter writes it as ONNX If and Loop.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import onnx
import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import TorchTensor
from torch import nn

from strategies import (
    branches,
    hierarchy,
    internals,
    torchscript,
    torchscript_attention,
    torchscript_limits,
    torchscript_masks,
    torchscript_refusals,
    torchscript_scopes,
    torchscript_views,
)
from strategies.autograd_functions import without_gradients
from strategies.base import VOID, ExportRequest, ExportStrategy, first_line
from strategies.calling import NamedCall, unique_names
from strategies.compositions import COMPOSITIONS
from strategies.errors import (
    CaptureError,
    LoweringError,
    StrategyUnavailableError,
    VoidReadError,
)
from strategies.exportable import exportable
from strategies.packed_vision import PackedVision
from strategies.patching import attributes_restored
from strategies.void import (
    guarded,
    is_void,
    refuse_constant,
    void_operators,
    void_parameters,
)

if TYPE_CHECKING:
    from strategies import torchscript_loops


class UsageBasedStrategy(ExportStrategy):
    """Captures by `torch.jit.trace`, lowers by torch's TorchScript symbolics."""

    name: ClassVar[str] = "usage_based"
    joins: ClassVar[bool] = True

    def _export(self, model: nn.Module, request: ExportRequest) -> ir.Model:
        internals.require_supported_torch(internals.TRACING)
        body = _scripted(model, request) if request.candidate.scripted else model
        if request.beyond is None:
            return _capture(model, body, request, {})[0]
        beyond = replace(request, inputs=request.beyond)
        other, _, answers = _capture(model, body, beyond, {})
        graph_model, condition, _ = _capture(model, body, request, answers)
        if condition is None:
            raise CaptureError("forward takes the same branches at both examples' sizes")
        branches.join(graph_model, condition, other)
        return graph_model


def _capture(
    model: nn.Module, body: nn.Module, request: ExportRequest, others: branches.Answers
) -> tuple[ir.Model, ir.Value | None, branches.Answers]:
    """The graph, what is true of sizes on this way (`branches.Decisions`), and its answers."""
    from strategies import torchscript_loops  # noqa: PLC0415 - it imports what was just made sure of

    loops = torchscript_loops.Loops() if request.dynamic_axes else None
    try:
        graph_model, call = _traced(model, body, request, loops, others)
    except Exception:
        if loops is None or not loops.count:
            raise
        graph_model, call = _traced(model, body, request, None, others)
    outputs = graph_model.graph.outputs
    parts = call.decisions.parting is not None
    condition = outputs[-1] if parts else None
    outputs[len(request.output_names) :] = []
    _attach_weights(graph_model.graph, call, len(request.inputs))
    for node in hierarchy.all_nodes(graph_model.graph):
        _take_zeros_as_sizes(node)
        scope = torchscript_scopes.scope_from_name(node.name or "")
        if scope is not None:
            hierarchy.mark(node, scope)
    return graph_model, condition, call.decisions.answers


def _traced(
    model: nn.Module,
    body: nn.Module,
    request: ExportRequest,
    loops: torchscript_loops.Loops | None,
    others: branches.Answers,
) -> tuple[ir.Model, _TracedCall]:
    """Traces a call of the body, its loops over sizes kept or unrolled."""
    from strategies import loop_bodies, torchscript_scans  # noqa: PLC0415 - they import what was just made sure of

    void = request.candidate.weights == VOID
    replacements: Mapping[Any, Callable[..., Any]] = guarded(COMPOSITIONS) if void else COMPOSITIONS
    if loops:
        replacements = loops.around(replacements)
    around = _without_values if void else nullcontext
    call = _TracedCall(body, request, around, others).eval()
    with (
        attributes_restored(model),
        exportable(model, plain_attention=False, replacements=replacements),
        without_gradients(),
        PackedVision(model).applied(),
        torchscript_scans.kept_whole(model),
        loops.kept(model) if loops else nullcontext(),
        torchscript_scopes.exact_scopes(call),
        _numbers_kept(),
        torchscript_limits.kept(model),
        torchscript_attention.projected_apart(),
        torchscript_masks.broadcast(),
        torchscript_refusals.lifted(),
        call.decisions.noted(),
        torchscript.without_weights(call, refuse_constant),
        torchscript.without_needless_passes(),
        torchscript_views.replayed(),
        void_parameters(model) if void else nullcontext(),
    ):
        proto = _trace_and_lower(call, request)
    graph_model = ir.from_proto(proto)
    torchscript_scans.fill_in(graph_model)
    loop_bodies.fill_in(graph_model)
    return graph_model, call


class _TracedCall(NamedCall):
    """Returns what was asked for and nothing else, every input, and where it parts from others.

    Sizes in an output look like tensors while they are traced. The exporter drops inputs
    that nothing uses, and gives their names to others.
    """

    def __init__(
        self,
        module: nn.Module,
        request: ExportRequest,
        around: Callable[[], AbstractContextManager[None]],
        others: branches.Answers,
    ) -> None:
        super().__init__(module, tuple(request.inputs), request.constants, around)
        self.output_names = request.output_names
        self.decisions = branches.Decisions(others)

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Returns the outputs in the order of their names, the inputs, and `Decisions.parting`."""
        names, outputs = zip(*self.named_outputs(*tensors), strict=True)
        named = dict(zip(unique_names(names, taken=self.input_names), outputs, strict=True))
        parting = self.decisions.parting
        last = () if parting is None else (parting,)
        return (*(named[name] for name in self.output_names), *tensors, *last)


@contextmanager
def _without_values() -> Iterator[None]:
    """Runs forward on void weights; eager ran it, so what fails here fails for their lack."""
    try:
        with void_operators(open_sizes=True):
            yield
    except CaptureError:
        raise
    except Exception as error:
        raise VoidReadError(f"forward does not run without weights: {first_line(error)}") from error


@contextmanager
def _numbers_kept() -> Iterator[None]:
    """Modules keep a number that forward writes back as a traced size of the same value.

    A window that forward limits to the image's size depends on that size in the trace,
    although it is the window's own wherever the trace's branch is the right one.
    """
    every_module: Any = nn.Module
    write = every_module.__setattr__

    def written(module: nn.Module, name: str, value: Any) -> None:
        held = module.__dict__.get(name)
        if type(held) is int and isinstance(value, torch.Tensor) and held == _number(value):
            return
        write(module, name, value)

    every_module.__setattr__ = written
    try:
        yield
    finally:
        every_module.__setattr__ = write


def _number(tensor: torch.Tensor) -> int | None:
    """The number that a traced size stands for."""
    whole = tensor.dim() == 0 and tensor.dtype in {torch.int32, torch.int64}
    return int(tensor) if whole and not is_void(tensor) else None


def _scripted(model: nn.Module, request: ExportRequest) -> nn.Module:
    """The module with its branches and loops, for a trace of what is around it."""
    if request.constants:
        names = ", ".join(request.constants)
        msg = f"a scripted forward takes tensors only, and {names} would have to be bound"
        raise StrategyUnavailableError(msg)
    try:
        return torch.jit.script(model)
    except Exception as error:
        msg = f"the module cannot be scripted: {first_line(error)}"
        raise CaptureError(msg) from error


def _trace_and_lower(call: NamedCall, request: ExportRequest) -> onnx.ModelProto:
    buffer = io.BytesIO()
    tensors = tuple(request.inputs.values())
    target: nn.Module = call
    with _quiet():
        if request.candidate.scripted:
            # A scripted submodule is inlined only by a trace of what is around it.
            target = torch.jit.trace(  # type: ignore[no-untyped-call]  # torch has no types here
                call, tensors, check_trace=False
            )
        try:
            torch.onnx.export(
                target,
                tensors,
                buffer,  # type: ignore[arg-type]  # a file object serves, as documented
                dynamo=False,
                # Weights stay out of the exporter's way and are attached as they are.
                export_params=False,
                do_constant_folding=False,
                # Keeps weights of equal values apart, each under its own name.
                keep_initializers_as_inputs=True,
                opset_version=request.opset,
                input_names=list(request.inputs),
                output_names=list(request.output_names),
                dynamic_axes=_dynamic_axes(request),
            )
        except torch.onnx.errors.UnsupportedOperatorError as error:
            raise LoweringError(first_line(error)) from error
    proto = onnx.ModelProto()
    proto.ParseFromString(buffer.getvalue())
    return proto


def _dynamic_axes(request: ExportRequest) -> dict[str, dict[int, str]]:
    axes = {**request.dynamic_axes, **(request.output_axes if request.dynamic_axes else {})}
    return {name: dict(names) for name, names in axes.items() if names}


def _attach_weights(graph: ir.Graph, call: NamedCall, count: int) -> None:
    """Turns the graph inputs that stand for parameters into initializers, without a copy."""
    tensors = call.state_dict(keep_vars=True)
    prefix = f"{NamedCall.PREFIX}."
    weights = list(graph.inputs)[count:]
    graph.inputs[count:] = []
    for value in weights:
        tensor = tensors.get(value.name or "")
        if tensor is None:
            raise LoweringError(f"graph input {value.name!r} is neither an input nor a weight")
        value.name = (value.name or "").removeprefix(prefix)
        value.const_value = TorchTensor(tensor.detach(), name=value.name)
        graph.register_initializer(value)


def _take_zeros_as_sizes(node: ir.Node) -> None:
    """Has a computed shape mean what it means in torch: in ONNX, zero is "as it was"."""
    if node.op_type == "Reshape" and node.inputs[1] is not None:
        shape = node.inputs[1].producer()
        if shape is not None and shape.op_type != "Constant":
            node.attributes["allowzero"] = ir.AttrInt64("allowzero", 1)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences what the tracer says about every constant; verification judges the result."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
