"""The models that can be collected, by name: what there is, and how each one is had."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selector.measuring import Recipe
from strategies.isolation import Limits, Session
from strategies.registry import unknown_name_message

if TYPE_CHECKING:
    from torch import nn

    Built = tuple[nn.Module, Any]

# What builds them: imported by the process that does, once for all models, and not by that of a
# worker, which stays light.
IMPORTS = ("scripts.zoo", "scripts.plain_modules", "scripts.real_size")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Models of one sort; their names are the sort's, a colon, and one of `names`.

    Attributes:
        names: Lists them.
        chosen: Lists those that `*` stands for; None where that is all of them.
        build: Gives the module of a name and a seed, and its inputs or None.
        write: Instead of that, writes a checkpoint into a folder, which takes all its memory:
            a large model is then loaded as a user's is, and never there twice.
    """

    names: Callable[[], Iterable[str]]
    chosen: Callable[[], Iterable[str]] | None = None
    build: Callable[[str, int], Built] | None = None
    write: Callable[[str, Path, int], Path] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What `measure` takes for a name.

    Attributes:
        model: Its first argument.
        random_weights: As there.
    """

    model: str | Recipe
    random_weights: bool


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


def _chosen(kind: str) -> Iterable[str]:
    from scripts import zoo  # noqa: PLC0415 - see IMPORTS

    return [name.removeprefix(f"{kind}:") for name in zoo.chosen(kind)]


def _zoo(kind: str, name: str, seed: int) -> Built:
    from scripts import zoo  # noqa: PLC0415 - see IMPORTS

    return zoo.build(f"{kind}:{name}", seed=seed), None


def _real_names() -> Iterable[str]:
    from scripts import real_size  # noqa: PLC0415 - see IMPORTS

    return real_size.NAMES


def _write_real(name: str, folder: Path, seed: int) -> Path:
    from scripts import real_size  # noqa: PLC0415 - see IMPORTS

    return real_size.write_checkpoint(name, folder, seed)


KINDS = {
    **{
        kind: Kind(
            names=partial(_zoo_names, kind),
            chosen=partial(_chosen, kind),
            build=partial(_zoo, kind),
        )
        for kind in ("base", "head")
    },
    "plain": Kind(names=_plain_names, build=_plain),
    "real": Kind(names=_real_names, write=_write_real),
    "tiny": Kind(names=_tiny_names, build=_tiny),
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
        chosen = KINDS[kind].chosen
        if chosen and pattern == f"{kind}:*":
            fitting = [f"{kind}:{name}" for name in chosen()]
        else:
            fitting = [name for name in known if fnmatchcase(name, pattern)]
        if not fitting:
            raise ValueError(unknown_name_message("model", pattern, tuple(known)))
        found |= dict.fromkeys(fitting)
    return list(found)


@contextmanager
def had(name: str, seed: int, limits: Limits) -> Iterator[Subject]:
    """What to measure for a name; files that were written for it are removed at the end.

    Args:
        name: One of those that `expand` gives.
        seed: Of the random weights.
        limits: What writing files may take.

    Raises:
        StrategyError: It took more.
        Exception: What writing them raised.
    """
    sort, colon, rest = name.partition(":")
    if not colon or sort not in KINDS or Path(name).is_dir():
        yield Subject(model=name, random_weights=True)
        return
    kind = KINDS[sort]
    if kind.build is not None:
        build = partial(kind.build, rest, seed)
        recipe = Recipe(name=rest, build=build, imports=IMPORTS)
        yield Subject(model=recipe, random_weights=False)
    if kind.write is not None:
        # Should this process be killed, the session's folder is removed all the same.
        with Session(imports=IMPORTS) as session:
            folder = session.folder("checkpoint") / rest
            session.attempt(_apart, kind.write, rest, folder, seed, limits=limits).value()
            yield Subject(model=str(folder), random_weights=False)


def _apart(_: None, write: Callable[[str, Path, int], Path], *args: Any) -> None:
    """An attempt without a model, for the memory that writing one takes."""
    write(*args)
