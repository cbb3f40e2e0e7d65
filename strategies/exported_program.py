"""From torch.export's program to ONNX IR, every node with the module that issued it."""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.passes import common as passes
from onnxscript import optimizer
from onnxscript.function_libs.torch_lib.registration import default_registry
from torch import fx, nn

from strategies import hierarchy
from strategies.base import first_line
from strategies.calling import NamedCall
from strategies.errors import LoweringError
from strategies.hierarchy import ModuleScope

# Where torch.export writes the modules around an operation, outermost first.
_STACK = "nn_module_stack"
_SCOPE = "autoexport.scope"
_NO_LOWERING = re.compile(r"No ONNX function found for <OpOverload\(op='([^']+)', overload='([^']+)'\)>")


def lower(
    program: torch.export.ExportedProgram,
    call: NamedCall,
    translations: Mapping[Callable[..., Any], Callable[..., Any]],
    *,
    opset: int,
) -> ir.Model:
    """Lowers through torchlib, marks every node with its module, and tidies up.

    Args:
        program: What was captured from `call`.
        call: The module behind its wrapper.
        translations: Operators to lower by other functions than torchlib's.
        opset: Version of the default ONNX operator set.

    Raises:
        LoweringError: An operator has no ONNX form, or its translation failed.
    """
    _prepare_for_lowering(program, call.module)
    try:
        onnx_program = torch.onnx.export(
            program,
            dynamo=True,
            optimize=False,
            verbose=False,
            opset_version=opset,
            custom_translation_table=dict(translations),
        )
    except Exception as error:
        raise LoweringError(_explain(error)) from error
    if onnx_program is None:
        msg = "torch.onnx.export returned no program"
        raise LoweringError(msg)
    model = onnx_program.model
    _mark(model)
    _name_weights(model.graph)
    _tidy(model)
    return model


def _prepare_for_lowering(program: torch.export.ExportedProgram, module: nn.Module) -> None:
    """Lets the decomposition pass do no more than it has to, and scopes what comes of it.

    `torch.onnx.export` calls `run_decompositions`, which captures the whole program
    again. Most programs consist of operators that torchlib knows and that change nothing
    in place; there the pass has nothing to do, and costs as much as the capture.
    """
    decompose = program.run_decompositions

    def run_decompositions(table: Mapping[Any, Any]) -> torch.export.ExportedProgram:
        needed = any(_needs_decomposition(node, table) for node in _nodes(program))
        prepared = decompose(dict(table)) if needed else program
        _assign_scopes(prepared, module)
        return prepared

    program.run_decompositions = run_decompositions  # type: ignore[method-assign,assignment] # the exporter passes the table only


def _nodes(program: torch.export.ExportedProgram) -> Iterator[fx.Node]:
    for module in program.graph_module.modules():
        if isinstance(module, fx.GraphModule):
            yield from module.graph.nodes


def _needs_decomposition(node: fx.Node, table: Mapping[Any, Any]) -> bool:
    if node.op != "call_function":
        return node.op == "get_attr"
    target = node.target
    if isinstance(target, torch._ops.OpOverload):  # noqa: SLF001 - the type of `torch.ops.*` has no public name
        if target.name() not in default_registry and not (target in torch.export.default_decompositions() and target not in table): return True
        return target in table or target._schema.is_mutable or "val" not in node.meta  # noqa: SLF001 - nor has its schema
    # Python's own operators on sizes stay as they are; anything else is a subgraph.
    return isinstance(target, torch._ops.HigherOrderOperator)  # noqa: SLF001 - as above


def _assign_scopes(program: torch.export.ExportedProgram, module: nn.Module) -> None:
    """Notes on every node which call of which module issued it, without the wrapper."""
    first_name: dict[int, str] = {}
    canonical: dict[str, str] = {}
    for path, part in module.named_modules(remove_duplicate=False):
        canonical[path] = first_name.setdefault(id(part), path)
    names = Counter(canonical.values())
    calls: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for node in _nodes(program):
        stack = {
            key: (_without_wrapper(path), name)
            for key, (path, name) in node.meta.get(_STACK, {}).items()
            if path and _without_wrapper(path) in canonical
        }
        node.meta[_STACK] = stack
        if not stack:
            continue
        key, (alias, _) = next(reversed(stack.items()))
        path = canonical[alias]
        # Calls under one name are numbered by torch.export, those under several are not.
        call = calls[path].setdefault(key, len(calls[path])) if names[path] > 1 else _call(key)
        node.meta[_SCOPE] = ModuleScope(path, call)


def _without_wrapper(path: str) -> str:
    return path.removeprefix(NamedCall.PREFIX).removeprefix(".")


def _call(key: str) -> int:
    """The stack's keys end in `@1`, `@2`, … from a module's second call on."""
    index = key.rpartition("@")[2]
    return int(index) if index.isdecimal() and "@" in key else 0


def _mark(model: ir.Model) -> None:
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        for node in hierarchy.all_nodes(graph):
            source = node.meta.get("node")
            scope = source.meta.get(_SCOPE) if isinstance(source, fx.Node) else None
            if scope is not None:
                hierarchy.mark(node, scope)


def _name_weights(graph: ir.Graph) -> None:
    for value in list(graph.initializers.values()):
        value.metadata_props.clear()
        if value.name is not None:
            value.name = _without_wrapper(value.name)


def _tidy(model: ir.Model) -> None:
    """Makes the graph smaller without taking nodes of different modules together."""
    model.graph.metadata_props.clear()
    if model.functions:
        passes.InlinePass()(model)
    # Resize is folded by a reference implementation that takes minutes.
    optimizer.fold_constants(
        model, should_fold=lambda node: False if node.op_type == "Resize" else None
    )
    ir.passes.Sequential(
        passes.RemoveUnusedNodesPass(),
        passes.IdentityEliminationPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=False),
        passes.CommonSubexpressionEliminationPass(),
        passes.RemoveUnusedNodesPass(),
    )(model)


def _explain(error: BaseException) -> str:
    """Names the operator that has no lowering, or else says what went wrong at the root."""
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    for link in chain:
        match = _NO_LOWERING.search(str(link))
        if match is not None:
            return f"torchlib has no lowering for {match[1]}.{match[2]}"
    return first_line(chain[-1])


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps what the exporters print, log and warn off the terminal; their errors say enough."""
    level = logging.root.manager.disable
    with (
        warnings.catch_warnings(),
        redirect_stdout(io.StringIO()),
        redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(level)
