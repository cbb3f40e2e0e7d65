"""Which operators the two ways of lowering to ONNX do not know.

The registries of both are private parts of torch.onnx and onnxscript; nothing public lists
them. All use of them for analysis is in this file.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from packaging.version import Version

from selector.caching import cached_names
from selector.errors import AnalysisError
from strategies.exportable import REPLACED

if TYPE_CHECKING:
    from selector.operators import Recording

TORCHSCRIPT = "torchscript"
TORCHLIB = "torchlib"
OLDEST_TORCH = "2.9"
OPSETS = range(9, 21)

# Calls of Python operators and methods whose aten name is another one.
SPELLINGS = {
    "__and__": "__and_",
    "__or__": "__or_",
    "__xor__": "__xor_",
    "__lshift__": "__lshift_",
    "__rshift__": "__rshift_",
    "__getitem__": "index",
    "__setitem__": "index_put",
    "__invert__": "bitwise_not",
    "__eq__": "eq",
    "__ne__": "ne",
    "__contains__": "any",
}
# The names that TorchScript's passes and its tracer replace before the lowering.
ALIASES = {
    "absolute": "abs",
    "arccos": "acos",
    "arcsin": "asin",
    "arctan": "atan",
    "arctan2": "atan2",
    "clip": "clamp",
    "concat": "cat",
    "concatenate": "cat",
    "copy": "expand_as",  # by the pass that removes what writes in place
    "cpu": "to",
    "divide": "div",
    "greater": "gt",
    "greater_equal": "ge",
    "less": "lt",
    "less_equal": "le",
    "moveaxis": "movedim",
    "multiply": "mul",
    "negative": "neg",
    "not_equal": "ne",
    "row_stack": "stack",
    "special_expit": "sigmoid",
    "special_logit": "logit",
    "special_softmax": "softmax",
    "subtract": "sub",
    "swapaxes": "transpose",
    "swapdims": "transpose",
}
# Asked about a tensor, these give Python values or its storage and never reach the graph.
NOT_OPERATORS = frozenset(
    {"device", "stride", "storage_offset", "is_inference", "is_conj", "is_neg", "is_complex"}
    | {"is_signed", "is_contiguous", "is_nonzero", "set_", "requires_grad_", "data", "format"}
    | {"is_same_size", "get_device", "element_size", "can_cast", "promote_types", "result_type"}
    | {"_has_compatible_shallow_copy_type"}
)
# Checks that are read and dropped; nothing of them is left to lower.
ASSERTIONS = ("_assert", "_is_all_true", "_is_any_true", "_functional_assert")


def unknown_operators(recording: Recording) -> dict[str, tuple[str, ...]]:
    """The operators of a forward that each lowering has nothing for.

    TorchScript is judged by the functions that were called, as its tracer sees composite
    ones whole, but for those that are replaced before it sees them; torchlib by the
    operators that ran, unless they can be taken apart further.

    Raises:
        AnalysisError: This torch or onnxscript keeps its registries elsewhere.
    """
    symbolics, functions = torchscript_symbolics(), torchlib_functions()
    called = {_aten_name(name) for name in recording.calls.keys() - REPLACED} - NOT_OPERATORS
    called = {name for name in called if not name.startswith(ASSERTIONS)}
    return {
        TORCHSCRIPT: tuple(
            f"aten::{name}" for name in sorted(called) if _is_aten(name) and name not in symbolics
        ),
        TORCHLIB: tuple(
            name for name in sorted(recording.operators) if not _known_to_torchlib(name, functions)
        ),
    }


@functools.cache
def torchscript_symbolics() -> frozenset[str]:
    """Names of the aten operators that TorchScript's exporter has a symbolic for.

    Raises:
        AnalysisError: This torch keeps them elsewhere.
    """
    package = "torch.onnx._internal.torchscript_exporter"
    with _registry("TorchScript's symbolics"):
        # A version's symbolics register themselves when its module is imported.
        for opset in OPSETS:
            importlib.import_module(f"{package}.symbolic_opset{opset}")
        registration = importlib.import_module(f"{package}.registration")
        names: Iterable[str] = registration.registry.all_functions()
        return frozenset(name.removeprefix("aten::") for name in names if name.startswith("aten::"))


@functools.cache
def torchlib_functions() -> frozenset[str]:
    """Operators that torchlib implements, or that torch can take apart for it.

    Raises:
        AnalysisError: This torch or onnxscript keeps them elsewhere.
    """
    return cached_names("torchlib", ("torch", "onnxscript"), _listed_torchlib_functions)


def _listed_torchlib_functions() -> frozenset[str]:
    with _registry("torchlib's functions"):
        shared = importlib.import_module("onnxscript._framework_apis.torch_2_9")
        own = importlib.import_module("torch.onnx._internal.exporter._torchlib._torchlib_registry")
        names = {_dotted(item.qualified_name) for item in shared.get_torchlib_ops()}
        names |= {str(item.fx_target) for item in own.get_torchlib_ops()}
        tables: Iterable[Mapping[Any, Any]] = (
            torch.export.default_decompositions(),
            torch._decomp.decomposition_table,  # noqa: SLF001 - where torch.onnx itself looks
        )
        return frozenset(names | {str(operator) for table in tables for operator in table})


@contextlib.contextmanager
def _registry(what: str) -> Iterator[None]:
    """Turns the ways in which a private part can be missing into one error."""
    if Version(torch.__version__).release < Version(OLDEST_TORCH).release:
        need = f"torch {OLDEST_TORCH} or newer is needed, not {torch.__version__}"
        raise AnalysisError(f"{what} cannot be listed: {need}")
    try:
        yield
    except (ImportError, AttributeError) as error:
        where = f"torch {torch.__version__} keeps them elsewhere ({error})"
        step = "install the versions that constraints.txt names"
        raise AnalysisError(f"{what} cannot be listed, as {where}; {step}") from error


def _dotted(qualified: str) -> str:
    """`aten::add.Tensor` as `aten.add.Tensor`, and `aten::abs` as `aten.abs.default`."""
    name = qualified.replace("::", ".")
    return name if name.count(".") > 1 else f"{name}.default"


def _aten_name(called: str) -> str:
    """The aten name that TorchScript's lowering looks up for a torch function.

    Python's arithmetic on tensors always has a symbolic, and attributes are no operators.
    """
    if called.startswith("__"):
        return SPELLINGS.get(called, "")
    name = called.removesuffix("_")
    return ALIASES.get(name, name)


def _is_aten(name: str) -> bool:
    return bool(name) and hasattr(torch.ops.aten, name)


def _known_to_torchlib(operator: str, known: frozenset[str]) -> bool:
    """Whether an operator, or what it is without writing in place, is known."""
    namespace, name, overload = operator.split(".", 2)
    if name.startswith(ASSERTIONS):
        return True
    return bool({operator, f"{namespace}.{name.removesuffix('_')}.{overload}"} & known)
