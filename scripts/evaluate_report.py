"""Writes the selector's score card: a page and its pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from scripts import evaluate_selector
from scripts.plot_style import GREY, PALE, STRATEGIES, save_all, soften
from selector.scoring import RANKER, SINGLE_BEST, VIRTUAL_BEST

GOOD, FAIR, BAD = STRATEGIES["htp"], "#bcd8c8", STRATEGIES["usage_based"]
KINDS = {"the oracle's": GOOD, "right, slower": FAIR, "wrong": BAD}
SHOWN_WEIGHTS = 20


def write(card: Mapping[str, Any], environment: Mapping[str, Any], folder: Path) -> list[Path]:
    """Writes selector.md and its pictures; returns their paths."""
    drawers = {
        "selector_costs.png": draw_costs,
        "selector_calibration.png": draw_calibration,
        "selector_families.png": draw_families,
        "selector_learning.png": draw_learning,
        "selector_weights.png": draw_weights,
    }
    written = save_all(drawers, card, folder)
    page = folder / "selector.md"
    page.write_text(text(card, environment), encoding="utf-8")
    return [page, *written]


def text(card: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    """The page."""
    versions = ", ".join(f"{name} {item}" for name, item in environment.get("versions", {}).items())
    return f"""# How good the selector is

Made by `python -m scripts.evaluate_selector` from measurements of every candidate on every model
of a baseline ({versions}). The ranker is fitted anew for every fold and seed, and tried on models
that it has not seen. *Seconds* are wall seconds per model to a verified file, failed attempts
included, over models that some candidate succeeds on. The *single best* is the order, the same
for all models, that costs least on these very models; the *virtual best* is an oracle that tries
one that succeeds first. The *remaining gap* is the share of the seconds between the two that is
left: 0 is the oracle, 1 the single best. PAR10 charges 20 minutes for a model that is not solved.
Intervals cover 95 %, models and seeds resampled.

## Without one architecture family at a time

{evaluate_selector.table(card["leave_one_family_out"])}

## Without a random fifth of the models

{evaluate_selector.table(card["random_fifths"])}

## Pictures

All on held-out families, if not said otherwise.

![Seconds of each model](selector_costs.png)

![Calibration of the probabilities](selector_calibration.png)

![First choices by family](selector_families.png)

![Remaining gap by the amount of data](selector_learning.png)

![What the probability rests on](selector_weights.png)
"""


def draw_costs(card: Mapping[str, Any]) -> Any:
    """Seconds of every model by the ranker and the single best, against the oracle's."""
    figure, axes = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    costs = {name: np.asarray(values) for name, values in card["costs"].items()}
    order = np.argsort(costs[VIRTUAL_BEST])
    places = np.arange(len(order))
    for name, colour, size in ((SINGLE_BEST, BAD, 10), (RANKER, GOOD, 6)):
        axes.scatter(places, costs[name][order], s=size, color=colour, label=name, linewidths=0)
    axes.plot(places, costs[VIRTUAL_BEST][order], color=GREY, linewidth=1, label=VIRTUAL_BEST)
    axes.set_yscale("log")
    axes.set(
        title="Seconds to a verified file, model by model", ylabel="seconds",
        xlabel="models, by the oracle's seconds",
    )  # fmt: skip
    soften(axes, "y")
    axes.legend(frameon=False)
    return figure


def draw_calibration(card: Mapping[str, Any]) -> Any:
    """Success rate by predicted probability."""
    figure, axes = plt.subplots(figsize=(4.4, 4.0), layout="constrained")
    bins = card["calibration"]
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":")
    axes.plot(
        [item["probability"] for item in bins], [item["success"] for item in bins],
        color=GOOD, linewidth=1,
    )  # fmt: skip
    most = max(item["rows"] for item in bins)
    axes.scatter(
        [item["probability"] for item in bins], [item["success"] for item in bins],
        s=[12 + 120 * item["rows"] / most for item in bins], color=GOOD,
    )  # fmt: skip
    axes.set(
        title="Is the probability what it says?", xlabel="predicted probability of a right file",
        ylabel="share that was right", xlim=(-0.04, 1.04), ylim=(-0.04, 1.04),
    )  # fmt: skip
    soften(axes, "both")
    return figure


def draw_families(card: Mapping[str, Any]) -> Any:
    """Stacked bars: what the first choice was."""
    families = sorted(card["families"], key=lambda name: -sum(card["families"][name].values()))
    figure, axes = plt.subplots(figsize=(6.4, 0.8 + 0.32 * len(families)), layout="constrained")
    left = np.zeros(len(families))
    for kind, colour in KINDS.items():
        shares = np.asarray(
            [
                card["families"][name].get(kind, 0) / sum(card["families"][name].values())
                for name in families
            ]
        )
        axes.barh(families, shares, left=left, color=colour, label=kind, height=0.7)
        left += shares
    axes.invert_yaxis()
    axes.set(title="The first choice on a family that was held out", xlim=(0, 1))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def draw_learning(card: Mapping[str, Any]) -> Any:
    """The remaining gap by the share of the models that were learned from."""
    figure, axes = plt.subplots(figsize=(5.2, 3.4), layout="constrained")
    curve = card["learning_curve"]
    shares = [item["share"] for item in curve]
    axes.fill_between(
        shares, [item["low"] for item in curve], [item["high"] for item in curve], color=PALE
    )
    axes.plot(shares, [item["mean"] for item in curve], color=GOOD, marker="o", markersize=4)
    axes.axhline(1, color=GREY, linewidth=1, linestyle=":")
    axes.set(
        title="More data help (random fifths held out)", ylabel="remaining gap",
        xlabel="share of the other models that is learned from",
    )  # fmt: skip
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    soften(axes, "y")
    return figure


def draw_weights(card: Mapping[str, Any]) -> Any:
    """The strongest weights of the regression."""
    shown = list(card["weights"].items())[:SHOWN_WEIGHTS]
    figure, axes = plt.subplots(figsize=(6.4, 0.8 + 0.24 * len(shown)), layout="constrained")
    axes.barh(
        [name.replace("_", " ") for name, _ in shown], [value for _, value in shown],
        color=[GOOD if value > 0 else BAD for _, value in shown], height=0.7,
    )  # fmt: skip
    axes.invert_yaxis()
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.set(
        title="What the probability rests on", xlabel="log odds per standard deviation",
    )  # fmt: skip
    soften(axes, "x")
    return figure
