"""Lowering a graph of aten operators to ONNX, operator by operator, through torch's torchlib.

The registry of operators and the recorder that turns torchlib's functions into nodes are
private parts of torch.onnx (see `strategies.internals`); no other file uses them.
"""

from __future__ import annotations

import functools
import logging
import operator
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
import torch
from onnx_ir import tensor_adapters
from onnxscript import evaluator
from onnxscript.values import Opset
from torch import fx
from torch._ops import OpOverload
from torch.onnx._internal.exporter import _building, _decomp, _registration, _tensors

from strategies import lowerings, mutation, promotion
from strategies.base import first_line
from strategies.errors import LoweringError
from strategies.hierarchy import mark
from strategies.recording import scope_of

if TYPE_CHECKING:
    from strategies.recording import Record

Lowered = ir.Value | Sequence[ir.Value] | None
_FLOOR_DIVISIONS = (torch.ops.aten.floor_divide.default, torch.ops.aten.div.Tensor_mode)


@dataclass(frozen=True, slots=True)
class Toolkit:
    """The private parts of torch.onnx that lowering needs.

    Attributes:
        functions: torchlib's implementations by operator, or by its qualified name.
        decompositions: How to break up the operators that torchlib does not know.
        recorder: `OpRecorder(opset, constants)`: evaluates a function into nodes.
        symbolic_value: `SymbolicTensor(opset, name=…)`: a value with Python operators.
        opset: The onnxscript opset that torchlib is written for.
    """

    functions: Mapping[Any, Sequence[Any]]
    decompositions: Mapping[OpOverload, Callable[..., Any]]
    recorder: Callable[..., Any]
    symbolic_value: Callable[..., ir.Value]
    opset: Any


@functools.cache
def toolkit() -> Toolkit:
    """Collects the parts once per process; the first call takes about 2 s."""
    # It warns of torchvision's operators, which are no concern of ours.
    logger = logging.getLogger(_registration.__name__)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        registry = _registration.ONNXRegistry.from_torchlib()
    finally:
        logger.setLevel(level)
    known = set(_decomp.get_onnx_implemented_overloads(registry))
    decompositions = _decomp.create_onnx_friendly_decomposition_table(known)
    return Toolkit(
        functions=registry.functions,
        decompositions={
            target: _write_back(target, known) or decompose
            for target, decompose in decompositions.items()
            if isinstance(target, OpOverload)
            and _qualified(target) not in lowerings.OWN
            # Broken up, what it lifts would have no value that forward can read.
            and target is not torch.ops.aten.lift_fresh.default
        }
        | dict.fromkeys(_FLOOR_DIVISIONS, _floor_divide)
        | {
            torch.ops.aten.floor_divide_.Tensor: _in_place(_floor_divide),
            torch.ops.aten.div_.Tensor_mode: _in_place(_floor_divide),
        },
        recorder=_building.OpRecorder,
        symbolic_value=_tensors.SymbolicTensor,
        opset=Opset("", registry.opset_version),
    )


def _floor_divide(number: Any, divisor: Any, *, rounding_mode: str | None = "floor") -> Any:
    """Division downwards: torch's own of symbolic whole numbers asks for a wrong sign bit."""
    if rounding_mode != "floor":
        return NotImplemented
    parts = [part for part in (number, divisor) if isinstance(part, torch.Tensor)]
    if any(part.is_floating_point() for part in parts):
        return torch.floor(torch.div(number, divisor))
    if isinstance(divisor, torch.SymInt):
        # There is no lowering of a remainder by a symbol.
        symbol: Any = divisor
        divisor = torch.scalar_tensor(symbol, dtype=torch.int64)
    exact = number - torch.remainder(number, divisor)
    return torch.div(exact, divisor, rounding_mode="trunc")


def _write_back(target: OpOverload, known: Container[Any]) -> Callable[..., Any] | None:
    """What writes in place as the operator that computes anew, where that one is lowered.

    torch's own goes by primitives, of which torchlib knows few.
    """
    twin = mutation.functional_twin(target)
    is_lowered = twin is not None and (twin in known or _qualified(twin) in lowerings.OWN)
    return _in_place(twin) if twin is not None and is_lowered else None


