"""What a trace marks as one step of a loop, made the body of an ONNX Loop."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence

import onnx_ir as ir

from strategies import hierarchy
from strategies.loop_markers import DOMAIN, END, INDEX, JOINED, START
from strategies.step_numbers import LoopError


def fill_in(model: ir.Model) -> None:
    """Puts an ONNX Loop in the place of each step that the trace marked.

    Raises:
        LoopError: Something else that a step computed is read after it.
    """
    marked: dict[int, list[ir.Node]] = defaultdict(list)
    for node in model.graph:
        if node.domain == DOMAIN and node.op_type in {INDEX, START, END, JOINED}:
            marked[node.attributes["loop"].as_int()].append(node)
    # A loop inside another has the greater number.
    for _, markers in sorted(marked.items(), reverse=True):
        _fill_in(model.graph, markers)
    model.opset_imports.pop(DOMAIN, None)


def _fill_in(graph: ir.Graph, markers: Sequence[ir.Node]) -> None:
    starts = {_place(node): node for node in markers if node.op_type == START}
    ends = [node for node in markers if node.op_type == END]
    indices = [node for node in markers if node.op_type == INDEX]
    joined = [node for node in markers if node.op_type == JOINED]
    places = next((node.attributes["places"].as_ints() for node in (*ends, *joined)), ())
    for place, node in starts.items():
        if place not in places:
            _bypass(node)
    if not (ends or joined) or not indices:
        raise LoopError("nothing that a step computes depends on its number, or is read")
    carried = [starts[place] for place in places]
    results = set(ends) | set(joined)
    first = next(node for node in graph if node in results)
    body = _body(graph, [*indices, *carried], results)
    graph.remove(body)
    begun = [_sequence(node) for node in joined]
    loop = _loop(indices[0], carried, ends, joined, [node.outputs[0] for node in begun], body)
    graph.insert_before(first, loop)
    graph.insert_before(loop, begun)
    for node in ends:
        result = loop.outputs[places.index(_place(node))]
        _put_in_place(node.outputs[0], result)
    for node, sequence in zip(joined, loop.outputs[len(places) :], strict=True):
        graph.insert_before(node, _joining(node, sequence))
    graph.remove([*ends, *joined, *indices, *carried], safe=True)


def _sequence(node: ir.Node) -> ir.Node:
    """The list to which steps add, as it is before the first."""
    given = node.inputs[1 + 2 * len(node.attributes["places"].as_ints()) :]
    begun = (
        ir.node("SequenceConstruct", given)
        if given
        else ir.node("SequenceEmpty", [], {"dtype": node.attributes["dtype"].as_int()})
    )
    begun.name = f"{node.name}_begun"
    begun.outputs[0].name, begun.outputs[0].type = f"{node.outputs[0].name}.begun", _list_type(node)
    return begun


def _list_type(node: ir.Node) -> ir.SequenceType:
    return ir.SequenceType(ir.TensorType(ir.DataType(node.attributes["dtype"].as_int())))


def _joining(node: ir.Node, sequence: ir.Value) -> ir.Node:
    """Joins what stands in the list in the end, in place of the marker."""
    options = {
        "axis": node.attributes["axis"].as_int(),
        "new_axis": node.attributes["stacked"].as_int(),
    }
    result = ir.node("ConcatFromSequence", [sequence], options, name=node.name)
    old, new = node.outputs[0], result.outputs[0]
    new.name, new.type = f"{old.name}.all", _list_type(node).elem_type
    _put_in_place(old, new)
    return result


def _bypass(node: ir.Node) -> None:
    value = node.inputs[0]
    if value is not None and node.graph is not None:
        _put_in_place(node.outputs[0], value)
        node.graph.remove(node, safe=True)


def _put_in_place(old: ir.Value, new: ir.Value) -> None:
    """Lets all who read one value read the other, which an output needs the type of."""
    new.type, new.shape = new.type or old.type, new.shape or old.shape
    old.replace_all_uses_with(new, replace_graph_outputs=True)


def _place(node: ir.Node) -> int:
    return node.attributes["place"].as_int()


def _body(graph: ir.Graph, starts: Iterable[ir.Node], ends: Collection[ir.Node]) -> list[ir.Node]:
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
        past = past or node in ends
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


def _loop(  # noqa: PLR0913, PLR0917 - all that belongs to one loop
    index: ir.Node,
    carried: Sequence[ir.Node],
    ends: Sequence[ir.Node],
    joined: Sequence[ir.Node],
    begun: Sequence[ir.Value],
    body: Sequence[ir.Node],
) -> ir.Node:
    """The Loop, whose outputs are the last of what is carried, and then the lists."""
    last = (*ends, *joined)[0]
    prefix = last.outputs[0].name
    number, goes_on = (
        ir.Value(name=f"{prefix}.{name}", type=ir.TensorType(dtype), shape=ir.Shape([]))
        for name, dtype in (("number", ir.DataType.INT64), ("goes_on", ir.DataType.BOOL))
    )
    initial = [*(node.inputs[0] for node in carried), *begun]
    given = [_like(value, f"{prefix}.given_{place}") for place, value in enumerate(initial)]
    for node in body:
        for value in node.outputs:
            value.shape = None
    index.outputs[0].replace_all_uses_with(number)
    for node, value in zip(carried, given, strict=False):
        node.outputs[0].replace_all_uses_with(value)
    # Copies, for what a step ends with may be what it was given, or from outside of it.
    kept = ends[0].inputs if ends else joined[0].inputs[1:]
    results = [goes_on, *kept[: len(carried)]]
    copies = [ir.node("Identity", [result]) for result in results]
    for node, value in zip(joined, given[len(carried) :], strict=True):
        copies.append(ir.node("SequenceInsert", [value, node.inputs[0]]))
        results.append(value)
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
        [index.inputs[0], None, *initial],
        {"body": step},
        num_outputs=len(initial),
        name=last.name,
    )
    for place, (result, value) in enumerate(zip(loop.outputs, given, strict=True)):
        result.name, result.type = f"{prefix}.last_{place}", value.type
    return loop


def _like(value: ir.Value | None, name: str) -> ir.Value:
    return ir.Value(name=name, type=value.type if value is not None else None)
