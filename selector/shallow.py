"""A copy of a model with few of its layers, to check an export where the model is too large to run.

Nothing is known of any architecture: a number in the config counts layers if with a smaller
one the model has the same parameters, but fewer of them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from selector.errors import InvalidRequestError
from strategies.base import first_line

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# What passes from one layer to the next shows in two.
LEAST_LAYERS = 2
SEED = 0
_LISTS = (nn.ModuleList, nn.Sequential)
ADVICE = "verify='full' runs the whole model, verify='off' nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shallow:
    """How to build the copy.

    Attributes:
        config: With fewer layers of each kind.
        options: Further arguments of the model's class.
        changes: What was lowered, `num_hidden_layers from 12 to 2` and such.
    """

    config: PretrainedConfig
    options: dict[str, Any]
    changes: tuple[str, ...]

    def build(self, like: nn.Module) -> nn.Module:
        """The copy, with random weights that are the same every time, in eval mode."""
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(SEED)
            build: Any = type(like)
            module: nn.Module = build(copy.deepcopy(self.config), **self.options)
        return module.float().eval().requires_grad_(requires_grad=False)


def plan_shallow(module: nn.Module, config: PretrainedConfig | None) -> Shallow:
    """Finds the numbers in a config that count layers, and lowers them.

    Kinds of layers are told apart by their classes, the shapes of their parameters, and
    what the config lists per layer; at least one of each kind is kept, from the front.

    Args:
        module: The model; only its structure is looked at.
        config: What its class builds it from.

    Raises:
        InvalidRequestError: No copy with fewer layers can be made.
    """
    if config is None:
        reason = "a module without a transformers config cannot be built with fewer layers"
        raise InvalidRequestError(f"verify='light' is not possible: {reason}; {ADVICE}")
    options = _options(module, config)
    outline = _outline(module)
    kept, changes = config, []
    for choices in _changes(config, outline.lengths):
        for change in choices:
            trial = copy.deepcopy(kept)
            change.apply(trial)
            found = _built(module, trial, options)
            if found is not None and found.shallower_than(outline):
                kept, outline = trial, found
                changes.append(str(change))
                break
    if not changes:
        reason = f"nothing in the config of {type(module).__name__} lowers its number of layers"
        raise InvalidRequestError(f"verify='light' is not possible: {reason}; {ADVICE}")
    return Shallow(config=kept, options=options, changes=tuple(changes))


@dataclass(frozen=True, slots=True)
class _Change:
    """Lowers one number or list of a config, and cuts the lists beside it that are as long.

    Attributes:
        part: Attribute names that lead from the config to the part that holds the field.
        field: What may count layers.
        old: Its value.
        new: Its value in the copy.
        length: How many items lists beside it keep, by their present length.
    """

    part: tuple[str, ...]
    field: str
    old: Any
    new: Any
    length: tuple[int, int] | None = None

    def apply(self, config: Any) -> None:
        owner = _part(config, self.part)
        if self.length is not None:
            for name, value in _fields(owner):
                if isinstance(value, list | tuple) and len(value) == self.length[0]:
                    setattr(owner, name, value[: self.length[1]])
        setattr(owner, self.field, self.new)

    def __str__(self) -> str:
        return f"{'.'.join((*self.part, self.field))} from {self.old} to {self.new}"


def _changes(config: Any, lengths: frozenset[int]) -> Iterator[list[_Change]]:
    """For each field that may count layers what to try, the fewest layers first."""
    for part in _parts(config):
        owner = _part(config, part)
        for name, value in _fields(owner):
            if _is_count(value) and value in lengths:
                least = max(LEAST_LAYERS, _kinds_listed(owner, value))
                yield [_Change(part, name, value, n, (value, n)) for n in range(least, value)]
            elif _are_counts(value) and lengths.issuperset(value):
                lower = [_capped(value, most) for most in range(LEAST_LAYERS, max(value))]
                yield [_Change(part, name, value, new) for new in lower]


def _capped(values: Any, most: int) -> Any:
    return type(values)(min(value, most) for value in values)


def _kinds_listed(owner: Any, length: int) -> int:
    """How many layers from the front show every kind that a list beside the number names."""
    lists = [
        [repr(item) for item in value]
        for _, value in _fields(owner)
        if isinstance(value, list | tuple) and len(value) == length
    ]
    return max((max(map(kinds.index, set(kinds))) + 1 for kinds in lists), default=0)


@dataclass(frozen=True, slots=True)
class _Outline:
    """What a model consists of.

    Attributes:
        shapes: Of its parameters.
        layers: Paths of what may be repeated: modules in a list that have parts of their own.
        kinds: What distinguishes those from one another, however many there are of each.
        lengths: Of the lists.
    """

    shapes: dict[str, torch.Size]
    layers: tuple[str, ...]
    kinds: frozenset[object]
    lengths: frozenset[int]

    def shallower_than(self, other: _Outline) -> bool:
        """Whether it is the other with some layers less, and of each kind at least one left."""
        gone = other.shapes.keys() - self.shapes.keys()
        layers = tuple(f"{path}." for path in other.layers)
        return (
            self.shapes.items() < other.shapes.items()
            and self.kinds == other.kinds
            and all(name.startswith(layers) for name in gone)
        )


def _outline(module: nn.Module) -> _Outline:
    stacks = list(_stacks(module))
    return _Outline(
        shapes=_shapes(module),
        layers=tuple(path for stack in stacks for path in stack),
        kinds=frozenset(_kind(layer) for stack in stacks for layer in stack.values()),
        lengths=frozenset(map(len, stacks)),
    )


def _stacks(module: nn.Module) -> Iterator[dict[str, nn.Module]]:
    for path, item in module.named_modules():
        prefix = f"{path}." if path else ""
        layers = dict(item.named_children()) if isinstance(item, _LISTS) else {}
        if layers and all(next(layer.children(), None) is not None for layer in layers.values()):
            yield {f"{prefix}{name}": layer for name, layer in layers.items()}


def _kind(layer: nn.Module) -> object:
    """Its classes and shapes; lists within it count once, however long they are."""
    classes = {(_any_number(name), type(item)) for name, item in layer.named_modules()}
    shapes = {(_any_number(name), shape) for name, shape in _shapes(layer).items()}
    return frozenset(classes), frozenset(shapes)


def _any_number(path: str) -> str:
    return ".".join("*" if part.isdecimal() else part for part in path.split("."))


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: item.shape for name, item in module.named_parameters()}


def _built(module: nn.Module, config: Any, options: dict[str, Any]) -> _Outline | None:
    try:
        build: Any = type(module)
        with torch.device("meta"):
            return _outline(build(copy.deepcopy(config), **options))
    except Exception:  # noqa: BLE001 - a class refuses a config in any way it likes
        return None


def _options(module: nn.Module, config: Any) -> dict[str, Any]:
    """With which the class builds this very model from its config; it may have no pooler."""
    tried: list[dict[str, Any]] = [{}, {"add_pooling_layer": False}]
    wanted = _shapes(module)
    for options in tried:
        found = _built(module, config, options)
        if found is not None and found.shapes == wanted:
            return options
    raise InvalidRequestError(
        f"verify='light' is not possible: {type(module).__name__} does not build this model "
        f"from its config alone; {ADVICE}"
    )


def _parts(config: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, value in _fields(_part(config, path)):
        if hasattr(value, "model_type"):
            yield from _parts(config, (*path, name))


def _part(config: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        config = getattr(config, name)
    return config


def _fields(owner: Any) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in vars(owner).items() if not name.startswith("_")]


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _are_counts(value: object) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(map(_is_count, value))


def refusal(shallow: Shallow, error: Exception) -> InvalidRequestError:
    """What to say where the copy does not run as the model does."""
    changes = ", ".join(shallow.changes)
    return InvalidRequestError(
        f"verify='light' is not possible: the copy with {changes} does not run: "
        f"{first_line(error)}; {ADVICE}"
    )
