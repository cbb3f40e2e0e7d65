"""Recording one execution of a module: every aten operation and the module call that issued it."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn
from torch.fx import traceback as fx_metadata
from torch.fx.experimental.proxy_tensor import make_fx

from strategies import mutation
from strategies.calling import NamedCall
from strategies.errors import CaptureError
from strategies.hierarchy import ModuleScope

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch._ops import OpOverload

SCOPE = "autoexport.scope"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One execution as a graph of aten operators without mutation.

    Attributes:
        graph: Operators in the order of execution, with fake values in `meta["val"]`.
        attributes: What each node that reads a tensor from outside reads.
    """

    graph: fx.Graph
    attributes: Mapping[fx.Node, torch.Tensor]


def record(
    module: nn.Module,
    inputs: Mapping[str, torch.Tensor],
    constants: Mapping[str, object],
    *,
    decompositions: Mapping[OpOverload, Callable[..., Any]],
    dynamic_axes: Mapping[str, Mapping[int, str]] | None = None,
) -> Record:
    """Runs the module once and returns what it did.

    Args:
        module: In eval mode; its buffers may change if its forward changes them.
        inputs: Tensors under forward's parameter names.
        constants: Python values bound to further parameters.
        decompositions: Operators to break up while recording.
        dynamic_axes: For each input its axes that stay symbolic, index to name; axes of
            one name share one symbol. Without any, real tensors are run and sizes are fixed.

    Raises:
        CaptureError: The module could not be run so, or an axis that was to stay
            symbolic became fixed.
    """
    call = NamedCall(module, tuple(inputs), constants)
    if dynamic_axes:
        tensors, symbols = _symbolic_tensors(inputs, dynamic_axes)
    else:
        tensors, symbols = [tensor.clone() for tensor in inputs.values()], {}
    tracer = _Tracer(mode="symbolic" if symbols else "real", decompositions=dict(decompositions))
    with torch.no_grad(), fx_metadata.preserve_node_meta(), _compiling(), _scopes(module):
        recorded = tracer.trace(call, tensors)
    mutation.rewrite_unshared(recorded.graph, keep=decompositions.keys())
    if mutation.remains(recorded.graph):
        result = _record_again(recorded, tracer, tensors)
    else:
        result = Record(graph=recorded.graph, attributes=_attributes(recorded))
    _check_symbols(symbols)
    return result


def scope_of(node: fx.Node) -> ModuleScope | None:
    """The module call that issued a recorded node, or None outside of all modules."""
    scope: ModuleScope | None = node.meta.get("custom", {}).get(SCOPE)
    return scope


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tracer:
    mode: str
    decompositions: dict[OpOverload, Callable[..., Any]]

    def trace(self, function: Callable[..., Any], tensors: Sequence[torch.Tensor]) -> fx.GraphModule:
        traced: fx.GraphModule = make_fx(
            function,
            decomposition_table=self.decompositions,
            tracing_mode=self.mode,
            _error_on_data_dependent_ops=False,
            _allow_non_fake_inputs=True,
        )(*tensors)
        return traced


@contextlib.contextmanager
def _compiling() -> Iterator[None]:
    """Modules see both that they are compiled and that they are exported; some ask only one."""
    flags = torch.compiler.is_compiling(), torch.compiler.is_exporting()
    torch.compiler._is_compiling_flag = True  # noqa: SLF001 - no public way to set either
    torch.compiler._is_exporting_flag = True  # noqa: SLF001 - as above
    try:
        yield
    finally:
        torch.compiler._is_compiling_flag = flags[0]  # noqa: SLF001 - as above
        torch.compiler._is_exporting_flag = flags[1]  # noqa: SLF001 - as above


@contextlib.contextmanager
def _scopes(module: nn.Module) -> Iterator[None]:
    """Annotates what is recorded inside each module's call with its path and call index."""
    calls: Counter[str] = Counter()
    entered: list[contextlib.AbstractContextManager[None]] = []

    def hooks(path: str) -> tuple[Callable[..., None], Callable[..., None]]:
        def enter(*_: object) -> None:
            scope = ModuleScope(path, calls[path])
            calls[path] += 1
            annotation = fx_metadata.annotate({SCOPE: scope})
            annotation.__enter__()
            entered.append(annotation)

        def leave(*_: object) -> None:
            entered.pop().__exit__(None, None, None)

        return enter, leave

    with contextlib.ExitStack() as stack:
        for path, submodule in module.named_modules():
            enter, leave = hooks(path)
            stack.callback(submodule.register_forward_pre_hook(enter, prepend=True).remove)
            stack.callback(submodule.register_forward_hook(leave, always_call=True).remove)
        yield


