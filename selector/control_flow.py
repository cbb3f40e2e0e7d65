"""Finds, in the source of every forward, what depends on the values of tensors."""

from __future__ import annotations

import ast
import functools
import inspect
import linecache
import textwrap
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any

from selector.taint import Returned, Taint, only_complains, parameter_taints
from selector.value_flow import Walk

if TYPE_CHECKING:
    from torch import nn

# The worst first, which is the order in which findings are shown.
KINDS = ("branch", "loop", "nonzero", "mask", "read", "check", "index")
FLOW_KINDS = frozenset({"branch", "loop"})
DEEPEST_CALL = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One place where a forward depends on tensor values.

    Attributes:
        kind: `branch` and `loop` on a value; `nonzero`, an operation whose result's size
            depends on values; `mask`, indexing by a boolean tensor; `read`, `.item()`,
            `int(tensor)` and the like; `check`, an assertion or a branch that only raises;
            `index`, indexing by another computed tensor.
        file: Path of the source file.
        line: First line of the statement or expression.
        end_line: Last line of its test, or of the expression.
        function: Qualified name of the function.
        source: The first line's text.
        scalar: Whether what is tested had been read from a tensor earlier.
    """

    kind: str
    file: str
    line: int
    end_line: int
    function: str
    source: str
    scalar: bool = False

    @property
    def place(self) -> str:
        """The file's name and the line, `modeling_x.py:74`."""
        return f"{Path(self.file).name}:{self.line}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlFlow:
    """What the source of a module's forwards says.

    Attributes:
        counts: Places by kind: those of `KINDS` on values, and `shape_branch`,
            `shape_loop`, `config_branch`, `config_loop`.
        findings: The places that depend on values, the worst kind first.
        files: The source files that were read.
        unread: Classes whose forward has no source.
    """

    counts: Mapping[str, int]
    findings: tuple[Finding, ...]
    files: frozenset[str]
    unread: tuple[str, ...] = ()


