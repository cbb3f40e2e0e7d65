"""Recording one execution of a module: every aten operation and the module call that issued it."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn
from torch._dispatch.python import enable_python_dispatcher
from torch.fx import traceback as fx_metadata
from torch.fx.experimental.proxy_tensor import make_fx

from strategies import mutation, symbolic
from strategies.base import first_line
from strategies.calling import NamedCall, buffers_restored
from strategies.errors import DataDependentError
from strategies.hierarchy import ModuleScope
from strategies.patching import attributes_restored
from strategies.recurrent import KeepRecurrent

if TYPE_CHECKING:
    from torch._ops import OpOverload
    from torch._subclasses.fake_tensor import FakeTensorMode

SCOPE = "autoexport.scope"

Decompositions = Mapping["OpOverload", Callable[..., Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One execution as a graph of aten operators.

    Attributes:
        graph: Operators in the order of execution, with fake values in `meta["val"]`. None
            that an output depends on writes to its arguments.
        attributes: What each node that reads a tensor from outside reads.
    """

    graph: fx.Graph
    attributes: Mapping[fx.Node, torch.Tensor]


def record(
    module: nn.Module,
    inputs: Mapping[str, torch.Tensor],
    constants: Mapping[str, object],
    *,
    decompositions: Decompositions,
) -> Record:
    """Runs the module once; the sizes in the record are the inputs'.

    The tensors are fake, which costs neither the computation nor its memory. Where forward
    asks for a value, or an operator has no fake counterpart, it is run on real ones.

    Args:
        module: In eval mode.
        inputs: Tensors under forward's parameter names.
        constants: Python values bound to further parameters.
        decompositions: Operators to break up while recording.
    """
    call = NamedCall(module, tuple(inputs), constants)
    faked = symbolic.fake_inputs(inputs, {}, follow_values=False)
    with contextlib.suppress(Exception):
        return _record(call, faked.tensors, _Tracer(mode=faked.mode, decompositions=decompositions))
    tensors = [tensor.clone() for tensor in inputs.values()]
    with buffers_restored(module):
        return _record(call, tensors, _Tracer(mode=None, decompositions=decompositions))


def record_symbolic(
    module: nn.Module,
    inputs: Mapping[str, torch.Tensor],
    constants: Mapping[str, object],
    *,
    decompositions: Decompositions,
    dynamic_axes: Mapping[str, Mapping[int, str]],
) -> Record:
    """Runs the module once on fake tensors, the sizes of the axes that vary kept as symbols.

    Where forward asks for a value, it is run again with the real values computed alongside,
    and takes the path that they take.

    Args:
        module: In eval mode.
        inputs: Tensors under forward's parameter names.
        constants: Python values bound to further parameters.
        decompositions: Operators to break up while recording.
        dynamic_axes: For each input its axes that vary, index to name; axes of one name
            share one symbol.

    Raises:
        DataDependentError: Forward asks for a value that the inputs do not lead to.
        FrozenAxisError: An axis that was to vary became fixed, or equal to another.
    """
    call = NamedCall(module, tuple(inputs), constants)
    for follow_values in (False, True):
        faked = symbolic.fake_inputs(inputs, dynamic_axes, follow_values=follow_values)
        tracer = _Tracer(mode=faked.mode, decompositions=decompositions)
        try:
            result = _record(call, faked.tensors, tracer)
        except symbolic.VALUE_NEEDED as error:
            if follow_values:
                raise DataDependentError(first_line(error)) from error
            continue
        break
    symbolic.check_free(faked)
    return result


def scope_of(node: fx.Node) -> ModuleScope | None:
    """The module call that issued a recorded node, or None outside of all modules."""
    scope: ModuleScope | None = node.meta.get("custom", {}).get(SCOPE)
    return scope


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tracer:
    """Records functions of tensors.

    Attributes:
        mode: Where the tensors are fake, the mode that made them.
        decompositions: Operators to break up.
    """

    mode: FakeTensorMode | None
    decompositions: Decompositions

    def trace(
        self, function: Callable[..., Any], tensors: Sequence[torch.Tensor]
    ) -> fx.GraphModule:
        trace = make_fx(
            function,
            decomposition_table=self.decompositions,
            _error_on_data_dependent_ops=False,
            _allow_non_fake_inputs=True,
        )
        with torch.no_grad(), fx_metadata.preserve_node_meta(), contextlib.ExitStack() as stack:
            if self.mode is not None:
                stack.enter_context(self.mode)
                stack.enter_context(enable_python_dispatcher())
            traced: fx.GraphModule = trace(*tensors)
        _share_sizes(traced.graph)
        return traced


def _share_sizes(graph: fx.Graph) -> None:
    """Reads each size off the first tensor that has it.

    The record reads it off the last one, which may be of one step of a loop.
    """
    first: dict[object, fx.Node] = {}
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten.sym_size.int):
        size = node.meta.get("val")
        if isinstance(size, torch.SymInt):
            other = first.setdefault(size.node.expr, node)
            if other is not node:
                node.replace_all_uses_with(other)
                graph.erase_node(node)


def _record(call: NamedCall, tensors: Sequence[torch.Tensor], tracer: _Tracer) -> Record:
    with _compiling(), _scopes(call.module), KeepRecurrent(), attributes_restored(call.module):
        recorded = tracer.trace(call, tensors)
    mutation.rewrite(recorded.graph, keep=tracer.decompositions)
    if mutation.remains(recorded.graph):
        return _record_again(recorded, tensors, tracer)
    return Record(graph=recorded.graph, attributes=_attributes(recorded))


def _record_again(
    recorded: fx.GraphModule, tensors: Sequence[torch.Tensor], tracer: _Tracer
) -> Record:
    """Runs the record under functionalisation, which replays mutation through any view.

    What is read from outside becomes an input first, or writes to it would be lost.
    Annotations of nodes carry over.
    """
    attributes = _lift_attributes(recorded)
    replay = torch.func.functionalize(fx.Interpreter(recorded).run, remove="mutations")
    again = tracer.trace(replay, [*tensors, *attributes])
    mutation.rewrite(again.graph, keep=tracer.decompositions)
    mutation.check_none(again.graph)
    placeholders = again.graph.find_nodes(op="placeholder")
    lifted = dict(zip(placeholders[len(tensors) :], attributes, strict=True))
    return Record(graph=again.graph, attributes=lifted | _attributes(again))


def _lift_attributes(recorded: fx.GraphModule) -> list[torch.Tensor]:
    graph = recorded.graph
    last = graph.find_nodes(op="placeholder")[-1]
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
        for node in recorded.graph.find_nodes(op="get_attr")
    }


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
            annotation = fx_metadata.annotate({SCOPE: ModuleScope(path, calls[path])})
            calls[path] += 1
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
