"""The one place that reaches into torch's TorchScript tracer and its ONNX exporter.

Torch has no public way to say what the module scopes of a trace are called, to lower a trace
without handing over its weights, or to pause the tracer while it records an operator.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

_TRACER = "Tracer"
# ruff: noqa: SLF001 - private functions are the point of this file


def scope_name(name: str) -> str:
    """A name in the form in which the tracer keeps scopes."""
    full: str = torch._C._jit_onnx_create_full_scope_name("module", name)
    return full


@contextmanager
def module_names(names: Mapping[nn.Module, str]) -> Iterator[None]:
    """Within it, `torch.onnx.export(dynamo=False)` names scopes by this map.

    Args:
        names: From `scope_name`; the tracer calls `get` once for every call of a module.
    """
    tracer: Any = importlib.import_module("torch.jit._trace")

    def set_up(*_: Any) -> set[str]:
        tracer._trace_module_map = names
        return set()

    with _replaced("_setup_trace_module_map", set_up):
        yield


@contextmanager
def without_weights(call: nn.Module, check: Callable[[torch.Tensor], None]) -> Iterator[None]:
    """Within it, the exporter's passes get the module's buffers only, and no parameter.

    Shape inference would serialise all of them, twice.

    Args:
        call: What is exported.
        check: Is called with every tensor that the trace holds as a constant.
    """
    buffers = {name for name, _ in call.named_buffers()}
    original = _exporter()._get_named_param_dict

    def named(graph: Any, params: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        for node in graph.findAllNodes("prim::Constant"):
            if node.hasAttribute("value") and node.kindOf("value") == "t":
                check(node.t("value"))
        found: dict[str, torch.Tensor] = original(graph, params)
        return {name: tensor for name, tensor in found.items() if name in buffers}

    with _replaced("_get_named_param_dict", named):
        yield


@contextmanager
def without_needless_passes() -> Iterator[None]:
    """Within it, the exporter leaves out two walks over every node, a sixth of its time.

    One gives values names for debugging; the other splits constants that are lists of
    tensors, of which a trace has hardly ever one.
    """
    exporter = _exporter()
    split = exporter._split_tensor_list_constants

    def split_if_any(graph: Any, block: Any) -> None:
        constants = graph.findAllNodes("prim::Constant")
        if any(exporter._is_constant_tensor_list(node) for node in constants):
            split(graph, block)

    with (
        _replaced("_apply_friendly_debug_names", lambda *_: None),
        _replaced("_split_tensor_list_constants", split_if_any),
    ):
        yield


@contextmanager
def before_writes(prepare: Callable[[Any], None]) -> Iterator[None]:
    """Within it, the exporter hands over every graph before it removes operators that write.

    Args:
        prepare: May change the graph.
    """
    split = _exporter()._split_tensor_list_constants

    def prepared(graph: Any, block: Any) -> None:
        prepare(graph)
        split(graph, block)

    with _replaced("_split_tensor_list_constants", prepared):
        yield


@contextmanager
def _replaced(name: str, function: Callable[..., Any]) -> Iterator[None]:
    exporter = _exporter()
    original = getattr(exporter, name)
    setattr(exporter, name, function)
    try:
        yield
    finally:
        setattr(exporter, name, original)


def _exporter() -> Any:
    """Imported when it is used: without it, captures that need no TorchScript still work."""
    return importlib.import_module("torch.onnx._internal.torchscript_exporter.utils")


def is_tracing() -> bool:
    """Whether a trace is being recorded."""
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]  # documented, and has no types
    return tracing


def give_value(tensor: torch.Tensor, source: torch.Tensor) -> None:
    """Has the trace take a tensor for what it recorded for another."""
    value = torch._C._get_value_trace(source)  # type: ignore[attr-defined]  # missing in torch's stub
    torch._C._set_value_trace(tensor, value)  # type: ignore[attr-defined]  # as above


@contextmanager
def paused() -> Iterator[None]:
    """Within it nothing is recorded, and sizes are plain numbers."""
    state = pause()
    try:
        yield
    finally:
        resume(state)


def pause() -> object:
    """The trace that is being recorded, which from now on is not; None without one."""
    state: object = torch._C._get_tracing_state()
    if state is not None:
        _set_state(None)
    return state


def resume(state: object) -> None:
    """Has a trace recorded again, if there was one."""
    if state is not None:
        _set_state(state)


@contextmanager
def resumed() -> Iterator[None]:
    """Within it operators are recorded, even where an operator hid the tracer."""
    hidden = torch._C._dispatch_tls_is_dispatch_key_excluded(_TRACER)
    torch._C._dispatch_tls_set_dispatch_key_excluded(_TRACER, False)
    try:
        yield
    finally:
        torch._C._dispatch_tls_set_dispatch_key_excluded(_TRACER, hidden)


def _set_state(state: object) -> None:
    # An operator that is being recorded hides the tracer from what it calls, and the state
    # can be set only where the tracer is not hidden.
    hidden = torch._C._dispatch_tls_is_dispatch_key_excluded(_TRACER)
    torch._C._dispatch_tls_set_dispatch_key_excluded(_TRACER, False)
    torch._C._set_tracing_state(state)  # type: ignore[attr-defined]  # missing in torch's stub
    torch._C._dispatch_tls_set_dispatch_key_excluded(_TRACER, hidden)
