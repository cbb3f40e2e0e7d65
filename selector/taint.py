"""What a Python value depends on: configuration, shapes, or the values of tensors."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum


class Taint(IntEnum):
    """What a Python value depends on; the larger, the worse to branch on.

    `HOLDER` is a container of tensors, or a tensor that may be None: whether it is true
    says nothing about values. `RAGGED` is a tensor whose size depends on values.
    `SCALAR` is a Python value that was read from a tensor.
    """

    PLAIN = 0
    SHAPE = 1
    HOLDER = 2
    TENSOR = 3
    RAGGED = 4
    SCALAR = 5

    @property
    def of_values(self) -> bool:
        """Whether a truth test of it reads a tensor's values."""
        return self >= Taint.TENSOR


@dataclass(frozen=True, slots=True)
class Returned:
    """What a function returns.

    Attributes:
        taint: Of the whole.
        items: Of each item, where every return gives a tuple of the same length.
    """

    taint: Taint = Taint.PLAIN
    items: tuple[Taint, ...] | None = None

    def joined(self, other: Returned) -> Returned:
        """What a function with both returns gives."""
        items = None
        if self.items and other.items and len(self.items) == len(other.items):
            items = tuple(map(max, self.items, other.items))
        return Returned(max(self.taint, other.taint), items)


SHAPE_ATTRIBUTES = frozenset({"shape", "ndim"})
SHAPE_METHODS = frozenset({"size", "dim", "numel", "nelement", "ndimension", "stride"})
PLAIN_ATTRIBUTES = frozenset({"dtype", "device", "requires_grad", "layout", "training", "grad"})
READS = frozenset({"item", "tolist", "numpy"})
RAGGED_RESULTS = frozenset(
    {"nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "bincount"}
)
WHOLE_READS = frozenset({"equal", "allclose"})
CASTS = frozenset({"int", "float", "bool"})
PLAIN_BUILTINS = frozenset(
    {"isinstance", "issubclass", "hasattr", "callable", "type", "id", "str", "repr", "print"}
)
FOLDS = frozenset({"max", "min", "sum", "abs", "round", "divmod", "pow"})
SIZE_WORDS = frozenset({"length", "size", "sizes", "shape"})
TRACING = frozenset(
    {"is_tracing", "is_compiling", "is_exporting", "is_jit_tracing"}
    | {"is_torchdynamo_compiling", "is_torchdynamo_exporting"}
)
GROWING = frozenset({"append", "extend", "add", "insert", "update"})


def annotated(annotation: ast.AST | None, default: ast.AST | None) -> Taint | None:
    """What an annotation and a default value say about a parameter, or None if nothing."""
    optional = isinstance(default, ast.Constant) and default.value is None
    if annotation is not None:
        text = ast.unparse(annotation)
        if "Tensor" not in text:
            return None if text in {"Any", "typing.Any", "object"} else Taint.PLAIN
        holds = any(
            word in text.lower() for word in ("tuple", "list", "dict", "mapping", "sequence")
        )
        return Taint.HOLDER if holds else Taint.TENSOR
    if optional:
        return Taint.HOLDER
    return Taint.PLAIN if default is not None else None


def parameter_taints(
    arguments: ast.arguments, given: Iterable[str] | None = None
) -> dict[str, Taint]:
    """The taint of each parameter: a tensor unless annotation or default say otherwise.

    Args:
        arguments: Of the function.
        given: The parameters that are passed as tensors, where that is known; the rest
            then keeps its default.
    """
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults))
    pairs = [
        *zip(positional, [*defaults, *arguments.defaults], strict=True),
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    ]
    taints: dict[str, Taint] = {}
    for argument, default in pairs:
        stated = annotated(argument.annotation, default)
        taints[argument.arg] = Taint.TENSOR if stated is None else stated
    if arguments.vararg:
        taints[arguments.vararg.arg] = Taint.HOLDER
    if given is not None:
        named = set(given)
        taints = {name: Taint.TENSOR if name in named else Taint.PLAIN for name in taints}
    return taints


def passed_through(args: Iterable[Taint], named: Mapping[str, Taint]) -> Taint:
    """What an unknown function makes of its arguments: a tensor, if there is one among them."""
    taints = [*args, *named.values()]
    if any(Taint.HOLDER <= taint <= Taint.RAGGED for taint in taints):
        return Taint.TENSOR
    worst = max(taints, default=Taint.PLAIN)
    # Only sizes and counts go in, such as into torch.arange.
    return Taint.RAGGED if worst is Taint.SCALAR else worst


def operate(taints: Sequence[Taint]) -> Taint:
    """Arithmetic: a tensor and a number are a tensor, and two tuples a tuple."""
    for kind in (Taint.RAGGED, Taint.TENSOR):
        if kind in taints:
            return kind
    return max(taints)


def asks_size(name: str) -> bool:
    """Whether a method gives sizes: torch's own, and others that are named so."""
    return name in SHAPE_METHODS or not SIZE_WORDS.isdisjoint(name.split("_"))


def value_kind(
    name: str, owner: Taint, args: Sequence[Taint], named: Mapping[str, Taint]
) -> str | None:
    """`read` for a call that reads values, `nonzero` for one whose result they size."""
    if (name in READS and owner >= Taint.HOLDER) or name in WHOLE_READS:
        return "read"
    alone = len(args) == 1 and not named
    if name in RAGGED_RESULTS or (name == "where" and alone):
        return "nonzero"
    if name == "repeat_interleave":
        counts = [*args[1 if owner <= Taint.SHAPE else 0 :], named.get("repeats", Taint.PLAIN)]
        return "nonzero" if any(taint >= Taint.TENSOR for taint in counts) else None
    return None


def is_range(node: ast.AST) -> bool:
    """Whether an expression is a call of `range`."""
    return (
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range"
    )


def known_truth(test: ast.AST) -> bool | None:
    """The truth of a test as every export sees it, None where it depends on more.

    The module is in eval mode, and it is being traced.
    """
    match test:
        case ast.Attribute(attr="training"):
            return False
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if name in TRACING:
            return True
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            known = known_truth(operand)
            return None if known is None else not known
        case ast.BoolOp(op=operator, values=values):
            decisive = isinstance(operator, ast.Or)
            known_values = [known_truth(value) for value in values]
            if decisive in known_values:
                return decisive
            return None if None in known_values else not decisive
        case _:
            return None


def only_complains(node: ast.If) -> bool:
    """Whether a branch does nothing but raise or warn."""
    return all(_complains(statement) for statement in [*node.body, *node.orelse])


def _complains(statement: ast.stmt) -> bool:
    match statement:
        case ast.Raise():
            return True
        case ast.If():
            return only_complains(statement)
        case ast.Expr(value=ast.Call(func=ast.Attribute(attr=name))):
            return name.startswith(("warn", "debug", "info", "error"))
        case ast.Expr(value=ast.Constant()):
            return True
        case ast.Assign(value=value) | ast.AugAssign(value=value):
            return _is_message_part(value)
        case _:
            return False


def _is_message_part(value: ast.expr) -> bool:
    match value:
        case ast.JoinedStr() | ast.Constant(value=str()):
            return True
        case ast.Call(func=ast.Name(id="getattr")):
            return True
        case _:
            return False
