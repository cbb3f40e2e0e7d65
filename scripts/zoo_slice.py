"""Forty models of the zoo and how they should end: a change that breaks or mends one shows.

`python -m scripts.zoo_slice` measures them and writes the table anew, `… NAME` only those named.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, zip_longest
from pathlib import Path

from transformers.models.auto import modeling_auto

from scripts import plain_modules, zoo
from scripts.collection_journal import Entry
from scripts.collection_task import Settings, measure_model
from selector.baseline import replace_file
from strategies.isolation import Limits
from strategies.registry import unknown_name_message

TABLE = Path(__file__).parent.parent / "tests" / "zoo_slice.json"
RIGHT, WRONG = "right", "wrong"
UNMEASURED = "not measured"
COUNTS = {zoo.BASE: 20, zoo.HEAD: 12, "plain": 8}
# The cheapest one on all of them; another on every fourth, the slow one only on small modules.
EVERYWHERE = "usage_based[dynamic,void]"
EXTRA = {zoo.BASE: "htp[static]", zoo.HEAD: "htp[static]", "plain": "fx[dynamic]"}
TURN = 4
LIMITS = Limits(seconds=120.0, memory_bytes=4 << 30)
# What base models are told apart by, beside the tasks of the heads: auto mappings again.
TASKS = (
    "IMAGE_TEXT_TO_TEXT",
    "SPEECH_SEQ_2_SEQ",
    "TEXT_TO_WAVEFORM",
    "TIME_SERIES_PREDICTION",
    "VIDEO_CLASSIFICATION",
    "BACKBONE",
    *zoo.TASKS,
)

Outcomes = dict[str, str]


def chosen() -> tuple[str, ...]:
    """The forty: of each kind so many, from each family in turn, in the order of a digest."""
    found: list[str] = []
    for kind, families in _families().items():
        drawn = [sorted(members, key=_digest) for members in families.values()]
        turns = (name for turn in zip_longest(*drawn) for name in turn if name)
        found += islice(turns, COUNTS[kind])
    return tuple(found)


def settings_of(name: str, names: Iterable[str]) -> Settings:
    """How a model is measured: by which candidates depends on its place alone."""
    kind = name.partition(":")[0]
    more = () if list(names).index(name) % TURN else (EXTRA[kind],)
    return Settings(candidates=(EVERYWHERE, *more), limits=LIMITS, seed=0, all_twins=False)


def outcomes(entry: Entry) -> Outcomes:
    """For each candidate whether it is right; one entry for a model that was not measured."""
    if entry.unmeasured:
        return {UNMEASURED: entry.unmeasured.stage}
    return {
        str(record.candidate.candidate()): RIGHT if record.success else WRONG
        for record in entry.records
    }


def reasons(entry: Entry) -> Iterator[str]:
    """Why what failed did."""
    if entry.unmeasured:
        yield f"{entry.unmeasured.error_type}: {entry.unmeasured.error}"
    for record in entry.records:
        if not record.success:
            yield f"{record.candidate.candidate()}: {record.error_type}: {record.error}"


def expected() -> dict[str, Outcomes]:
    """The table that is kept."""
    found: dict[str, Outcomes] = json.loads(TABLE.read_text(encoding="utf-8"))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures them, tells what is not as it was, and writes the table."""
    names = chosen()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="such as base:led; or all")
    only = parser.parse_args(arguments).names or names
    for name in only:
        if name not in names:
            parser.error(unknown_name_message("model", name, names))
    table = expected() if TABLE.exists() else {}
    for name in only:
        entry = measure_model(name, settings_of(name, names))
        found = outcomes(entry)
        was = "" if table.get(name) == found else f", was {table.get(name, 'not listed')}"
        print(f"{name}: {found}{was} ({entry.seconds['total']:.1f} s)", flush=True)
        for reason in reasons(entry):
            print(f"    {reason}")
        table[name] = found
    write({name: table[name] for name in names if name in table})
    return 0


def write(table: Mapping[str, Outcomes]) -> None:
    """Writes the table, a model a line, for a reader of its history."""
    lines = [f"  {json.dumps(name)}: {json.dumps(found)}" for name, found in table.items()]
    replace_file(TABLE, ("{\n" + ",\n".join(lines) + "\n}\n").encode())


def _families() -> dict[str, dict[str, list[str]]]:
    """All models of the zoo by kind, and by theme or by the first task that they stand for."""
    types: dict[str, str] = {}
    classes: dict[str, str] = {}
    for task in TASKS:
        mapping = getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES")
        for model_type, names in mapping.items():
            types.setdefault(model_type, task)
            for name in (names,) if isinstance(names, str) else names:
                classes.setdefault(name, task)
    return {
        zoo.BASE: _grouped(zoo.names(zoo.BASE), types),
        zoo.HEAD: _grouped(zoo.names(zoo.HEAD), classes),
        "plain": {
            theme.__name__: [f"plain:{name}" for name in theme.MODULES]
            for theme in plain_modules.THEMES
        },
    }


def _grouped(names: Iterable[str], family_of: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(family_of.get(name.partition(":")[2], "none"), []).append(name)
    return dict(sorted(found.items()))


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
