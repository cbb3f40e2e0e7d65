"""Linear recurrences in a TorchScript trace: one operator each, which becomes an ONNX Scan."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnx_ir as ir
import torch
from torch import nn
from torch.onnx import symbolic_helper

from strategies import hierarchy, scans

_OPERATOR = "autoexport::linear_recurrence"
# Symbolics hold for their opset and all later ones.
_OLDEST_OPSET = 9
_DOMAIN = "autoexport"


@contextmanager
def kept_whole(model: nn.Module) -> Iterator[None]:
    """Within it a trace records the model's linear recurrences, and the exporter knows them."""
    exporter: Any = torch.onnx
    exporter.register_custom_op_symbolic(_OPERATOR, _symbolic, _OLDEST_OPSET)
    try:
        with scans.kept_whole(model):
            yield
    finally:
        exporter.unregister_custom_op_symbolic(_OPERATOR, _OLDEST_OPSET)


@symbolic_helper.parse_args("v", "v", "i")
def _symbolic(g: Any, factors: Any, terms: Any, axis: int) -> Any:
    """A placeholder; what the exporter is told of an operator cannot have a body."""
    place = g.op("Constant", value_t=torch.tensor(0))
    zero = g.op("Constant", value_t=torch.tensor(0, dtype=terms.type().dtype()))
    start = g.op("Expand", zero, g.op("Shape", g.op("Gather", terms, place, axis_i=axis)))
    return g.op(f"{_DOMAIN}::Scan", start, factors, terms, axis_i=axis).setType(terms.type())


def fill_in(model: ir.Model) -> None:
    """Puts an ONNX Scan in the place of each placeholder."""
    for node in list(hierarchy.all_nodes(model.graph)):
        if node.domain != _DOMAIN or node.op_type != "Scan" or node.graph is None:
            continue
        start, factors, terms = node.inputs
        axis = node.attributes["axis"].as_int()
        scan = scans.scan_node(start, factors, terms, axis, node.outputs[0].dtype)
        scan.name = node.name
        node.graph.insert_before(node, scan)
        node.outputs[0].replace_all_uses_with(scan.outputs[1], replace_graph_outputs=True)
        node.graph.remove(node, safe=True)
