"""What was found of every model of the zoo, as committed: what runs, on which rung, why not."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

RUNS, BUILDS, FAILS = "runs", "builds", "fails"
CENSUS = Path(__file__).with_name("zoo_census.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What came of one model.

    Attributes:
        name: As the zoo lists it.
        status: `runs` eager, only `builds`, or `fails` to build.
        level: The rung of the ladder that it was built on; None where none builds.
        parameters: How many numbers the model holds.
        error: Why it does not run, or does not build, on the first rung.
        varying: The axes that eager let vary.
        left_out: Inputs that no made-up values were found for.
    """

    name: str
    status: str
    level: int | None = None
    parameters: int = 0
    error: str | None = None
    varying: Sequence[str] = ()
    left_out: Sequence[str] = ()


def write(findings: Iterable[Finding], path: Path) -> None:
    """Writes them as JSON, one line a model, in the order of their names."""
    lines = [json.dumps(asdict(item)) for item in sorted(findings, key=lambda item: item.name)]
    path.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")


def read(path: Path) -> dict[str, Finding]:
    """The findings by name."""
    entries = json.loads(path.read_text(encoding="utf-8"))
    return {entry["name"]: Finding(**entry) for entry in entries}


@lru_cache(maxsize=1)
def census() -> Mapping[str, Finding]:
    """The committed findings by name."""
    return read(CENSUS) if CENSUS.exists() else {}
