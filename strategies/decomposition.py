"""Expanding, in place, the operators of an exported program that torchlib does not know.

`torch.onnx.export` has the whole program captured a second time to decompose it, which
takes about as long as the first capture. Most programs need that for a handful of
operators only; here each of these is traced by itself, and what it is made of takes its
place.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from onnxscript.function_libs.torch_lib.registration import default_registry
from torch import fx
from torch._dispatch.python import enable_python_dispatcher
from torch._ops import HigherOrderOperator, OpOverload
from torch._subclasses.fake_tensor import FakeTensor
from torch.export.graph_signature import TensorArgument
from torch.fx.experimental.proxy_tensor import make_fx

from strategies import mutation

Table = Mapping[Any, Callable[..., Any]]


def decompose(program: torch.export.ExportedProgram, table: Table) -> bool:
    """Expands operators in place; False where the whole program has to be captured again.

    Args:
        program: As `torch.export.export` returned it.
        table: Decompositions of the operators that are to be expanded.
    """
    graph = program.graph
    if all(_keeps_type(node) for node in graph.nodes if _is_mutation(node.target)):
        mutation.rewrite(graph, keep=frozenset())
    try:
        _require_local(graph)
        for node in list(graph.nodes):
            if not _is_known(node.target, table):
                _expand(node, table)
        _require_local(graph)
    except _NotLocalError:
        return False
    finally:
        _name_outputs(program)
        program.graph_module.recompile()
    return True


class _NotLocalError(Exception):
    """Expanding an operator needs more than its arguments."""


def _is_mutation(target: Any) -> bool:
    return isinstance(target, OpOverload) and target._schema.is_mutable  # noqa: SLF001 - schemas have no public name


def _keeps_type(node: fx.Node) -> bool:
    """Whether `x.add(y)` is sure to be of the type that `x.add_(y)` leaves x in."""
    result = node.meta.get("val")
    values = [argument.meta.get("val") for argument in node.all_input_nodes]
    return isinstance(result, torch.Tensor) and all(
        isinstance(value, torch.Tensor) and value.dtype == result.dtype for value in values
    )


def _require_local(graph: fx.Graph) -> None:
    if any(map(_is_out_of_reach, graph.nodes)):
        raise _NotLocalError


def _is_out_of_reach(node: fx.Node) -> bool:
    """Subgraphs, mutation, and nodes of which nothing says what they compute."""
    if isinstance(node.target, OpOverload):
        return _is_mutation(node.target) or "val" not in node.meta
    return node.op == "get_attr" or isinstance(node.target, HigherOrderOperator)


def _is_known(target: Any, table: Table) -> bool:
    """Whether torch.onnx lowers the operator, or drops it as an assertion.

    Of the operators that PyTorch can decompose, the table lacks those that torch.onnx
    lowers as they are.
    """
    if not isinstance(target, OpOverload):
        return True
    if target in table:
        return False
    name: str = target.name()  # type: ignore[no-untyped-call] # torch has no annotation for it
    return (
        name in default_registry
        or target in _decomposable()
        or name.startswith(("aten::_assert", "aten::sym_", "autoexport::"))
    )


@functools.cache
def _decomposable() -> frozenset[Any]:
    return frozenset(torch.export.default_decompositions())


def _expand(node: fx.Node, table: Table) -> None:
    sources = node.all_input_nodes
    values = [source.meta["val"] for source in sources]

    def call(*tensors: Any) -> Any:
        given = dict(zip(sources, tensors, strict=True))
        args = fx.map_arg(node.args, given.__getitem__)
        kwargs = fx.map_arg(node.kwargs, given.__getitem__)
        return node.target(*args, **kwargs)  # type: ignore[operator] # an OpOverload

    # Without Python's dispatcher, operators in C++ ask for sizes as plain numbers.
    with _mode_of(values), enable_python_dispatcher():
        # Strides mean nothing in ONNX, and some decompositions write to restore them.
        plain = [value.contiguous() if isinstance(value, FakeTensor) else value for value in values]
        expansion = make_fx(call, decomposition_table=dict(table))(*plain)
    result = _splice(expansion.graph, node, sources)
    if isinstance(result, fx.Node):
        _replace(node, result)
        return
    for user in list(node.users):
        if user.target is not operator.getitem:
            raise _NotLocalError
        _replace(user, result[user.args[1]])
    node.graph.erase_node(node)


def _mode_of(values: list[Any]) -> AbstractContextManager[Any]:
    """The mode of the capture, so that what a decomposition creates has no data either."""
    for value in values:
        if isinstance(value, FakeTensor):
            return value.fake_mode
    raise _NotLocalError


def _splice(expansion: fx.Graph, node: fx.Node, sources: list[fx.Node]) -> Any:
    """Copies the expansion before the node; returns what stands for its result."""
    origin = {key: value for key, value in node.meta.items() if key != "val"}
    copies: dict[fx.Node, fx.Node] = {}
    given = iter(sources)
    with node.graph.inserting_before(node):
        for inner in expansion.nodes:
            if inner.op == "placeholder":
                copies[inner] = next(given)
            elif inner.op == "call_function":
                copies[inner] = node.graph.node_copy(inner, copies.__getitem__)
                copies[inner].meta = {**origin, "val": inner.meta["val"]}
            elif inner.op != "output":
                raise _NotLocalError
    return fx.map_arg(expansion.output_node().args[0], copies.__getitem__)


def _replace(node: fx.Node, by: fx.Node) -> None:
    node.replace_all_uses_with(by)
    node.graph.erase_node(node)


def _name_outputs(program: torch.export.ExportedProgram) -> None:
    """Tells the signature, which knows outputs by name, which nodes they are now."""
    results = program.graph.output_node().args[0]
    if not isinstance(results, list | tuple):
        raise TypeError(f"an exported program returns a sequence, not {type(results).__name__}")
    for spec, node in zip(program.graph_signature.output_specs, results, strict=True):
        if isinstance(node, fx.Node) and isinstance(spec.arg, TensorArgument):
            spec.arg.name = node.name