def _in_place(function: Callable[..., Any]) -> Callable[..., Any]:
    def write(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        result = function(tensor, *args, **kwargs)
        return result if result is NotImplemented else tensor.copy_(result)

    return write


def lower(
    record: Record,
    attribute_names: Mapping[int, str],
    translations: Mapping[Any, Callable[..., Any]] = MappingProxyType({}),
) -> ir.Model:
    """Returns the record as an ONNX model, every node marked with the module that issued it.

    Args:
        record: A graph of operators without mutation.
        attribute_names: Names of parameters and buffers by the id of the tensor.
        translations: Operators to lower by other functions than torchlib's.

    Raises:
        LoweringError: An operator has no lowering, or its lowering refused the arguments.
    """
    tools = toolkit()
    lowering = _Lowering(tools=tools, names=attribute_names, translations=translations)
    for node in record.graph.nodes:
        if node.op == "placeholder" and node not in record.attributes:
            lowering.add_input(node)
    for node in _live_nodes(record.graph):
        if node in record.attributes:
            lowering.add_attribute(node, record.attributes[node])
        elif node.op == "call_function":
            lowering.add_call(node)
    return lowering.model(record.graph.output_node())


def _live_nodes(graph: fx.Graph) -> list[fx.Node]:
    wanted: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node.op == "output" or node in wanted:
            wanted.update(node.all_input_nodes)
    return [node for node in graph.nodes if node in wanted]


@dataclass(slots=True)
class _Lowering:
    tools: Toolkit
    names: Mapping[int, str]
    translations: Mapping[Any, Callable[..., Any]]
    values: dict[fx.Node, Lowered] = field(default_factory=dict)
    inputs: list[ir.Value] = field(default_factory=list)
    nodes: list[ir.Node] = field(default_factory=list)
    initializers: dict[int, ir.Value] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)
    functions: dict[ir.OperatorIdentifier, ir.Function] = field(default_factory=dict)
    constants: dict[Any, ir.Value] = field(default_factory=dict)

    def add_input(self, node: fx.Node) -> None:
        value = self.tools.symbolic_value(self.tools.opset, name=node.name)
        _describe(value, node.meta["val"])
        self.inputs.append(value)
        self.values[node] = value

    def add_attribute(self, node: fx.Node, tensor: torch.Tensor) -> None:
        if id(tensor) not in self.initializers:
            name = self._unique(self.names.get(id(tensor), node.name))
            value = self.tools.symbolic_value(self.tools.opset, name=name)
            data = torch.view_as_real(tensor) if tensor.is_complex() else tensor
            value.const_value = tensor_adapters.TorchTensor(data.detach(), name=name)
            _describe(value, tensor)
            self.initializers[id(tensor)] = value
        self.values[node] = self.initializers[id(tensor)]

    def add_call(self, node: fx.Node) -> None:
        if node.target is operator.getitem and self._pick(node):
            return
        function = self._function(node)
        recorder = self.tools.recorder(self.tools.opset, self.constants)
        try:
            with evaluator.default_as(recorder):
                result = function(*self._arguments(node), **self._keywords(node))
        except Exception as error:
            raise LoweringError(
                f"{_operator_name(node)} could not be lowered: {_innermost(error)}", stage="lower"
            ) from error
        self._collect_functions(recorder)
        scope = scope_of(node)
        for created in recorder.nodes:
            if scope is not None:
                mark(created, scope)
            self.nodes.append(created)
        self.values[node] = result
        _describe_all(result, node.meta.get("val"))

    def _pick(self, node: fx.Node) -> bool:
        """Takes one of several results; False where they are one ONNX sequence."""
        source, index = node.args
        results = self.values[source] if isinstance(source, fx.Node) else None
        if not isinstance(results, Sequence) or not isinstance(index, int):
            return False
        self.values[node] = results[index]
        return True

    def model(self, output: fx.Node) -> ir.Model:
        results = output.args[0]
        outputs: list[ir.Value] = []
        for node in results if isinstance(results, list | tuple) else [results]:
            value = self.values[node] if isinstance(node, fx.Node) else None
            if not isinstance(value, ir.Value):
                raise LoweringError(f"output {node} has no ONNX value", stage="lower")
            outputs.append(value)
        graph = ir.Graph(
            self.inputs,
            outputs,
            nodes=self.nodes,
            initializers=list(self.initializers.values()),
            opset_imports={"": self.tools.opset.version},
            name="main",
        )
        functions = list(self.functions.values())
        for function in functions:
            graph.opset_imports[function.domain] = 1
        return ir.Model(graph, ir_version=10, functions=functions)

    def _arguments(self, node: fx.Node) -> list[Any]:
        casts = promotion.casts(node)
        return [self._argument(argument, casts) for argument in node.args]

    def _keywords(self, node: fx.Node) -> dict[str, Any]:
        keywords = {key: self._argument(value, {}) for key, value in node.kwargs.items()}
        if "dtype" in keywords and keywords["dtype"] is None:
            keywords["dtype"] = -1
        return keywords

    def _argument(self, argument: Any, casts: Mapping[fx.Node, torch.dtype]) -> Any:
        if isinstance(argument, fx.Node):
            value = self.values[argument]
            if argument in casts:
                return self._cast(value, casts[argument])
            return value
        if isinstance(argument, list | tuple):
            return [self._argument(item, casts) for item in argument]
        if isinstance(argument, torch.dtype):
            return tensor_adapters.from_torch_dtype(argument)
        if isinstance(argument, torch.device | torch.memory_format | torch.layout):
            return str(argument)
        return argument

    def _cast(self, value: Lowered, dtype: torch.dtype) -> ir.Value:
        to = tensor_adapters.from_torch_dtype(dtype)
        cast: ir.Value = self.tools.opset.Cast(value, to=to)
        cast.dtype = to
        cast.shape = value.shape if isinstance(value, ir.Value) else None
        return cast

    def _function(self, node: fx.Node) -> Callable[..., Any]:
        key: Any = node.target
        if isinstance(key, OpOverload):
            key = _qualified(key)
        is_complex = any(_is_complex(argument) for argument in node.all_input_nodes)
        if is_complex and key in lowerings.COMPLEX:
            return lowerings.COMPLEX[key]
        if key in lowerings.OWN:
            return lowerings.OWN[key]
        if node.target in self.translations and not is_complex:
            return self.translations[node.target]
        key = lowerings.SAME_AS.get(key, key)
        for candidate in self.tools.functions.get(key, ()):
            if candidate.is_complex == is_complex:
                function: Callable[..., Any] = candidate.onnx_function
                return function
        kind = " of complex numbers" if is_complex else ""
        raise LoweringError(f"{_operator_name(node)}{kind} has no ONNX lowering", stage="lower")

    def _collect_functions(self, recorder: Any) -> None:
        for identifier, function in recorder.functions.items():
            if identifier not in self.functions:
                self.functions[identifier] = (
                    function
                    if isinstance(function, ir.Function)
                    else ir.from_proto(function.to_function_proto())
                )

    def _unique(self, name: str) -> str:
        unique, count = name, 1
        while unique in self.taken:
            unique, count = f"{name}_{count}", count + 1
        self.taken.add(unique)
        return unique


