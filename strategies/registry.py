"""The strategies by name, in the order in which they are tried where nothing is known."""

from __future__ import annotations

import difflib
import importlib
from importlib.metadata import entry_points

from strategies.base import REAL, VOID, Candidate, ExportStrategy

ENTRY_POINT_GROUP = "autoexport.strategies"

BUILTIN = {
    "usage_based": "strategies.usage_based:UsageBasedStrategy",
    "htp": "strategies.htp:HtpStrategy",
    "fx": "strategies.fx:FxStrategy",
}

# Those that can keep branches and loops on tensor values in the file.
SCRIPTING = frozenset({"usage_based"})

# Those whose capture would compute with the weights, and can do without. The others either
# capture on tensors without data anyway, or record what real values lead to.
WEIGHTLESS = frozenset({"usage_based"})
# Of what there is, so many names are told to someone who asked for another.
MOST_NAMES = 24


def names() -> tuple[str, ...]:
    """Names of all strategies, the built-in ones first, third-party ones by name."""
    return tuple(_targets())


def resolve(name: str) -> ExportStrategy:
    """Imports and instantiates a strategy.

    Raises:
        KeyError: There is none of that name.
    """
    module, _, attribute = _targets()[name].partition(":")
    strategy: ExportStrategy = getattr(importlib.import_module(module), attribute)()
    return strategy


def portfolio(*, dynamic: bool | None = None, scripting: bool = False) -> tuple[Candidate, ...]:
    """Every candidate in static order: dynamic before static, strategies as registered.

    Void weights come before real ones, as they cost a tenth.

    Args:
        dynamic: True or False keeps only dynamic or only static candidates.
        scripting: Whether to offer candidates that keep control flow; worth trying
            only where forward branches or loops on tensor values.
    """
    return tuple(
        Candidate(strategy=name, dynamic=wanted, scripted=scripted, weights=weights)
        for wanted in (True, False)
        if dynamic is None or dynamic is wanted
        for name in names()
        for scripted in ((True, False) if scripting and name in SCRIPTING else (False,))
        for weights in ((VOID, REAL) if name in WEIGHTLESS and not scripted else (REAL,))
    )


def unknown_name_message(kind: str, name: str, known: tuple[str, ...]) -> str:
    """One line for a name that does not exist: the nearest, and all there are if they are few."""
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    guess = f"; did you mean {nearest[0]!r}?" if nearest else ";"
    shown = known[:MOST_NAMES]
    more = f", and {len(known) - len(shown)} more" if len(known) > len(shown) else ""
    return f"unknown {kind} {name!r}{guess} known: {', '.join(shown)}{more}"


def _targets() -> dict[str, str]:
    found = {point.name: point.value for point in entry_points(group=ENTRY_POINT_GROUP)}
    return BUILTIN | {name: found[name] for name in sorted(found.keys() - BUILTIN.keys())}
