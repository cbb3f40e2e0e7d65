"""Says what a baseline shows of each strategy and of all together, by sort of model.

python -m scripts.summarise_baseline training_data/baseline.json.gz [--json]

Shares are of the models that run eager: those with records, and those that came past the study
of their inputs and could not be tried all the same. What was not built, or not run by PyTorch on
the inputs that were made up, is counted apart.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from scripts.baseline_summary import ALL, ANY, MUCH_FASTER, Lead, Share, leads_of, strategy_names
from selector import baseline
from selector.baseline import Baseline, Record
from selector.errors import InvalidRequestError

# At these stages of `Unmeasured` a model had not run eager yet.
BEFORE_EAGER = frozenset({"load", "study"})
NO_KIND = "other"

ByModel = Mapping[str, Sequence[Record]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a strategy does, or `ANY`, the virtual best: at least one candidate of any strategy.

    Attributes:
        tried: Models that it was tried on.
        right: Models with a right file, of those that run eager.
        dynamic: Those with a right file whose dynamic axes hold, of the same.
        varying: The same of the models that have an axis that may vary.
        first_right: Models whose first choice, the candidate that was tried first, is right.
        first_seconds: Median seconds of these, from a warm process to the saved file.
        only: Models that no other strategy gets right; None for `ANY`.
        only_dynamic: The same with dynamic axes that hold.
        faster: Further models on which it is at least `MUCH_FASTER` times as fast as any
            other strategy that is right.
    """

    tried: int
    right: Share
    dynamic: Share
    varying: Share
    first_right: Share
    first_seconds: float | None
    only: Share | None = None
    only_dynamic: Share | None = None
    faster: Share | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The models of one sort.

    Attributes:
        models: How many were wanted.
        eager: How many of them run eager.
        not_counted: The others, by stage and error.
        not_tried: Models that run eager and have no records all the same.
        figures: By strategy, and of `ANY`.
    """

    models: int
    eager: int
    not_counted: Mapping[str, int]
    not_tried: tuple[str, ...]
    figures: Mapping[str, Figures]


def summarise(whole: Baseline) -> dict[str, Group]:
    """The groups of a baseline, `ALL` first."""
    kinds = dict.fromkeys(
        _kind(item.model) for items in (whole.records, whole.unmeasured) for item in items
    )
    strategies = strategy_names(whole.records)
    return {kind: _group(whole, kind, strategies) for kind in (ALL, *kinds)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the figures; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("baseline", type=Path, help="FILE.json or FILE.json.gz")
    parser.add_argument("--json", action="store_true", help="for programs")
    options = parser.parse_args(arguments)
    try:
        groups = summarise(baseline.read(options.baseline))
    except InvalidRequestError as error:
        print(error, file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps({kind: _as_json(group) for kind, group in groups.items()}, indent=1))
    else:
        _show(groups, Console(highlight=False))
    return 0


def _kind(model: str) -> str:
    kind, colon, _ = model.partition(":")
    return kind if colon and kind.isalpha() else NO_KIND


def _group(whole: Baseline, kind: str, strategies: Sequence[str]) -> Group:
    def belongs(model: str) -> bool:
        return kind in (ALL, _kind(model))

    by_model: dict[str, list[Record]] = {}
    for record in whole.records:
        if belongs(record.model):
            by_model.setdefault(record.model, []).append(record)
    unmeasured = [item for item in whole.unmeasured if belongs(item.model)]
    early = [item for item in unmeasured if item.stage in BEFORE_EAGER]
    late = [item.model for item in unmeasured if item.stage not in BEFORE_EAGER]
    eager = len(by_model) + len(late)
    return Group(
        models=len(by_model) + len(unmeasured),
        eager=eager,
        not_counted=dict(
            Counter(f"{item.stage}: {item.error_type}" for item in early).most_common()
        ),
        not_tried=tuple(late),
        figures={
            ANY: _figures(by_model, eager),
            **{name: _figures(by_model, eager, name) for name in strategies},
        },
    )


def _figures(by_model: ByModel, eager: int, strategy: str | None = None) -> Figures:
    """Those of a strategy, or of all together."""
    own = {
        model: [item for item in records if strategy in (None, item.candidate.strategy)]
        for model, records in by_model.items()
    }
    holding = {model: _holding(records) for model, records in own.items()}
    varying = [
        model
        for model, records in by_model.items()
        if any(record.candidate.dynamic for record in records)
    ]
    # In the order in which they were tried.
    first = [records[0] for records in own.values() if records]
    seconds = [item.export_seconds for item in first if item.success and item.export_seconds]
    held = {model for model, records in holding.items() if records}

    def share(models: Iterable[object]) -> Share:
        return Share(right=sum(1 for _ in models), of=eager)

    found: dict[str, Share] = {}
    if strategy is not None:
        nothing = Lead(only=(), faster=())
        lead = leads_of(by_model).get(strategy, nothing)
        all_holding = {model: _holding(records) for model, records in by_model.items()}
        found = {
            "only": share(lead.only),
            "only_dynamic": share(leads_of(all_holding).get(strategy, nothing).only),
            "faster": share(lead.faster),
        }
    return Figures(
        tried=len(first),
        right=share(model for model, records in own.items() if any(r.success for r in records)),
        dynamic=share(held),
        varying=Share(right=len(held), of=len(varying)),
        first_right=share(item for item in first if item.success),
        first_seconds=statistics.median(seconds) if seconds else None,
        **found,
    )


def _holding(records: Iterable[Record]) -> list[Record]:
    return [item for item in records if item.success and item.dynamic_axes_ok]


def _as_json(group: Group) -> dict[str, Any]:
    content = asdict(group)
    for figures in content["figures"].values():
        for counted in figures.values():
            if isinstance(counted, dict):
                counted["share"] = counted["right"] / counted["of"] if counted["of"] else None
    return content


def _show(groups: Mapping[str, Group], console: Console) -> None:
    for kind, group in groups.items():
        title = f"{kind}: {group.eager} of {group.models} models run eager"
        table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE)
        table.add_column("strategy")
        for column in ("right", "dynamic", "only", f"{MUCH_FASTER:g}x fast", "first", "median"):
            table.add_column(column, justify="right", no_wrap=True)
        for name, found in group.figures.items():
            shares = (found.right, found.dynamic, found.only, found.faster, found.first_right)
            seconds = "" if found.first_seconds is None else f"{found.first_seconds:.2f} s"
            table.add_row(name, *map(_percent, shares), seconds)
        console.print(table)
        for reason, count in group.not_counted.items():
            console.print(f"  not counted: {count} {reason}", markup=False)
        if group.not_tried:
            console.print(f"  could not be tried: {', '.join(group.not_tried)}", markup=False)


def _percent(share: Share | None) -> str:
    if share is None or not share.of:
        return ""
    return f"{100 * share.value:.1f} %"


if __name__ == "__main__":
    sys.exit(main())
