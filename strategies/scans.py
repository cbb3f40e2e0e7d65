"""Keeping linear recurrences whole, which forward would otherwise unroll over time.

State-space models compute `state = factor * state + term` along the sequence: by torch's
`associative_scan` where they are compiled, and by a loop in Python, which fixes the
sequence's length, where they are exported. Here they take the first way, and the scan is
one operator, an ONNX Scan.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from strategies.patching import attribute

# What modules ask before they scan, and what makes them do so.
_ASKED = {"is_torchdynamo_exporting": lambda: False, "is_torchdynamo_compiling": lambda: True}
# The package names a function like this module of its own.
_SCANS = importlib.import_module("torch._higher_order_ops.associative_scan")


def _run(factors: Tensor, terms: Tensor, axis: int) -> Tensor:
    """All states, the first of which is the first term."""
    states = list(terms.unbind(axis))
    for step, factor in enumerate(factors.unbind(axis)[1:], start=1):
        states[step] = factor * states[step - 1] + states[step]
    return torch.stack(states, axis)


linear_recurrence: Any = torch.library.custom_op(
    "autoexport::linear_recurrence",
    _run,
    mutates_args=(),
    schema="(Tensor factors, Tensor terms, int axis) -> Tensor",
)
linear_recurrence.register_fake(lambda factors, terms, axis: torch.empty_like(terms))  # noqa: ARG005 - the operator's names


def scan_node(start: Any, factors: Any, terms: Any, axis: int, dtype: Any) -> ir.Node:
    """The operator as an ONNX Scan, whose second output are all states.

    Args:
        start: ONNX value, zeros in the shape of one state.
        factors: ONNX value, of one shape with the terms.
        terms: ONNX value.
        axis: Along which the recurrence goes.
        dtype: Of all of them, in ONNX.
    """
    state, factor, term = (
        ir.Value(name=name, type=ir.TensorType(dtype)) for name in ("state", "factor", "term")
    )
    scaled = ir.node("Mul", [factor, state])
    updated = ir.node("Add", [scaled.outputs[0], term])
    # Its own node, unlike the other in the order of inputs: merged into one value, which is
    # what becomes of a copy, ONNX Runtime returns memory that it has used again.
    kept = ir.node("Add", [term, scaled.outputs[0]])
    for node, name in ((scaled, "scaled"), (updated, "updated"), (kept, "kept")):
        node.outputs[0].name, node.outputs[0].type = name, state.type
    body = ir.Graph(
        [state, factor, term],
        [updated.outputs[0], kept.outputs[0]],
        nodes=[scaled, updated, kept],
        name="recurrence",
    )
    return ir.node(
        "Scan",
        [start, factors, terms],
        {
            "body": body,
            "num_scan_inputs": 2,
            "scan_input_axes": [axis, axis],
            "scan_output_axes": [axis],
        },
        num_outputs=2,
    )


@contextmanager
def kept_whole(model: nn.Module) -> Iterator[None]:
    """Within it the model's linear recurrences call the operator."""
    scanning = _modules_that_call("associative_scan", model, asking=_ASKED.keys())
    with ExitStack() as stack:
        if scanning:
            scan = _scan(_SCANS.associative_scan)
            stack.enter_context(attribute(_SCANS, "associative_scan", scan))
        for module in scanning:
            for name, answer in _ASKED.items():
                stack.enter_context(attribute(module, name, answer))
        yield


@contextmanager
def solved_at_once(model: nn.Module) -> Iterator[None]:
    """Within it the model's triangular systems are solved by torch's function for that.

    Where they are exported, modules invert them row by row, which takes minutes to capture.
    """
    name = "is_torchdynamo_exporting"
    with ExitStack() as stack:
        for module in _modules_that_call("solve_triangular", model, asking={name}):
            stack.enter_context(attribute(module, name, _ASKED[name]))
        yield


def _modules_that_call(function: str, model: nn.Module, *, asking: Collection[str]) -> list[Any]:
    """The modules of Python that the model's classes are from and that have all the names."""
    names = {type(part).__module__ for part in model.modules()}
    modules = [sys.modules[name] for name in sorted(names & sys.modules.keys())]
    return [
        module
        for module in modules
        if vars(module).keys() >= set(asking) and f"{function}(" in inspect.getsource(module)
    ]


def _scan(original: Callable[..., Any]) -> Callable[..., Any]:
    def scan(combine_fn: Callable[..., Any], xs: Any, dim: int, **options: Any) -> Any:
        if options.get("reverse") or not isinstance(xs, tuple) or not _is_linear(combine_fn):
            return original(combine_fn, xs, dim, **options)
        factors, terms = xs
        # Nobody asks for the products of the factors.
        return None, linear_recurrence(factors, terms, dim)

    return scan


def _is_linear(combine: Callable[..., Any]) -> bool:
    """Whether two steps of `factor * state + term` are combined into one."""
    try:
        return bool(combine((2, 3), (5, 7)) == (2 * 5, 5 * 3 + 7))
    except (TypeError, ValueError, AttributeError):
        return False
