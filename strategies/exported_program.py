"""From torch.export's program to ONNX IR, every node with the module that issued it."""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
import torch
from onnx_ir.passes import common as passes
from onnxscript import optimizer
from onnxscript.function_libs.torch_lib.ops import core
from torch import fx, nn

from strategies import hierarchy, lowerings
from strategies.base import first_line
from strategies.calling import NamedCall
from strategies.decomposition import decompose
from strategies.errors import LoweringError
from strategies.hierarchy import ModuleScope

if TYPE_CHECKING:
    from strategies.transformers_patches import Translations

# Operators that torchlib or transformers lacks or lowers wrongly.
_TRANSLATIONS: Translations = {
    torch.ops.aten.conv3d.default: lowerings.conv3d,
    # Transformers' takes a mask that chooses at least one element.
    torch.ops.aten.index_put.default: lowerings.index_put,
    torch.ops.aten.squeeze.dim: lowerings.squeeze,
    torch.ops.aten.squeeze.dims: lowerings.squeeze_all,
    torch.ops.aten.sym_numel.default: lowerings.size,
    torch.ops.aten.sym_stride.int: lowerings.stride,
    torch.ops.autoexport.gru.default: core.aten_gru,
    torch.ops.autoexport.lstm.default: core.aten_lstm,
    torch.ops.autoexport.linear_recurrence.default: lowerings.linear_recurrence,
    **{
        getattr(torch.ops.autoexport, name).default: function
        for name, function in lowerings.MARKERS.items()
    },
    **{
        getattr(torch.ops.autoexport, name).default: lower
        for name, lower in lowerings.ITERATIONS.items()
    },
}
# Where torch.export notes the modules around an operation, outermost first.
_STACK = "nn_module_stack"
_SCOPE = "autoexport.scope"
_UNKNOWN = re.compile(
    r"No ONNX function found for <OpOverload\(op='([^']+)', overload='([^']+)'\)>"
)
_FAILED = re.compile(
    r"Error when translating node .*call_function\[target=(?:torch\.ops\.)?([^\]]+)\]"
)


def lower(
    program: torch.export.ExportedProgram,
    module: nn.Module,
    translations: Translations,
    *,
    opset: int,
) -> ir.Model:
    """Lowers through torchlib, marks every node with its module, and tidies up.

    Args:
        program: What was captured from a `NamedCall` of the module.
        module: The user's module.
        translations: Operators to lower by other functions than torchlib's.
        opset: Version of the default ONNX operator set.

    Raises:
        LoweringError: An operator has no ONNX form, or its translation failed.
    """
    _prepare_for_lowering(program, module)
    try:
        onnx_program = torch.onnx.export(
            program,
            dynamo=True,
            optimize=False,
            verbose=False,
            opset_version=opset,
            custom_translation_table={**translations, **_TRANSLATIONS},
        )
    except Exception as error:
        raise LoweringError(_explain(error, program), stage="lower") from error
    if onnx_program is None:
        msg = "torch.onnx.export returned no program"
        raise LoweringError(msg, stage="lower")
    model = onnx_program.model
    _mark(model)
    _name_weights(model.graph)
    _tidy(model)
    return model


def _prepare_for_lowering(program: torch.export.ExportedProgram, module: nn.Module) -> None:
    """Makes the exporter's decomposition cheap, and notes the scopes of what comes of it."""
    capture_again = program.run_decompositions

    def run_decompositions(table: Mapping[Any, Any]) -> torch.export.ExportedProgram:
        prepared = program if decompose(program, table) else capture_again(dict(table))
        _assign_scopes(prepared, module)
        return prepared

    # torch.onnx.export calls this one method, with the table alone.
    program.run_decompositions = run_decompositions


def _assign_scopes(program: torch.export.ExportedProgram, module: nn.Module) -> None:
    """Notes on every node which call of which module issued it, leaving the wrapper out."""
    first_name: dict[int, str] = {}
    canonical = {
        path: first_name.setdefault(id(part), path)
        for path, part in module.named_modules(remove_duplicate=False)
    }
    aliases = Counter(canonical.values())
    seen: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for node in _nodes(program):
        node.meta[_STACK] = stack = _own_stack(node, canonical)
        if not stack:
            continue
        key, (name, _) = next(reversed(stack.items()))
        path = canonical[name]
        # torch.export numbers a module's calls under each of its names; most have one.
        index = seen[path].setdefault(key, len(seen[path]))
        node.meta[_SCOPE] = ModuleScope(path, index if aliases[path] > 1 else _call_index(key))


def _nodes(program: torch.export.ExportedProgram) -> Iterator[fx.Node]:
    for module in program.graph_module.modules():
        if isinstance(module, fx.GraphModule):
            yield from module.graph.nodes


def _own_stack(node: fx.Node, canonical: Mapping[str, str]) -> dict[str, tuple[str, Any]]:
    """The stack from the user's module on, under that module's own paths."""
    own = {}
    for key, (path, kind) in node.meta.get(_STACK, {}).items():
        name = _without_wrapper(path)
        if name is not None and name in canonical:
            own[key] = name, kind
    return own


def _without_wrapper(path: str) -> str | None:
    """`layer.0` for `module.layer.0`, nothing for the wrapper itself."""
    head, _, rest = path.partition(".")
    return rest if head == NamedCall.PREFIX else None


def _call_index(key: str) -> int:
    """The stack's keys end in `@1`, `@2`, … from a module's second call on."""
    _, mark, index = key.rpartition("@")
    return int(index) if mark and index.isdecimal() else 0


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
        value.name = _without_wrapper(value.name or "") or value.name


def _tidy(model: ir.Model) -> None:
    """Makes the graph smaller by passes that keep tags; nothing is fused."""
    model.graph.metadata_props.clear()
    passes.InlinePass()(model)
    optimizer.fold_constants(model, should_fold=_should_fold)
    ir.passes.Sequential(
        passes.IdentityEliminationPass(),
        passes.LiftConstantsToInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.RemoveUnusedNodesPass(),
    )(model)


def _should_fold(node: ir.Node) -> bool | None:
    """None where the defaults may decide; Resize takes minutes in the reference evaluator."""
    return False if node.op_type == "Resize" else None


def _explain(error: BaseException, program: torch.export.ExportedProgram) -> str:
    """Names the operator that could not be lowered, and the module that uses it."""
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    for link in chain:
        if match := _UNKNOWN.search(str(link)):
            name = f"{match[1]}.{match[2]}"
            return f"torchlib has no lowering for {name}{_used_by(name, program)}"
    for link in chain:
        if match := _FAILED.search(str(link)):
            used_by = _used_by(match[1], program)
            return f"{match[1]}{used_by} could not be lowered: {first_line(chain[-1])}"
    return first_line(chain[-1])


def _used_by(operator: str, program: torch.export.ExportedProgram) -> str:
    for node in _nodes(program):
        scope = node.meta.get(_SCOPE)
        if str(node.target) == operator and scope is not None and scope.path:
            return f" in {scope.path}"
    return ""


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps what exporters print, log and warn off the terminal; their errors say enough."""
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
