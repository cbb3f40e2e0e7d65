"""Draws the benchmark's figures.

python -m scripts.benchmark_plot docs/benchmark.json
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from scripts.plot_style import DPI, GREY, soften, style

Figures = Mapping[str, Any]

# Ours stands out; the static variants are paler than the dynamic ones.
LOOKS = {
    "autoexport": ("autoexport", "#d1495b"),
    "torchscript": ("torch.onnx.export(dynamo=False)", "#8d99ae"),
    "dynamo": ("torch.onnx.export(dynamo=True)", "#1f4e79"),
    "dynamo-static": ("dynamo=True, static", "#9dbad5"),
    "transformers": ("transformers.exporters, dynamic", "#2a7f62"),
    "transformers-static": ("transformers.exporters, static", "#a8d5c2"),
}


def plot(summary: Figures, path: Path) -> None:
    """Writes the picture: seconds and memory by model above, growth below."""
    with style():
        figure = plt.figure(figsize=(12, 9.5), layout="constrained")
        grid = figure.add_gridspec(3, 4, height_ratios=(1.15, 1, 1))
        first = figure.add_subplot(grid[0, :])
        _bars(first, summary["export"], "cpu", 1.0)
        first.set_yscale("log")
        first.yaxis.set_major_formatter("{x:g}")
        first.set_title("CPU seconds from model to file, logarithmic")
        second = figure.add_subplot(grid[1, :], sharex=first)
        _bars(second, summary["export"], "peak", 1e6)
        second.set_title("Peak memory of the process, MB")
        for column, (kind, label) in enumerate(
            (("layers", "layers (width 256)"), ("width", "width (4 layers)"))
        ):
            for offset, (measure, unit, title) in enumerate(
                (("cpu", 1.0, "CPU seconds, logarithmic"), ("peak", 1e6, "Peak memory, MB"))
            ):
                axes = figure.add_subplot(grid[2, 2 * column + offset])
                _lines(axes, summary["scaling"][kind]["rows"], measure, unit)
                if measure == "cpu":
                    axes.set_yscale("log")
                    # The same for layers and width, so that a flat line looks flat.
                    axes.set_ylim(*_decades(summary["scaling"]))
                else:
                    axes.set_ylim(0, 1.2 * max(axes.dataLim.y1, 1.0))
                axes.yaxis.set_major_formatter("{x:g}")
                axes.minorticks_off()
                axes.set_xlabel(label)
                axes.set_title(title)
        handles, labels = first.get_legend_handles_labels()
        if handles:
            figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
        figure.savefig(path, dpi=DPI)
        plt.close(figure)


def _decades(scaling: Figures) -> tuple[float, float]:
    """Powers of ten around all seconds."""
    seconds = [
        figures["cpu"]
        for part in scaling.values()
        for row in part["rows"].values()
        for figures in row.values()
        if "cpu" in figures
    ]
    low, high = min(seconds, default=1.0), max(seconds, default=1.0)
    return 10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high * 1.01))


def _bars(axes: Any, section: Figures, measure: str, unit: float) -> None:
    sides = [side for side in LOOKS if side in section["sides"]]
    width = 0.84 / max(len(sides), 1)
    for index, side in enumerate(sides):
        label, colour = LOOKS[side]
        spots, heights = [], []
        for place, found in enumerate(section["models"].values()):
            spot = place + (index - (len(sides) - 1) / 2) * width
            figures = found.get(side, {})
            if measure in figures:
                spots.append(spot)
                heights.append(figures[measure] / unit)
            elif "error" in figures:
                axes.text(
                    spot, 0.02, "failed", rotation=90, ha="center", va="bottom", fontsize=7,
                    color=colour, transform=axes.get_xaxis_transform(),
                )  # fmt: skip
        axes.bar(spots, heights, width * 0.92, label=label, color=colour)
        if side == "autoexport":
            for spot, height in zip(spots, heights, strict=True):
                text = f"{height:.1f}" if height < 100 else f"{height:.0f}"
                axes.text(spot, height, text, ha="center", va="bottom", fontsize=8, color=colour)
    axes.margins(x=0.01)
    axes.set_xticks(range(len(section["models"])), section["models"])
    axes.tick_params(axis="x", length=0)
    soften(axes, "y")


def _lines(axes: Any, rows: Figures, measure: str, unit: float) -> None:
    for side, (label, colour) in LOOKS.items():
        points = [
            (int(size), found[side][measure] / unit)
            for size, found in rows.items()
            if measure in found.get(side, {})
        ]
        if points:
            axes.plot(*zip(*points, strict=True), "o-", markersize=4, label=label, color=colour)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xticks([int(size) for size in rows] or [1])
    axes.grid(color=GREY, alpha=0.15)


if __name__ == "__main__":
    source = Path(sys.argv[1])
    plot(json.loads(source.read_text()), source.with_suffix(".png"))