def _describe_all(result: Lowered, expected: Any) -> None:
    if isinstance(result, ir.Value):
        _describe(result, expected)
    elif isinstance(result, Sequence) and isinstance(expected, Sequence):
        for value, item in zip(result, expected, strict=False):
            if value is not None:
                _describe(value, item)


def _describe(value: ir.Value, expected: Any) -> None:
    """Writes down dtype and shape, which torchlib's functions for later nodes ask for."""
    if isinstance(expected, torch.Tensor):
        sizes: tuple[object, ...] = tuple(expected.shape)
        dims = [size if isinstance(size, int) else str(size) for size in sizes]
        dtype = expected.dtype
        if dtype.is_complex and value.dtype is None:
            # torchlib keeps complex numbers as pairs of real ones.
            dims, dtype = [*dims, 2], dtype.to_real()
        if value.dtype is None:
            value.dtype = tensor_adapters.from_torch_dtype(dtype)
        value.shape = ir.Shape(dims)
        return
    for kinds, scalar in _SCALARS:
        if isinstance(expected, kinds):
            value.dtype = value.dtype or scalar
            value.shape = ir.Shape([])
            return


# bool first, as it is an int.
_SCALARS = (
    ((bool, torch.SymBool), ir.DataType.BOOL),
    ((int, torch.SymInt), ir.DataType.INT64),
    ((float, torch.SymFloat), ir.DataType.FLOAT),
)


def _qualified(target: OpOverload) -> str:
    """`aten::add.Tensor`, as torchlib's registry has it."""
    name: str = target.name()  # type: ignore[no-untyped-call]  # torch has not annotated it
    return name


def _is_complex(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.is_complex()


def _operator_name(node: fx.Node) -> str:
    if isinstance(node.target, OpOverload):
        return str(node.target)
    return getattr(node.target, "__name__", str(node.target))


def _innermost(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)
