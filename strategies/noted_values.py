"""What each node of a graph computes, noted also where a fix of transformers has left it out."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import fx
from torch._dispatch.python import enable_python_dispatcher
from torch._guards import detect_fake_mode

from strategies.patching import attribute

_VALUE = "val"


@contextmanager
def complete() -> Iterator[None]:
    """Within it, `torch.onnx.export` lowers graphs of which every node says what it computes.

    The exporter asks for the shapes of what it lowers. Transformers' fixes run just before
    that, inside the exporter, and put operators into the graph that have none.
    """
    exporter: Any = importlib.import_module("torch.onnx._internal.exporter._core")
    name = "_prepare_exported_program_for_export"
    prepare = getattr(exporter, name)

    def prepared(program: Any, **options: Any) -> Any:
        result = prepare(program, **options)
        note(result.graph)
        return result

    with attribute(exporter, name, prepared):
        yield


def note(graph: fx.Graph) -> None:
    """Runs, on tensors without data, every operator of which the result is not noted."""
    mode = detect_fake_mode([node.meta.get(_VALUE) for node in graph.nodes])
    if mode is None:
        return
    with mode, enable_python_dispatcher():
        for node in graph.nodes:
            if node.op == "call_function" and _VALUE not in node.meta:
                node.meta[_VALUE] = node.target(*_values(node.args), **_values(node.kwargs))


def _values(arguments: Any) -> Any:
    return fx.map_arg(arguments, lambda node: node.meta[_VALUE])
