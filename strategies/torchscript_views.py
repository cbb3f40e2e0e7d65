"""Writes through views in a trace, in the form in which the exporter keeps them.

It takes a write for one to the tensor that is viewed only where the view was made on the same
line of Python, and reads through a view that is older than a write as they were before it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from strategies import torchscript

# The views through which the exporter writes.
VIEWS = frozenset({"aten::slice", "aten::select"})
# Start, end and step of a slice that leaves nothing out.
WHOLE = [0, sys.maxsize, 1]


def replayed() -> AbstractContextManager[None]:
    """Within it, every view is made again right before a write through it, and after one."""
    return torchscript.before_writes(_replay)


def _replay(graph: Any) -> None:
    for write in [node for node in graph.nodes() if _is_write(node.kind())]:
        base, chain = _viewed(write.inputsAt(0))
        if not _is_followed(chain):
            continue
        older, last, root = _views(base, write), write, write.output()
        if chain:
            copy = root = base
            for view in chain:
                copy = _again(graph, view, copy, write)
                copy.node().insertBefore(write)
            write.replaceInput(0, copy)
            # From here on its output stands for all that is viewed.
            copy = base
            for view in chain:
                copy = _again(graph, view, copy, write)
                copy.node().insertAfter(last)
                last = copy.node()
            write.output().replaceAllUsesAfterNodeWith(last, copy)
        _renew(graph, older, root, write, last)


def _is_write(kind: str) -> bool:
    """Whether an operator writes to its first argument: `add_`, and `__iadd__`."""
    return kind.startswith("aten::") and (
        kind.startswith("aten::__i") or (kind.endswith("_") and not kind.endswith("__"))
    )


def _viewed(value: Any) -> tuple[Any, list[Any]]:
    """The tensor that is viewed in the end, and the views on the way, the outermost first."""
    chain: list[Any] = []
    while (view := value.node()).kind() in VIEWS:
        if [end.toIValue() for end in list(view.inputs())[2:]] != WHOLE:
            chain.insert(0, view)
        value = view.inputsAt(0)
    return value, chain


def _is_followed(chain: Sequence[Any]) -> bool:
    """Whether the exporter can tell where views lie: only if each is on a later axis."""
    least = 0
    for view in chain:
        axis = view.inputsAt(1).toIValue()
        if not isinstance(axis, int) or axis < least:
            return False
        least = axis + (view.kind() == "aten::slice")
    return True


def _renew(graph: Any, views: Sequence[Any], root: Any, write: Any, last: Any) -> Any:
    """Has what reads views of a tensor after a write read them anew; the last node added."""
    for view in views:
        copy, old = _again(graph, view, root, write), view.output()
        copy.node().insertAfter(last)
        last = _renew(graph, _views(old, write), copy, write, copy.node())
        old.replaceAllUsesAfterNodeWith(last, copy)
    return last


def _views(base: Any, write: Any) -> list[Any]:
    """Those of a tensor that were made before a write."""
    made = [use.user for use in base.uses() if use.offset == 0 and use.user.kind() in VIEWS]
    return [view for view in made if view.isBefore(write)]


def _again(graph: Any, view: Any, base: Any, place: Any) -> Any:
    """The same view of a tensor, as if it were made on the line of a node; not placed yet."""
    node = graph.create(view.kind(), [base, *list(view.inputs())[1:]], 1)
    node.copyMetadata(place)
    node.output().setTypeAs(view.output())
    return node.output()
