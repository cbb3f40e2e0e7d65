"""What a trace marks as one step of a loop, made the body of an ONNX Loop."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import onnx_ir as ir

from strategies import hierarchy
from strategies.step_numbers import LoopError
from strategies.torchscript_loops import DOMAIN, END, INDEX, START


def fill_in(model: ir.Model) -> None:
    """Puts an ONNX Loop in the place of each step that the trace marked.

    Raises:
        LoopError: Something else that a step computed is read after it.
    """
    marked: dict[int, list[ir.Node]] = defaultdict(list)
    for node in model.graph:
        if node.domain == DOMAIN and node.op_type in {INDEX, START, END}:
            marked[node.attributes["loop"].as_int()].append(node)
    # A loop inside another has the greater number.
    for _, markers in sorted(marked.items(), reverse=True):
        _fill_in(model.graph, markers)
    model.opset_imports.pop(DOMAIN, None)


def _fill_in(graph: ir.Graph, markers: Sequence[ir.Node]) -> None:
    starts = {_place(node): node for node in markers if node.op_type == START}
    ends = [node for node in markers if node.op_type == END]
    indices = [node for node in markers if node.op_type == INDEX]
    places = ends[0].attributes["places"].as_ints() if ends else ()
    for place, node in starts.items():
        if place not in places:
            _bypass(node)
    if not ends or not indices:
        raise LoopError("nothing that a step computes depends on its number, or is read")
    carried = [starts[place] for place in places]
    body = _body(graph, [*indices, *carried], ends)
    graph.remove(body)
    loop = _loop(indices[0], carried, ends, body)
    graph.insert_before(ends[0], loop)
    for node in ends:
        result = loop.outputs[places.index(_place(node))]
        node.outputs[0].replace_all_uses_with(result, replace_graph_outputs=True)
    graph.remove([*ends, *indices, *carried], safe=True)


def _bypass(node: ir.Node) -> None:
    value = node.inputs[0]
    if value is not None and node.graph is not None:
        node.outputs[0].replace_all_uses_with(value, replace_graph_outputs=True)
        node.graph.remove(node, safe=True)


def _place(node: ir.Node) -> int:
    return node.attributes["place"].as_int()


def _body(graph: ir.Graph, starts: Iterable[ir.Node], ends: Sequence[ir.Node]) -> list[ir.Node]:
    """All that depends on the step's number and on what it is given, in the graph's order."""
    owners = _owners(graph)
    found: set[ir.Node] = set()
    waiting = [value for node in starts for value in node.outputs]
    while waiting:
        value = waiting.pop()
        if value.is_graph_output():
            raise LoopError("an output is what one step computes")
        for user in value.consumers():
            node = owners.get(user, user)
            if node in ends or node in found:
                continue
            found.add(node)
            waiting += node.outputs
    body: list[ir.Node] = []
    past = False
    for node in graph:
        past = past or node is ends[0]
        if node in found:
            if past:
                raise LoopError("what one step computes is read after the loop")
            body.append(node)
    return body


def _owners(graph: ir.Graph) -> dict[ir.Node, ir.Node]:
    """For each node of a body, the node of the graph that has that body, however deep."""
    owners: dict[ir.Node, ir.Node] = {}
    for node in graph:
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                owners.update(dict.fromkeys(hierarchy.all_nodes(attribute.as_graph()), node))
    return owners


def _loop(
    index: ir.Node, carried: Sequence[ir.Node], ends: Sequence[ir.Node], body: Sequence[ir.Node]
) -> ir.Node:
    prefix = ends[0].outputs[0].name
    number, goes_on = (
        ir.Value(name=f"{prefix}.{name}", type=ir.TensorType(dtype), shape=ir.Shape([]))
        for name, dtype in (("number", ir.DataType.INT64), ("goes_on", ir.DataType.BOOL))
    )
    given = [_like(node.inputs[0], f"{prefix}.given_{place}") for place, node in enumerate(carried)]
    for node in body:
        for value in node.outputs:
            value.shape = None
    index.outputs[0].replace_all_uses_with(number)
    for node, value in zip(carried, given, strict=True):
        node.outputs[0].replace_all_uses_with(value)
    # Copies, for what a step ends with may be what it was given, or from outside of it.
    results = [goes_on, *ends[0].inputs[: len(carried)]]
    copies = [ir.node("Identity", [result]) for result in results]
    for place, (copy, result) in enumerate(zip(copies, results, strict=True)):
        copy.outputs[0].name = f"{prefix}.kept_{place}"
        copy.outputs[0].type = result.type if result is not None else None
    step = ir.Graph(
        [number, goes_on, *given],
        [copy.outputs[0] for copy in copies],
        nodes=[*body, *copies],
        name=f"{prefix}.step",
    )
    loop = ir.node(
        "Loop",
        [index.inputs[0], None, *(node.inputs[0] for node in carried)],
        {"body": step},
        num_outputs=len(carried),
        name=ends[0].name,
    )
    for place, (last, value) in enumerate(zip(loop.outputs, given, strict=True)):
        last.name, last.type = f"{prefix}.last_{place}", value.type
    return loop


def _like(value: ir.Value | None, name: str) -> ir.Value:
    return ir.Value(name=name, type=value.type if value is not None else None)
