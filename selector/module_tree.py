"""A file's modules as a tree whose counts include everything below."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from strategies.hierarchy import ModuleEntry


@dataclass(slots=True, kw_only=True)
class ModuleNode:
    """One module with its subtree.

    Attributes:
        name: Last part of the path, empty for the root.
        class_name: Qualified class name, or an empty string where it is not known.
        calls: How many of its own calls issued nodes.
        nodes: Nodes of the whole subtree.
        parameter_bytes: Bytes of the whole subtree's parameters.
        children: By name, in the order of the entries.
    """

    name: str
    class_name: str = ""
    calls: int = 0
    nodes: int = 0
    parameter_bytes: int = 0
    children: dict[str, ModuleNode] = field(default_factory=dict)

    def shown_children(self) -> list[ModuleNode]:
        """Children with a node or a parameter in their subtree; dropout has neither."""
        return [node for node in self.children.values() if node.nodes or node.parameter_bytes]

    def shown_descendants(self) -> int:
        """Number of modules below this one that a view shows."""
        return sum(1 + child.shown_descendants() for child in self.shown_children())


def build_tree(entries: Iterable[ModuleEntry]) -> ModuleNode:
    """Adds up the entries' own counts; modules that no entry names are filled in."""
    root = ModuleNode(name="")
    for entry in entries:
        node = root
        _add(node, entry)
        for name in entry.path.split(".") if entry.path else []:
            node = node.children.setdefault(name, ModuleNode(name=name))
            _add(node, entry)
        node.class_name, node.calls = entry.class_name, entry.calls
    return root


def _add(node: ModuleNode, entry: ModuleEntry) -> None:
    node.nodes += entry.nodes
    node.parameter_bytes += entry.parameter_bytes


def visible_rows(
    node: ModuleNode, depth: int, indent: int = 0
) -> Iterator[tuple[int, ModuleNode | int]]:
    """Indentation and module, top down; below `depth` only the number of modules left out."""
    yield indent, node
    if indent < depth:
        for child in node.shown_children():
            yield from visible_rows(child, depth, indent + 1)
    elif hidden := node.shown_descendants():
        yield indent + 1, hidden