# Symbolic inputs


def _symbolic_tensors(
    inputs: Mapping[str, torch.Tensor], dynamic_axes: Mapping[str, Mapping[int, str]]
) -> tuple[list[torch.Tensor], dict[str, torch.SymInt]]:
    """Fake tensors of the inputs' shapes, with one symbol per name of an axis."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    environment = ShapeEnv(duck_shape=False)
    mode = FakeTensorMode(shape_env=environment, allow_non_fake_inputs=True)
    symbols: dict[str, torch.SymInt] = {}
    tensors: list[torch.Tensor] = []
    for name, tensor in inputs.items():
        axes = dynamic_axes.get(name, {})
        sizes: list[int | torch.SymInt] = []
        for axis, size in enumerate(tensor.shape):
            if axis not in axes:
                sizes.append(size)
                continue
            if axes[axis] not in symbols:
                symbols[axes[axis]] = _symbol(environment, axes[axis], size)
            sizes.append(symbols[axes[axis]])
        with mode:
            tensors.append(torch.empty(sizes, dtype=tensor.dtype))
    return tensors, symbols


def _symbol(environment: Any, name: str, size: int) -> torch.SymInt:
    from torch._dynamo.source import ConstantSource
    from torch.fx.experimental.symbolic_shapes import DimDynamic

    source = ConstantSource(name)
    expression = environment.create_symbol(size, source, dynamic_dim=DimDynamic.DYNAMIC)
    symbol: torch.SymInt = environment.create_symintnode(expression, hint=size, source=source)
    return symbol


def _check_symbols(symbols: Mapping[str, torch.SymInt]) -> None:
    seen: dict[str, str] = {}
    for name, symbol in symbols.items():
        expression = str(symbol.node.expr)
        if expression.lstrip("-").isdigit():
            msg = f"axis {name} became fixed at {expression} while recording"
            raise CaptureError(msg, stage="capture")
        if expression in seen:
            msg = f"axes {seen[expression]} and {name} became equal while recording"
            raise CaptureError(msg, stage="capture")
        seen[expression] = name


# Recording again, without mutation


def _record_again(
    recorded: fx.GraphModule, tracer: _Tracer, tensors: Sequence[torch.Tensor]
) -> Record:
    """Runs the record under functionalisation, which replays mutation through views.

    What is read from outside becomes an input first, or writes to it would be lost.
    Node annotations carry over.
    """
    attributes = _lift_attributes(recorded)
    replay = torch.func.functionalize(fx.Interpreter(recorded).run, remove="mutations")
    with torch.no_grad(), fx_metadata.preserve_node_meta():
        again = tracer.trace(replay, [*tensors, *attributes])
    mutation.drop_unused(again.graph)
    placeholders = [node for node in again.graph.nodes if node.op == "placeholder"]
    lifted = dict(zip(placeholders[len(tensors) :], attributes, strict=True))
    return Record(graph=again.graph, attributes=lifted | _attributes(again))


def _lift_attributes(recorded: fx.GraphModule) -> list[torch.Tensor]:
    graph = recorded.graph
    last = [node for node in graph.nodes if node.op == "placeholder"][-1]
    lifted: dict[int, tuple[fx.Node, torch.Tensor]] = {}
    for node, tensor in _attributes(recorded).items():
        if id(tensor) not in lifted:
            with graph.inserting_after(last):
                last = graph.placeholder(f"lifted_{len(lifted)}")
            lifted[id(tensor)] = last, tensor
        node.replace_all_uses_with(lifted[id(tensor)][0])
        graph.erase_node(node)
    return [tensor for _, tensor in lifted.values()]


def _attributes(recorded: fx.GraphModule) -> dict[fx.Node, torch.Tensor]:
    return {
        node: getattr(recorded, str(node.target))
        for node in recorded.graph.nodes
        if node.op == "get_attr"
    }
