"""What an ONNX file says about itself, without running it: checker, interface, tags."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import onnx
from onnx import helper

from selector.stored_bytes import take_out
from selector.verdict import VerificationReport
from strategies import hierarchy
from strategies.base import first_line

_SHOWN = 3
_ATTRIBUTIONS = frozenset({hierarchy.TRACED, hierarchy.PROJECTED})


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueFacts:
    """A graph input or output.

    Attributes:
        name: As in the graph.
        dtype: NumPy's name of the element type, which is torch's too; empty if not a tensor.
        dims: A fixed size, the name of a symbolic one, or None where nothing is said.
    """

    name: str
    dtype: str
    dims: tuple[int | str | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """The interface of a file and the state of its tags.

    Attributes:
        opset: Version of the default operator set, 0 where none is imported.
        inputs: Graph inputs in order.
        outputs: Graph outputs in order.
        nodes: Number of nodes, those in subgraphs and functions included.
        untagged: Nodes without complete tags, by name or operator.
        repeated: Names that several nodes share, the empty one included.
        modules: Paths that the nodes' tags name.
    """

    opset: int
    inputs: tuple[ValueFacts, ...]
    outputs: tuple[ValueFacts, ...]
    nodes: int
    untagged: tuple[str, ...]
    repeated: tuple[str, ...]
    modules: frozenset[str]


def read_checked(path: Path) -> tuple[FileFacts | None, str | None]:
    """Reads the graph and runs `onnx.checker` on it; the facts, and what is objected to.

    Weights are not looked at: every tensor has to have as many bytes as its shape needs,
    and external ones must lie within a file beside the model. `onnx.checker` itself would
    read all of them, and refuses a hard link, which ONNX Runtime follows.
    """
    try:
        model = _load(path)
        facts = _facts(model)
        fault = take_out(model, path.parent)
        if fault is None:
            onnx.checker.check_model(model)
    except Exception as error:  # noqa: BLE001 - parser and checker raise unrelated types
        return None, first_line(error)
    return facts, fault


def read_facts(path: Path) -> FileFacts:
    """Reads the graph; weights in external data are left where they are."""
    return _facts(_load(path))


def _load(path: Path) -> onnx.ModelProto:
    return onnx.load(str(path), load_external_data=False)


def _facts(model: onnx.ModelProto) -> FileFacts:
    nodes = list(_nodes(model))
    names = Counter(node.name for node in nodes)
    return FileFacts(
        opset=next((item.version for item in model.opset_import if not item.domain), 0),
        inputs=tuple(_value(item) for item in model.graph.input),
        outputs=tuple(_value(item) for item in model.graph.output),
        nodes=len(nodes),
        untagged=tuple(node.name or node.op_type for node in nodes if not _tagged(node)),
        repeated=tuple(name for name, count in names.items() if count > 1 or not name),
        modules=frozenset(
            entry.value
            for node in nodes
            for entry in node.metadata_props
            if entry.key == hierarchy.MODULE
        ),
    )


def unverified_report(path: str | Path) -> VerificationReport:
    """The report of a file that was not verified, as asked: what it says about itself."""
    facts = read_facts(Path(path))
    return VerificationReport(
        level="off",
        ok=False,
        reason="not verified, as asked",
        nodes=facts.nodes,
        untagged=len(facts.untagged),
        opset=facts.opset,
        ort_version=version("onnxruntime"),
    )


def has_dynamic_axes(path: str | Path) -> bool:
    """Whether any axis of any input is not fixed; False where the file cannot be read.

    What is wrong with an unreadable file is for `read_checked` to say.
    """
    try:
        facts = read_facts(Path(path))
    except Exception:  # noqa: BLE001 - protobuf's parsers raise unrelated types
        return False
    return any(not isinstance(dim, int) for value in facts.inputs for dim in value.dims)


def interface_fault(
    facts: FileFacts, inputs: Mapping[str, str], outputs: Mapping[str, str]
) -> str | None:
    """What is wrong with the file's inputs and outputs: names, order or dtypes; None if nothing.

    Args:
        facts: Of the file.
        inputs: Wanted dtype by name, in order.
        outputs: The same for outputs.
    """
    return _values_fault("input", facts.inputs, inputs) or _values_fault(
        "output", facts.outputs, outputs
    )


def _values_fault(
    kind: str, found: tuple[ValueFacts, ...], wanted: Mapping[str, str]
) -> str | None:
    names = tuple(value.name for value in found)
    if names != tuple(wanted):
        return (
            f"the file's {kind}s are ({', '.join(names)}) where the model has ({', '.join(wanted)})"
        )
    wrong = [
        f"{value.name} is {value.dtype or 'no tensor'}, not {wanted[value.name]}"
        for value in found
        if value.dtype != wanted[value.name]
    ]
    return f"{kind} of another type: {some(wrong)}" if wrong else None


def fixed_axes(facts: FileFacts, dynamic_axes: Mapping[str, Mapping[int, str]]) -> dict[str, str]:
    """What the file fixes and should vary: for each place, in words, the name of its axis."""
    return {
        f"axis {index} of {value.name} ({name}) at {value.dims[index]}": name
        for value in facts.inputs
        for index, name in dynamic_axes.get(value.name, {}).items()
        if index < len(value.dims) and isinstance(value.dims[index], int)
    }


def tag_fault(facts: FileFacts) -> str | None:
    """What is wrong with the nodes' tags and names, None if nothing."""
    if facts.untagged:
        return (
            f"{len(facts.untagged)} of {facts.nodes} nodes without complete hierarchy tags: "
            + some(facts.untagged)
        )
    if facts.repeated:
        shared = [name or "the empty name" for name in facts.repeated]
        return f"node names are not unique: {some(shared)}"
    return None


def some(items: Sequence[str]) -> str:
    """The first few of what may be a long list, and how many more there are."""
    shown = "; ".join(items[:_SHOWN])
    more = len(items) - _SHOWN
    return f"{shown}; and {more} more" if more > 0 else shown


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    yield from hierarchy.proto_nodes(model.graph)
    for function in model.functions:
        # A function holds its nodes as a graph does, which is all that is read of it.
        yield from hierarchy.proto_nodes(onnx.GraphProto(node=function.node))


def _tagged(node: onnx.NodeProto) -> bool:
    tags = {entry.key: entry.value for entry in node.metadata_props}
    return (
        hierarchy.MODULE in tags
        and tags.get(hierarchy.CALL, "").isdecimal()
        and tags.get(hierarchy.ATTRIBUTION) in _ATTRIBUTIONS
    )


def _value(item: onnx.ValueInfoProto) -> ValueFacts:
    if not item.type.HasField("tensor_type"):
        return ValueFacts(name=item.name, dtype="", dims=())
    tensor = item.type.tensor_type
    dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    return ValueFacts(
        name=item.name,
        dtype=str(dtype),
        dims=tuple(_dimension(dim) for dim in tensor.shape.dim),
    )


def _dimension(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    return str(dim.dim_param) or None
