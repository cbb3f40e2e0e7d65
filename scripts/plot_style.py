"""How this project's pictures look: one style, one grey, one colour for each strategy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl

GREY = "#555555"
PALE = "#e4e6e9"
STRATEGIES = {"usage_based": "#c9682f", "htp": "#2a7f62", "fx": "#1f4e79"}
# For strategies that are registered elsewhere.
OTHER = "#7b5ea7"
DPI = 150


@contextmanager
def style() -> Iterator[None]:
    """What is drawn inside is drawn in this style."""
    with mpl.rc_context(
        {
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 10,
            "axes.titlelocation": "left",
        }
    ):
        yield


def soften(axes: Any, axis: str) -> None:
    """A faint grid along one axis, behind everything."""
    axes.grid(axis=axis, color=GREY, alpha=0.15)
    axes.set_axisbelow(True)