def analyze_control_flow(module: nn.Module, given: Collection[str] | None = None) -> ControlFlow:
    """Reads the forward of every distinct class in the module tree.

    torch's own modules are known and left out. Methods that a forward calls on itself and
    functions of the same file are followed.

    Args:
        module: The root; it is not run.
        given: Names of the parameters of the root's forward that get a tensor, where known.
    """
    survey = _Survey()
    seen: set[CodeType] = set()
    unread: list[str] = []
    for owner in dict.fromkeys(type(item) for item in module.modules()):
        forward = _plain_function(getattr(owner, "forward", None))
        if forward is None:
            unread.append(owner.__qualname__)
            continue
        if forward.__code__ in seen or _is_torch(forward):
            continue
        seen.add(forward.__code__)
        if not survey.enter(forward, owner, given if owner is type(module) else None):
            unread.append(owner.__qualname__)
    return survey.result(unread)


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Findings in the order in which they matter to a reader."""
    return sorted(findings, key=lambda item: (KINDS.index(item.kind), item.file, item.line))


def classify_line(file: str, line: int) -> str:
    """What a line of a file is part of: the test of a `branch`, `loop` or `check`, or a `read`."""
    for node in ast.walk(_parse_file(file)):
        match node:
            case ast.If(test=test) | ast.IfExp(test=test) if _covers(test, line):
                complains = isinstance(node, ast.If) and only_complains(node)
                return "check" if complains else "branch"
            case ast.While(test=test) | ast.For(iter=test) if _covers(test, line):
                return "loop"
            case ast.Assert(test=test) if _covers(test, line):
                return "check"
            case _:
                continue
    return "read"


def source_line(file: str, line: int) -> str:
    """The text of a line of a file, without its indentation."""
    return linecache.getline(file, line).strip()


@dataclass(slots=True)
class _Survey:
    """Collects what all walks report, each place once at its worst."""

    places: dict[tuple[str, int, int, str], tuple[Taint, Finding]] = field(default_factory=dict)
    known: dict[tuple[CodeType, tuple[Taint, ...]], Returned] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)
    depth: int = 0

    def enter(
        self, function: FunctionType, owner: type | None, given: Collection[str] | None
    ) -> bool:
        """Walks an entry point; returns whether there was source to walk."""
        node = _definition(function)
        if node is None:
            return False
        self.walk(function, owner, parameter_taints(node.args, given))
        return True

    def walk(
        self, function: FunctionType, owner: type | None, taints: Mapping[str, Taint]
    ) -> Returned | None:
        """Walks a function once per combination of taints; returns what it returns."""
        node = _definition(function)
        if node is None or self.depth >= DEEPEST_CALL:
            return None
        key = function.__code__, tuple(taints.values())
        if key not in self.known:
            # What a recursive call finds until the outer one is done.
            self.known[key] = Returned(max(taints.values(), default=Taint.PLAIN))
            self.files.add(function.__code__.co_filename)
            names = dict(taints)
            receiver = _receiver(node) if owner is not None else None
            if receiver is not None:
                names[receiver] = Taint.PLAIN
            self.depth += 1
            walk = Walk(names, receiver, _Reporter(self, function, owner))
            self.known[key] = walk.run(node.body)
            self.depth -= 1
        return self.known[key]

    def result(self, unread: Sequence[str]) -> ControlFlow:
        counts = Counter(
            _count_name(taint, finding.kind) for taint, finding in self.places.values()
        )
        findings = [finding for taint, finding in self.places.values() if taint.of_values]
        findings = worst_first(findings)
        return ControlFlow(
            counts={name: counts[name] for name in sorted(counts) if name},
            findings=tuple(findings),
            files=frozenset(self.files),
            unread=tuple(unread),
        )


@dataclass(frozen=True, slots=True)
class _Reporter:
    """Connects the walk of one function with the survey."""

    survey: _Survey
    function: FunctionType
    owner: type | None

    def report(self, kind: str, node: ast.AST, taint: Taint) -> None:
        file = self.function.__code__.co_filename
        test = getattr(node, "test", None) or getattr(node, "iter", None) or node
        line = getattr(node, "lineno", 0)
        key = file, line, getattr(node, "col_offset", 0), kind
        if key in self.survey.places and self.survey.places[key][0] >= taint:
            return
        finding = Finding(
            kind=kind,
            file=file,
            line=line,
            end_line=getattr(test, "end_lineno", None) or line,
            function=self.function.__qualname__,
            source=source_line(file, line),
            scalar=taint is Taint.SCALAR,
        )
        self.survey.places[key] = taint, finding

    def call_method(
        self, name: str, args: Sequence[Taint], named: Mapping[str, Taint]
    ) -> Returned | None:
        function = _plain_function(inspect.getattr_static(self.owner, name, None))
        if function is None or _is_torch(function):
            return None
        return self._follow(function, args, named, self.owner)

    def call_function(
        self, name: str, args: Sequence[Taint], named: Mapping[str, Taint]
    ) -> Returned | None:
        function = _plain_function(self.function.__globals__.get(name))
        if function is None:
            return None
        if function.__code__.co_filename != self.function.__code__.co_filename:
            returned = function.__annotations__.get("return")
            return Returned() if returned in {bool, int, str, "bool", "int", "str"} else None
        return self._follow(function, args, named, None)

    def _follow(
        self,
        function: FunctionType,
        args: Sequence[Taint],
        named: Mapping[str, Taint],
        owner: type | None,
    ) -> Returned | None:
        node = _definition(function)
        if node is None:
            return None
        taints = dict.fromkeys(parameter_taints(node.args), Taint.PLAIN)
        bound = owner is not None and _receiver(node) is not None
        names = [argument.arg for argument in [*node.args.posonlyargs, *node.args.args]][bound:]
        taints |= dict(zip(names, args, strict=False))
        taints |= {name: taint for name, taint in named.items() if name in taints}
        return self.survey.walk(function, owner, taints)


def _count_name(taint: Taint, kind: str) -> str:
    """Under which name a place counts; checks on shapes count as branches on shapes."""
    if taint.of_values:
        return kind
    if kind not in {"branch", "loop", "check"}:
        return ""
    where = "config" if taint is Taint.PLAIN else "shape"
    return f"{where}_{'loop' if kind == 'loop' else 'branch'}"


def _plain_function(value: object) -> FunctionType | None:
    """The Python function behind decorators, static methods and TorchScript."""
    if isinstance(value, staticmethod | classmethod):
        value = value.__func__
    wrapped: Any = getattr(value, "_torchdynamo_orig_callable", value)
    if callable(wrapped):
        wrapped = inspect.unwrap(wrapped)
    return wrapped if isinstance(wrapped, FunctionType) else None


def _is_torch(function: Callable[..., object]) -> bool:
    return (function.__module__ or "").split(".")[0] == "torch"


def _receiver(node: ast.FunctionDef) -> str | None:
    """The name of a method's first parameter, unless it is a static method."""
    decorators = {item.id for item in node.decorator_list if isinstance(item, ast.Name)}
    parameters = [*node.args.posonlyargs, *node.args.args]
    return parameters[0].arg if parameters and "staticmethod" not in decorators else None


@functools.cache
def _definition(function: FunctionType) -> ast.FunctionDef | None:
    """The function's syntax tree with the file's line numbers, None without source."""
    try:
        lines, first = inspect.getsourcelines(function)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, TypeError, SyntaxError):
        return None
    ast.increment_lineno(tree, first - 1)
    return next((node for node in tree.body if isinstance(node, ast.FunctionDef)), None)


@functools.cache
def _parse_file(file: str) -> ast.AST:
    try:
        return ast.parse(Path(file).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return ast.Module(body=[], type_ignores=[])


def _covers(node: ast.AST, line: int) -> bool:
    first = getattr(node, "lineno", 0)
    return first <= line <= (getattr(node, "end_lineno", None) or first)
