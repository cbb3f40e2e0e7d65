"""Walks one function's source and says what it does with tensor values."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from selector import taint as rules
from selector.taint import Returned, Taint


class Sink(Protocol):
    """What a walk reports to, and asks about functions that are called."""

    def report(self, kind: str, node: ast.AST, taint: Taint) -> None:
        """Something was done to a value of that taint."""

    def call_method(
        self, name: str, args: Sequence[Taint], named: Mapping[str, Taint]
    ) -> Returned | None:
        """What a method of the same object returns, None where it is not known."""

    def call_function(
        self, name: str, args: Sequence[Taint], named: Mapping[str, Taint]
    ) -> Returned | None:
        """The same for a function of the same file."""


class Walk:
    """One pass over a function's body.

    Args:
        names: Taint of each parameter.
        receiver: The name of the first parameter of a method, whose attributes are
            parameters, buffers, submodules and configuration; None in a plain function.
        sink: Where findings go.
    """

    def __init__(self, names: Mapping[str, Taint], receiver: str | None, sink: Sink) -> None:
        self.names = dict(names)
        self.receiver = receiver
        self.sink = sink
        self.masks: set[str] = set()
        self.returned: Returned | None = None
        self.items: dict[ast.AST, tuple[Taint, ...]] = {}

    def run(self, body: Iterable[ast.stmt]) -> Returned:
        """Walks the statements up to one that always ends the function when exported."""
        for statement in body:
            self._visit(statement)
            if _always_leaves(statement):
                break
        return self.returned or Returned()

    def of(self, node: ast.AST | None) -> Taint:
        """The taint of an expression."""
        return Taint.PLAIN if node is None else self._visit(node) or Taint.PLAIN

    def join(self, nodes: Iterable[ast.AST | None]) -> Taint:
        """The worst taint among expressions, all of which are walked."""
        return max([self.of(node) for node in nodes], default=Taint.PLAIN)

    def _visit(self, node: ast.AST) -> Taint | None:
        """Calls the rule named after the kind of node.

        Anything without a rule of its own is as bad as its worst part.
        """
        rule: Callable[[ast.AST], Taint | None] | None
        rule = getattr(self, f"_{type(node).__name__.lower()}", None)
        return self.join(ast.iter_child_nodes(node)) if rule is None else rule(node)

    # Statements

    def _assign(self, node: ast.Assign) -> None:
        taint = self.of(node.value)
        for target in node.targets:
            self._bind(target, taint, node.value)

    def _annassign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self._bind(node.target, self.of(node.value), node.value)

    def _augassign(self, node: ast.AugAssign) -> None:
        taint = rules.operate([self.of(node.target), self.of(node.value)])
        self._bind(node.target, taint, node.value)

    def _namedexpr(self, node: ast.NamedExpr) -> Taint:
        taint = self.of(node.value)
        self._bind(node.target, taint, node.value)
        return taint

    def _return(self, node: ast.Return) -> None:
        taint = self.of(node.value)
        items = None
        if isinstance(node.value, ast.Tuple):
            items = tuple(self.of(item) for item in node.value.elts)
        elif node.value is not None:
            items = self.items.get(node.value)
        result = Returned(taint, items)
        self.returned = result if self.returned is None else self.returned.joined(result)

    def _if(self, node: ast.If) -> None:
        known = rules.known_truth(node.test)
        if known is not None:
            self.run(node.body if known else node.orelse)
            return
        self.sink.report(
            "check" if rules.only_complains(node) else "branch", node, self.truth(node.test)
        )
        before = dict(self.names)
        self.run(node.body)
        after, self.names = self.names, before
        self.run(node.orelse)
        self._merge(after)

    def _while(self, node: ast.While) -> None:
        self.sink.report("loop", node, self.truth(node.test))
        self._repeat(node.body)
        # A number before the first turn may be a tensor's value after it.
        self.sink.report("loop", node, self.truth(node.test))
        self.run(node.orelse)

    def _for(self, node: ast.For) -> None:
        taint = self.of(node.iter)
        counted = taint is Taint.RAGGED or (taint.of_values and rules.is_range(node.iter))
        shown = taint if counted else Taint.SHAPE if taint > Taint.PLAIN else Taint.PLAIN
        self.sink.report("loop", node, shown)
        self._bind(node.target, Taint.TENSOR if taint is Taint.RAGGED else taint, node.iter)
        self._repeat(node.body)
        self.run(node.orelse)

    def _assert(self, node: ast.Assert) -> None:
        self.sink.report("check", node, self.truth(node.test))

    def _functiondef(self, node: ast.FunctionDef) -> None:
        outer = self.returned
        names = dict(self.names)
        for argument in node.args.args:
            self.names[argument.arg] = rules.annotated(argument.annotation, None) or Taint.TENSOR
        self.run(node.body)
        self.names, self.returned = names, outer

    def _lambda(self, _node: ast.Lambda) -> Taint:
        return Taint.PLAIN

    def _match(self, node: ast.Match) -> None:
        self.sink.report("branch", node, self.truth(node.subject))
        for case in node.cases:
            self.run(case.body)

    def _repeat(self, body: Sequence[ast.stmt]) -> None:
        # Twice, as what the end of the body binds is seen at its start the next time.
        for _ in range(2):
            before = dict(self.names)
            self.run(body)
            self._merge(before)

    def _merge(self, other: Mapping[str, Taint]) -> None:
        for name, taint in other.items():
            self.names[name] = max(taint, self.names.get(name, Taint.PLAIN))

    def _bind(self, target: ast.AST, taint: Taint, value: ast.AST) -> None:
        match target:
            case ast.Name(id=name):
                self.names[name] = taint
                (self.masks.add if self._is_mask(value) else self.masks.discard)(name)
            case ast.Tuple(elts=targets) | ast.List(elts=targets):
                values = value.elts if isinstance(value, ast.Tuple) else []
                each = self.items.get(value) or [self.of(item) for item in values]
                item = Taint.TENSOR if taint is Taint.HOLDER else taint
                for index, inner in enumerate(targets):
                    known = each[index] if len(each) == len(targets) else item
                    self._bind(inner, known, value)
            case ast.Starred(value=inner):
                self._bind(inner, Taint.HOLDER if taint.of_values else taint, value)
            case ast.Subscript(value=base, slice=index):
                self._index(target, index)
                if isinstance(base, ast.Name) and taint > self.names.get(base.id, Taint.PLAIN):
                    self.names[base.id] = Taint.HOLDER if taint is Taint.SCALAR else taint
            case _:
                pass

    # Truth tests

    def truth(self, node: ast.AST) -> Taint:
        """The taint of an expression whose truth is asked for."""
        if isinstance(node, ast.BoolOp):
            return max(self.truth(value) for value in node.values)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return self.truth(node.operand)
        taint = self.of(node)
        return Taint.SHAPE if taint is Taint.HOLDER else taint

    def _ifexp(self, node: ast.IfExp) -> Taint:
        known = rules.known_truth(node.test)
        if known is not None:
            return self.of(node.body if known else node.orelse)
        self.sink.report("branch", node, self.truth(node.test))
        return self.join([node.body, node.orelse])

    def _boolop(self, node: ast.BoolOp) -> Taint:
        return self.join(node.values)

    def _unaryop(self, node: ast.UnaryOp) -> Taint:
        if not isinstance(node.op, ast.Not):
            return self.of(node.operand)
        taint = self.truth(node.operand)
        return Taint.SCALAR if taint.of_values else taint

    def _compare(self, node: ast.Compare) -> Taint:
        operands = [node.left, *node.comparators]
        taint = self.join(operands)
        if all(isinstance(operator, ast.Is | ast.IsNot) for operator in node.ops):
            return Taint.PLAIN
        if any(isinstance(item, ast.Constant) and isinstance(item.value, str) for item in operands):
            return Taint.PLAIN
        return Taint.TENSOR if taint is Taint.HOLDER else taint

    def _elements(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp) -> Taint:
        self._generators(node.generators)
        taint = self.of(node.elt)
        return Taint.HOLDER if Taint.HOLDER < taint < Taint.SCALAR else taint

    _listcomp = _setcomp = _generatorexp = _elements

    def _dictcomp(self, node: ast.DictComp) -> Taint:
        self._generators(node.generators)
        taint = self.join([node.key, node.value])
        return min(taint, Taint.HOLDER)

    def _generators(self, generators: Iterable[ast.comprehension]) -> None:
        for generator in generators:
            taint = self.of(generator.iter)
            if taint is Taint.RAGGED or (taint.of_values and rules.is_range(generator.iter)):
                self.sink.report("loop", generator.iter, taint)
            self._bind(generator.target, taint, generator.iter)
            for test in generator.ifs:
                self.sink.report("branch", test, self.truth(test))

    # Values

    def _constant(self, _node: ast.Constant) -> Taint:
        return Taint.PLAIN

    def _joinedstr(self, node: ast.JoinedStr) -> Taint:
        self.join(node.values)
        return Taint.PLAIN

    def _name(self, node: ast.Name) -> Taint:
        return self.names.get(node.id, Taint.PLAIN)

    def _tuple(self, node: ast.Tuple | ast.List | ast.Set) -> Taint:
        taint = self.join(node.elts)
        return Taint.HOLDER if taint in {Taint.TENSOR, Taint.RAGGED} else taint

    _list = _set = _tuple

    def _dict(self, node: ast.Dict) -> Taint:
        return min(self.join(node.values), Taint.HOLDER)

    def _binop(self, node: ast.BinOp) -> Taint:
        return rules.operate([self.of(node.left), self.of(node.right)])

    def _attribute(self, node: ast.Attribute) -> Taint:
        base = self.of(node.value)
        if node.attr in rules.SHAPE_ATTRIBUTES and base > Taint.SHAPE:
            return Taint.SCALAR if base >= Taint.RAGGED and node.attr == "shape" else Taint.SHAPE
        if node.attr in rules.PLAIN_ATTRIBUTES or node.attr.startswith("is_"):
            return Taint.PLAIN
        return Taint.TENSOR if base is Taint.HOLDER else base

    def _subscript(self, node: ast.Subscript) -> Taint:
        base = self.of(node.value)
        index = self._index(node, node.slice)
        if index is Taint.SCALAR and isinstance(node.value, ast.Attribute) and base is Taint.PLAIN:
            # Whichever of the module's own parts is meant, its choice is a branch.
            self.sink.report("branch", node, index)
        if index is Taint.RAGGED or (index.of_values and isinstance(node.slice, ast.Slice)):
            return Taint.RAGGED
        if base is Taint.HOLDER:
            return Taint.HOLDER if isinstance(node.slice, ast.Slice) else Taint.TENSOR
        return max(base, Taint.TENSOR) if index.of_values else base

    def _index(self, node: ast.AST, index: ast.expr) -> Taint:
        """The taint of an index; RAGGED where a mask picks as many items as it has."""
        parts = index.elts if isinstance(index, ast.Tuple) else [index]
        worst = Taint.PLAIN
        for part in parts:
            taint = self.of(part)
            if taint in {Taint.TENSOR, Taint.RAGGED, Taint.HOLDER}:
                mask = self._is_mask(part)
                self.sink.report("mask" if mask else "index", node, Taint.TENSOR)
                taint = Taint.RAGGED if mask else max(taint, Taint.TENSOR)
            worst = max(worst, taint)
        return worst

    def _is_mask(self, node: ast.AST) -> bool:
        match node:
            case ast.Compare():
                return True
            case ast.UnaryOp(op=ast.Invert()):
                return True
            case ast.BinOp(op=ast.BitAnd() | ast.BitOr()):
                return True
            case ast.Call(func=ast.Attribute(attr="bool")):
                return True
            case ast.Name(id=name):
                return name in self.masks or "mask" in name
            case _:
                return False

    # Calls

    def _call(self, node: ast.Call) -> Taint:
        args = [self.of(argument) for argument in node.args]
        named = {word.arg or "**": self.of(word.value) for word in node.keywords}
        match node.func:
            case ast.Name(id=name):
                return self._call_name(node, name, args, named)
            case ast.Attribute(value=ast.Name(id=owner), attr=name) if owner == self.receiver:
                return self._result(node, self.sink.call_method(name, args, named), args, named)
            case ast.Attribute(value=owner_node, attr=name):
                return self._call_attribute(node, self.of(owner_node), name, args, named)
            case _:
                return max(self.of(node.func), rules.passed_through(args, named))

    def _call_name(
        self, node: ast.Call, name: str, args: list[Taint], named: Mapping[str, Taint]
    ) -> Taint:
        worst = max([*args, *named.values()], default=Taint.PLAIN)
        if name in rules.PLAIN_BUILTINS:
            return Taint.PLAIN
        if name == "len":
            return Taint.SCALAR if worst is Taint.RAGGED else min(worst, Taint.SHAPE)
        if name in rules.CASTS and worst >= Taint.HOLDER:
            if worst is not Taint.SCALAR:
                self.sink.report("read", node, worst)
            return Taint.SCALAR
        if name in {"range", "enumerate", "zip", "reversed", "list", "tuple", "sorted"}:
            return worst
        if name in rules.FOLDS and worst is Taint.SCALAR:
            return worst
        return self._result(node, self.sink.call_function(name, args, named), args, named)

    def _result(
        self,
        node: ast.Call,
        known: Returned | None,
        args: Iterable[Taint],
        named: Mapping[str, Taint],
    ) -> Taint:
        if known is None:
            return rules.passed_through(args, named)
        if known.items:
            self.items[node] = known.items
        return known.taint

    def _call_attribute(
        self, node: ast.Call, owner: Taint, name: str, args: list[Taint], named: Mapping[str, Taint]
    ) -> Taint:
        worst = max([owner, *args, *named.values()])
        if name.startswith("is_"):
            return Taint.PLAIN
        if rules.asks_size(name):
            return Taint.SCALAR if worst is Taint.RAGGED else min(worst, Taint.SHAPE)
        if name in rules.GROWING and isinstance(node.func, ast.Attribute):
            self._grow(node.func.value, worst)
            return Taint.PLAIN
        if owner is Taint.SCALAR:
            return worst
        if worst >= Taint.HOLDER and (kind := rules.value_kind(name, owner, args, named)):
            self.sink.report(kind, node, worst)
            return Taint.SCALAR if kind == "read" else Taint.RAGGED
        passed = rules.passed_through(args, named)
        return max(passed, Taint.TENSOR if owner > Taint.SHAPE else owner)

    def _grow(self, container: ast.AST, taint: Taint) -> None:
        if isinstance(container, ast.Name) and taint > Taint.SHAPE:
            kept = self.names.get(container.id, Taint.PLAIN)
            self.names[container.id] = max(kept, Taint.HOLDER)


def _always_leaves(statement: ast.stmt) -> bool:
    """Whether nothing after a statement runs when the function is exported."""
    if isinstance(statement, ast.Return | ast.Raise):
        return True
    if isinstance(statement, ast.If) and (known := rules.known_truth(statement.test)) is not None:
        body = statement.body if known else statement.orelse
        return bool(body) and _always_leaves(body[-1])
    return False
