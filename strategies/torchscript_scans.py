"""Recurrences and iterations in a TorchScript trace: one operator each, then an ONNX Scan."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnx_ir as ir
import torch
from torch import nn
from torch.onnx import symbolic_helper

from strategies import hierarchy, scans, whole
from strategies.errors import LoweringError

_OPERATOR = "autoexport::linear_recurrence"
# Symbolics hold for their opset and all later ones.
_OLDEST_OPSET = 9
_DOMAIN = "autoexport"


@contextmanager
def kept_whole(model: nn.Module) -> Iterator[None]:
    """Within it a trace records the model's linear recurrences, and the exporter knows them."""
    exporter: Any = torch.onnx
    symbolics = {_OPERATOR: _symbolic} | {
        f"{_DOMAIN}::{name}": _iteration(name) for name in whole.ITERATIONS
    }
    for operator, symbolic in symbolics.items():
        exporter.register_custom_op_symbolic(operator, symbolic, _OLDEST_OPSET)
    try:
        with scans.kept_whole(model):
            yield
    finally:
        for operator in symbolics:
            exporter.unregister_custom_op_symbolic(operator, _OLDEST_OPSET)


@symbolic_helper.parse_args("v", "v", "i")
def _symbolic(g: Any, factors: Any, terms: Any, axis: int) -> Any:
    """A placeholder; what the exporter is told of an operator cannot have a body."""
    place = g.op("Constant", value_t=torch.tensor(0))
    zero = g.op("Constant", value_t=torch.tensor(0, dtype=terms.type().dtype()))
    start = g.op("Expand", zero, g.op("Shape", g.op("Gather", terms, place, axis_i=axis)))
    return g.op(f"{_DOMAIN}::Scan", start, factors, terms, axis_i=axis).setType(terms.type())


def _iteration(name: str) -> Any:
    iteration = whole.ITERATIONS[name]
    count = iteration.states + len(iteration.kept)

    def symbolic(g: Any, *inputs: Any) -> Any:
        """A placeholder, as above; all results are of the first state's type and rank."""
        found = g.op(f"{_DOMAIN}::Iteration", *inputs, name_s=name, outputs=count)
        results = found if count > 1 else (found,)
        kind = inputs[0].type()
        for index, value in enumerate(results):
            rank = kind.dim() + (name == "projected_lstm" and index == count - 1)
            value.setType(kind.with_sizes([None] * rank))
        return found

    return symbolic


def fill_in(model: ir.Model) -> None:
    """Puts an ONNX Scan in the place of each placeholder."""
    for node in list(hierarchy.all_nodes(model.graph)):
        if node.domain != _DOMAIN or node.graph is None:
            continue
        if node.op_type == "Iteration":
            _fill_in_iteration(node, node.graph)
            continue
        if node.op_type != "Scan":
            continue
        start, factors, terms = node.inputs
        axis = node.attributes["axis"].as_int()
        scan = scans.scan_node(start, factors, terms, axis, node.outputs[0].dtype)
        scan.name = node.name
        node.graph.insert_before(node, scan)
        node.outputs[0].replace_all_uses_with(scan.outputs[1], replace_graph_outputs=True)
        node.graph.remove(node, safe=True)


def _fill_in_iteration(node: ir.Node, graph: ir.Graph | ir.Function) -> None:
    dtype = node.outputs[0].dtype
    if dtype is None:
        msg = f"{node.name} is of no known type"
        raise LoweringError(msg, stage="lower")
    iteration = whole.ITERATIONS[node.attributes["name"].as_string()]
    scan = iteration.node(node.inputs, dtype)
    scan.name = node.name
    graph.insert_before(node, scan)
    for old, new in zip(node.outputs, scan.outputs, strict=True):
        new.type = old.type
        old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.remove(node, safe=True)
