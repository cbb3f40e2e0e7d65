"""Draws a baseline: success by family, seconds by candidate, and what each strategy adds.

python -m scripts.plot_baseline training_data/baseline.json.gz --out docs/
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Rectangle

from scripts.baseline_summary import (
    ALL,
    ANY,
    ANY_DYNAMIC,
    MUCH_FASTER,
    Share,
    Summary,
    share_of,
    strategies_of,
    summarise,
)
from scripts.plot_style import GREY, OTHER, PALE, STRATEGIES, save_all, soften
from selector import baseline
from selector.errors import InvalidRequestError

# From none to all: light to dark, so that it reads in grey and to the colour-blind as well.
SHARES = LinearSegmentedColormap.from_list("shares", ["#fbeee4", "#f3c79a", "#bcd8c8", "#2a7f62"])
DARK_FROM = 0.93
# Below this share of the models a strategy is not worth its place, or the data must say why.
WORTH_A_PLACE = 0.03


def main(arguments: Sequence[str] | None = None) -> int:
    """Draws the pictures; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("baseline", type=Path, help="FILE.json or FILE.json.gz")
    parser.add_argument("--out", type=Path, metavar="FOLDER", required=True)
    options = parser.parse_args(arguments)
    try:
        summary = summarise(baseline.read(options.baseline))
    except (InvalidRequestError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    for path in plot(summary, options.out):
        print(path)
    return 0


def plot(summary: Summary, folder: Path) -> tuple[Path, ...]:
    """Writes the three pictures; returns their paths."""
    drawers = {
        "baseline_success.png": draw_success,
        "baseline_seconds.png": draw_seconds,
        "baseline_strategies.png": draw_strategies,
    }
    return tuple(save_all(drawers, summary, folder))


def draw_success(summary: Summary) -> Any:
    """A matrix of families and candidates, each cell with the share that is right."""
    rows = [ALL, *summary.families]
    columns = [*summary.candidates, ANY, ANY_DYNAMIC]
    figure, axes = plt.subplots(
        figsize=(2.4 + 0.85 * len(columns), 1.6 + 0.42 * len(rows)), layout="constrained"
    )
    for y, row in enumerate(rows):
        for x, column in enumerate(columns):
            _cell(axes, x, y, summary.success.get((row, column)))
    # What stands for the whole portfolio, and for all families, is set apart.
    axes.axvline(len(summary.candidates) - 0.5, color="white", linewidth=6)
    axes.axhline(0.5, color="white", linewidth=6)
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.xaxis.tick_top()
    axes.set_xticks(range(len(columns)), [_stacked(column) for column in columns])
    counts = {ALL: summary.models, **summary.families}
    axes.set_yticks(range(len(rows)), [f"{row}  ({counts[row]})" for row in rows])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    unmeasured = f", {summary.unmeasured} more could not be tried" if summary.unmeasured else ""
    figure.suptitle(
        f"Models with a verified file, by family and candidate: {summary.models} models"
        f"{unmeasured}",
        x=0.01,
        ha="left",
        fontsize=11,
    )
    return figure


def _cell(axes: Any, x: int, y: int, share: Share | None) -> None:
    if share is None:
        axes.add_patch(Rectangle((x - 0.48, y - 0.47), 0.96, 0.94, color=PALE, alpha=0.4))
        return
    colour = SHARES(share.value)
    axes.add_patch(Rectangle((x - 0.48, y - 0.47), 0.96, 0.94, color=colour))
    ink = "white" if share.value >= DARK_FROM else "#222222"
    axes.text(x, y - 0.12, f"{percent(share)} %", ha="center", va="center", color=ink)
    axes.text(
        x, y + 0.24, f"{share.right} of {share.of}", ha="center", va="center", color=ink, fontsize=6
    )


def percent(share: Share) -> int:
    """Rounded, but 100 and 0 only where it is all or none."""
    rounded = round(100 * share.value)
    return min(max(rounded, int(share.right > 0)), 100 - int(share.right < share.of))


def draw_seconds(summary: Summary) -> Any:
    """For each candidate every right file's seconds, and where the middle half lies."""
    names = list(summary.seconds)
    figure, axes = plt.subplots(figsize=(10, 1.4 + 0.5 * len(names)), layout="constrained")
    noise = np.random.default_rng(0)
    for y, (name, seconds) in enumerate(summary.seconds.items()):
        colour = _colour(name)
        # Hundreds of dots on one row must not become one block.
        alpha = min(0.5, max(0.25, 30 / len(seconds)))
        heights = y + noise.uniform(-0.28, 0.28, len(seconds))
        axes.scatter(seconds, heights, s=7, color=colour, alpha=alpha, linewidths=0, zorder=2)
        low, median, high = np.quantile(seconds, (0.25, 0.5, 0.75))
        axes.plot([low, high], [y, y], color=colour, linewidth=7, alpha=0.45, zorder=3)
        axes.plot([median, median], [y - 0.32, y + 0.32], color=colour, linewidth=2.5, zorder=4)
        axes.text(
            1.01, y, f"{median:.2g} s", transform=axes.get_yaxis_transform(), va="center",
            color=colour, fontweight="bold",
        )  # fmt: skip
        axes.text(
            1.1, y, f"{len(seconds)}", transform=axes.get_yaxis_transform(), va="center",
            color=GREY,
        )  # fmt: skip
    for x, label in ((1.01, "median"), (1.1, "files")):
        axes.text(x, 1.01, label, transform=axes.transAxes, color=GREY, va="bottom")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    soften(axes, "x")
    axes.set_xlabel("seconds from warm process to saved file, logarithmic")
    axes.set_title("Export times of right files; thick: the middle half", fontsize=11)
    return figure


def draw_strategies(summary: Summary) -> Any:
    """Which strategies succeed together, and what each alone is good for."""
    names = strategies_of(summary)
    widest = max(len(summary.together), len(summary.together_dynamic))
    figure = plt.figure(figsize=(max(10.0, 3.4 + 1.2 * widest), 6.8), layout="constrained")
    grid = figure.add_gridspec(3, 2, height_ratios=(1.5, 0.22 * len(names), 1.3))
    parts = (
        ("Models by the strategies that get them right", summary.together),
        ("The same with dynamic axes that hold", summary.together_dynamic),
    )
    for column, (title, together) in enumerate(parts):
        bars = figure.add_subplot(grid[0, column])
        dots = figure.add_subplot(grid[1, column], sharex=bars)
        _upset(bars, dots, together, names)
        bars.set_title(title)
    _leads(figure.add_subplot(grid[2, :]), summary, names)
    return figure


def _upset(
    bars: Any, dots: Any, together: Mapping[frozenset[str], int], names: Sequence[str]
) -> None:
    """Bars of how many, over dots of which (Lex et al., UpSet, 2014)."""
    total = sum(together.values())
    for x, (members, size) in enumerate(together.items()):
        colour = GREY
        if not members:
            colour = "#b3282d"
        elif len(members) == 1:
            colour = _colour(next(iter(members)))
        bars.bar(x, size, 0.62, color=colour)
        share = percent(Share(right=size, of=total))
        bars.annotate(
            f"{size}\n{share} %", (x, size), (0, 2), textcoords="offset points", ha="center",
            va="bottom", fontsize=8, color=colour, linespacing=1.1,
        )  # fmt: skip
        if not members:
            dots.text(x, (len(names) - 1) / 2, "none", ha="center", va="center", color=colour)
            continue
        places = [y for y, name in enumerate(names) if name in members]
        dots.scatter([x] * len(names), range(len(names)), s=50, color=PALE, zorder=1)
        dots.plot([x] * len(places), places, "o-", color=colour, markersize=7, zorder=2)
    bars.set_ylim(0, 1.22 * max(together.values(), default=1))
    bars.tick_params(axis="x", length=0, labelbottom=False)
    bars.set_ylabel("models")
    soften(bars, "y")
    dots.set_xlim(-0.6, len(together) - 0.4)
    dots.set_ylim(len(names) - 0.5, -0.5)
    alone = (percent(share_of(name, together)) for name in names)
    labels = [f"{name}  {share} %" for name, share in zip(names, alone, strict=True)]
    dots.set_yticks(range(len(names)), labels)
    dots.tick_params(length=0, labelbottom=False)
    dots.spines[:].set_visible(False)


def _leads(axes: Any, summary: Summary, names: Sequence[str]) -> None:
    """How often each is the only one, or much the fastest."""
    for y, name in enumerate(names):
        lead = summary.leads[name]
        only, faster = len(lead.only), len(lead.faster)
        colour = _colour(name)
        axes.barh(y, only, 0.55, color=colour)
        axes.barh(y, faster, 0.55, left=only, color=colour, alpha=0.4)
        share = 100 * (only + faster) / summary.models
        axes.annotate(
            f"{share:.1f} %: the only one for {only}, "
            f"at least {MUCH_FASTER:g} times as fast for {faster} more",
            (only + faster, y), (5, 0), textcoords="offset points", va="center", color=colour,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )  # fmt: skip
    worth = WORTH_A_PLACE * summary.models
    axes.axvline(worth, color=GREY, linewidth=1, linestyle="--", zorder=0)
    axes.text(
        worth, len(names) - 0.2, f" {100 * WORTH_A_PLACE:.0f} % of the models", color=GREY,
        va="bottom", fontsize=8,
    )  # fmt: skip
    longest = max((len(lead.only) + len(lead.faster) for lead in summary.leads.values()), default=1)
    axes.set_xlim(0, 1.9 * max(longest, 1))
    axes.set_ylim(len(names) - 0.2, -0.5)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    soften(axes, "x")
    axes.set_xlabel("models")
    axes.set_title(
        "What each strategy adds: the only one that is right (full colour), "
        f"or at least {MUCH_FASTER:g} times as fast as any other that is (pale)"
    )


def _colour(name: str) -> str:
    return STRATEGIES.get(name.partition("[")[0], OTHER)


def _stacked(name: str) -> str:
    """A candidate's strategy and options, one below the other."""
    return name.replace("[", "\n").removesuffix("]").replace(",", "\n")


if __name__ == "__main__":
    sys.exit(main())
