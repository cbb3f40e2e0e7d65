"""The models that can be collected, by name: what there is, and how each one is built."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selector.measuring import Recipe
from strategies.registry import unknown_name_message

if TYPE_CHECKING:
    from torch import nn

    Built = tuple[nn.Module, Any]

# What builds them: imported by the process that does, once for all models, and not by that of a
# worker, which stays light.
IMPORTS = ("scripts.zoo", "scripts.plain_modules")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Models of one sort; their names are the sort's, a colon, and one of `names`.

    Attributes:
        names: Lists them.
        build: Gives the module of a name and a seed, and its inputs or None.
    """

    names: Callable[[], Iterable[str]]
    build: Callable[[str, int], Built]


def _tiny_names() -> Iterable[str]:
    from scripts import zoo  # noqa: PLC0415 - see IMPORTS

    return zoo.TINY


def _tiny(name: str, seed: int) -> Built:
    from scripts import zoo  # noqa: PLC0415 - see IMPORTS

    return zoo.tiny_model(name, seed=seed), None


def _plain_names() -> Iterable[str]:
    from scripts import plain_modules  # noqa: PLC0415 - see IMPORTS

    return plain_modules.PLAIN


def _plain(name: str, seed: int) -> Built:  # noqa: ARG001 - they bring a seed of their own
    from scripts import plain_modules  # noqa: PLC0415 - see IMPORTS

    return plain_modules.PLAIN[name]()


def _zoo_names(kind: str) -> Iterable[str]:
    from scripts import zoo  # noqa: PLC0415 - see IMPORTS

    return [name.removeprefix(f"{kind}:") for name in zoo.names(kind)]


def _zoo(kind: str, name: str, seed: int) -> Built:
    from scripts import zoo  # noqa: PLC0415 - see IMPORTS

    return zoo.build(f"{kind}:{name}", seed=seed), None


KINDS = {
    **{
        kind: Kind(names=partial(_zoo_names, kind), build=partial(_zoo, kind))
        for kind in ("base", "head")
    },
    "tiny": Kind(names=_tiny_names, build=_tiny),
    "plain": Kind(names=_plain_names, build=_plain),
}


def expand(patterns: Sequence[str]) -> list[str]:
    """The names that patterns stand for, each once; folders and Hub ids stand for themselves.

    Args:
        patterns: Such as `plain:mlp`, `tiny:*`, a folder or a Hub id.

    Raises:
        ValueError: A pattern of a known sort fits no name.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        kind, colon, _ = pattern.partition(":")
        if not colon or Path(pattern).is_dir():
            found[pattern] = None
            continue
        if kind not in KINDS:
            raise ValueError(unknown_name_message("sort of model", kind, tuple(KINDS)))
        known = [f"{kind}:{name}" for name in KINDS[kind].names()]
        fitting = [name for name in known if fnmatchcase(name, pattern)]
        if not fitting:
            raise ValueError(unknown_name_message("model", pattern, tuple(known)))
        found |= dict.fromkeys(fitting)
    return list(found)


def model_of(name: str, seed: int) -> str | Recipe:
    """What `measure` takes for a name."""
    kind, colon, rest = name.partition(":")
    if not colon or kind not in KINDS or Path(name).is_dir():
        return name
    return Recipe(name=rest, build=partial(build, name, seed), imports=IMPORTS)


def build(name: str, seed: int) -> Built:
    """The module of a name, and its inputs where they cannot be made up."""
    kind, _, rest = name.partition(":")
    return KINDS[kind].build(rest, seed)
