"""The module tree, and how it is written to and read from the nodes of an ONNX file.

Every node carries in its `metadata_props`

- `autoexport.module`: dotted `named_modules()` path of the module that issued it, empty
  for the root, and `autoexport.call`: which call of that module it was, counted from 0;
- `autoexport.attribution`: `traced` where the capture said so, `projected` where the
  module was derived from the node's neighbours;
- `namespace`: torch.onnx's form, `name: qualified.Class` scopes joined by `/`, which
  model viewers show as a tree.

ONNX Runtime drops these when it saves an optimised model, and keeps node names and the
model's own metadata. Node names therefore begin with the path, and `autoexport.hierarchy`
maps module paths to those prefixes.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from strategies.errors import ExportError

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir
    from torch import nn

MODULE = "autoexport.module"
CALL = "autoexport.call"
ATTRIBUTION = "autoexport.attribution"
NAMESPACE = "namespace"
MODEL_MAP = "autoexport.hierarchy"
TRACED = "traced"
PROJECTED = "projected"
# ONNX's numbers of the attribute types (onnx.proto, AttributeProto.AttributeType).
_GRAPH, _GRAPHS = 5, 10


class ModuleScope(NamedTuple):
    """Which call of which module issued an operation.

    Attributes:
        path: Dotted `named_modules()` path, empty for the root.
        call: Counted from 0; shared modules are called more than once.
    """

    path: str
    call: int


ROOT = ModuleScope("", 0)


def mark(node: ir.Node, scope: ModuleScope) -> None:
    """Tags a node whose module the capture itself knows."""
    _tag(node, scope, TRACED)


def scope_of(node: ir.Node) -> ModuleScope | None:
    """The scope a node is tagged with, or None."""
    path = node.metadata_props.get(MODULE)
    return None if path is None else ModuleScope(path, int(node.metadata_props[CALL]))


def module_classes(model: nn.Module) -> dict[str, str]:
    """Qualified class name by module path, in `named_modules()` order, containers included."""
    return {
        path: f"{type(module).__module__}.{type(module).__qualname__}"
        for path, module in model.named_modules(remove_duplicate=False)
    }


def called_paths(model: nn.Module) -> frozenset[str]:
    """Paths of the modules that have a forward of their own: all but lists and dicts of modules."""
    from torch import nn  # noqa: PLC0415 - reading a file's hierarchy must not import torch

    return frozenset(
        path
        for path, module in model.named_modules(remove_duplicate=False)
        if not isinstance(module, nn.ModuleList | nn.ModuleDict)
    )


def project(graph: ir.Graph) -> None:
    """Tags every node that the capture left without a module.

    A node belongs to the innermost module that contains all its consumers, as a constant
    does; one without consumers to that of its producers; in a subgraph, failing both, to
    that of the If or Loop around it.
    """
    _project_graph(graph, ROOT)


def _project_graph(graph: ir.Graph, around: ModuleScope) -> None:
    nodes = list(graph)
    for node in reversed(nodes):
        if scope_of(node) is None:
            users = [user for output in node.outputs for user, _ in output.uses()]
            _derive(node, users)
    for node in nodes:
        if scope_of(node) is None:
            _derive(node, [value.producer() for value in node.inputs if value is not None])
        if scope_of(node) is None:
            _tag(node, around, PROJECTED)
        scope = scope_of(node)
        for subgraph in subgraphs(node):
            _project_graph(subgraph, scope or around)


def _derive(node: ir.Node, neighbours: Iterable[ir.Node | None]) -> None:
    scopes = [
        scope
        for neighbour in neighbours
        if neighbour is not None and (scope := scope_of(neighbour)) is not None
    ]
    if scopes:
        _tag(node, _common_scope(scopes), PROJECTED)


def _common_scope(scopes: list[ModuleScope]) -> ModuleScope:
    if len(set(scopes)) == 1:
        return scopes[0]
    parts = [scope.path.split(".") if scope.path else [] for scope in scopes]
    common: list[str] = []
    for names in zip(*parts, strict=False):
        if len(set(names)) > 1:
            break
        common.append(names[0])
    path = ".".join(common)
    calls = [scope.call for scope in scopes if scope.path == path]
    return ModuleScope(path, min(calls, default=0))


def name_nodes(graph: ir.Graph, classes: Mapping[str, str], called: frozenset[str]) -> None:
    """Gives every node a unique path-like name and its namespace, and its values names after it."""
    counts: Counter[str] = Counter()
    outputs = {id(value) for value in graph.outputs}
    for node in all_nodes(graph):
        scope = scope_of(node) or ROOT
        stem = f"{node_prefix(scope.path)}/{node.op_type}"
        node.name = stem if not counts[stem] else f"{stem}_{counts[stem]}"
        counts[stem] += 1
        node.metadata_props[NAMESPACE] = _namespace(scope.path, node, classes, called)
        for index, value in enumerate(node.outputs):
            if id(value) not in outputs and value.name != "":
                value.name = f"{node.name}_output_{index}"


def node_prefix(path: str) -> str:
    """Node-name prefix of a module: `encoder.layer.0.output` is `/encoder/layer.0/output`.

    As torch's TorchScript exporter has it, a number stays with the name before it.
    """
    parts: list[str] = []
    for atom in path.split(".") if path else []:
        if atom.isnumeric() and parts:
            parts[-1] += f".{atom}"
        else:
            parts.append(atom)
    return "".join(f"/{part}" for part in parts)


def model_map(classes: Mapping[str, str]) -> str:
    """The model-level entry: module path to node-name prefix and class, as compact JSON."""
    table = {path: [node_prefix(path), name] for path, name in classes.items()}
    return json.dumps(table, separators=(",", ":"))


def all_nodes(graph: ir.Graph) -> Iterator[ir.Node]:
    """Every node, those in subgraphs right after the node that holds them."""
    for node in graph:
        yield node
        for subgraph in subgraphs(node):
            yield from all_nodes(subgraph)


def subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    """The bodies that a node has itself."""
    for attribute in node.attributes.values():
        if attribute.type == _GRAPH:
            yield attribute.as_graph()
        elif attribute.type == _GRAPHS:
            yield from attribute.as_graphs()


def _tag(node: ir.Node, scope: ModuleScope, attribution: str) -> None:
    node.metadata_props[MODULE] = scope.path
    node.metadata_props[CALL] = str(scope.call)
    node.metadata_props[ATTRIBUTION] = attribution


def _namespace(path: str, node: ir.Node, classes: Mapping[str, str], called: frozenset[str]) -> str:
    atoms = path.split(".") if path else []
    ancestors = [".".join(atoms[:depth]) for depth in range(len(atoms) + 1)]
    scopes = [f"{name}: {classes.get(name, '?')}" for name in ancestors if name in called]
    leaf = (node.name or "").rpartition("/")[2]
    return "/".join([*scopes, f"{leaf}: {node.op_type}"])


# Reading a file back


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleEntry:
    """One module of a file's tree; counts are its own, without its descendants'.

    Attributes:
        path: Dotted module path, empty for the root.
        class_name: Qualified class name, or an empty string where the file does not say.
        calls: How many of its calls issued nodes.
        nodes: Number of nodes it issued.
        parameter_bytes: Bytes of the initializers named after its own parameters.
    """

    path: str
    class_name: str
    calls: int
    nodes: int
    parameter_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Hierarchy:
    """The module tree of an ONNX file.

    Attributes:
        modules: In the order of the PyTorch module's `named_modules()`.
        nodes: Number of nodes, those in subgraphs included.
        traced: How many of them the capture itself attributed.
        metadata: The model's `autoexport.*` entries, the map of modules left out.
    """

    modules: tuple[ModuleEntry, ...]
    nodes: int
    traced: int
    metadata: Mapping[str, str]


def read_hierarchy(path: str | Path) -> Hierarchy:
    """Reads the module tree from a file that autoexport wrote; weights are not read.

    Where the nodes' own tags are gone, as in a model that ONNX Runtime optimised and
    saved, nodes are assigned by their names through the model-level map.

    Raises:
        ExportError: The file cannot be read, or holds no hierarchy.
    """
    import onnx  # noqa: PLC0415 - `autoexport --help` must not pay for it

    try:
        model = onnx.load(path, load_external_data=False)
    except (OSError, ValueError, RuntimeError) as error:
        raise ExportError(f"cannot read {path}: {error}") from error
    except Exception as error:
        if type(error).__name__ != "DecodeError":
            raise
        raise ExportError(f"cannot read {path}: it is not an ONNX file") from error
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    table = json.loads(metadata.pop(MODEL_MAP, "{}"))
    if not table:
        raise ExportError(f"{path} holds no module hierarchy; only files autoexport wrote have one")
    return _hierarchy(model, table, metadata)


def _hierarchy(
    model: onnx.ModelProto, table: dict[str, list[str]], metadata: dict[str, str]
) -> Hierarchy:
    by_prefix = {prefix: path for path, (prefix, _) in table.items()}
    nodes: Counter[str] = Counter()
    calls: defaultdict[str, set[str]] = defaultdict(set)
    traced = 0
    for node in proto_nodes(model.graph):
        tags = {entry.key: entry.value for entry in node.metadata_props}
        owner = tags.get(MODULE)
        if owner is None:
            owner = by_prefix.get(node.name.rpartition("/")[0], "")
        nodes[owner] += 1
        calls[owner].add(tags.get(CALL, "0"))
        traced += tags.get(ATTRIBUTION) == TRACED
    sizes: Counter[str] = Counter()
    for tensor in model.graph.initializer:
        owner = tensor.name.rpartition(".")[0]
        sizes[owner if owner in table else ""] += _tensor_bytes(tensor)
    return Hierarchy(
        modules=tuple(
            ModuleEntry(
                path=path,
                class_name=name,
                calls=len(calls[path]) if path in calls else 0,
                nodes=nodes[path],
                parameter_bytes=sizes[path],
            )
            for path, (_, name) in table.items()
        ),
        nodes=sum(nodes.values()),
        traced=traced,
        metadata={key: value for key, value in metadata.items() if key.startswith("autoexport.")},
    )


def proto_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every node of a protobuf graph, those in subgraphs included."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from proto_nodes(attribute.g)
            for subgraph in attribute.graphs:
                yield from proto_nodes(subgraph)


def _tensor_bytes(tensor: onnx.TensorProto) -> int:
    from onnx import helper  # noqa: PLC0415 - `autoexport --help` must not pay for it

    count = 1
    for size in tensor.dims:
        count *= size
    return count * int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
