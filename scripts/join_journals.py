"""Joins what several machines collected into one journal, and writes its baseline.

python -m scripts.join_journals A.journal.jsonl B.json.gz --out FILE.json.gz

It takes journals and baselines. A collection into the same output goes on from there. Of one
journal alone it makes the baseline of what is measured so far.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts import collection_journal
from scripts.collect_baselines import journal_path
from scripts.collection_journal import Contents
from selector import baseline
from selector.errors import InvalidRequestError


def main(arguments: Sequence[str] | None = None) -> int:
    """Joins them; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("journals", type=Path, nargs="+", metavar="JOURNAL", help="or baseline")
    parser.add_argument("--out", type=Path, metavar="FILE", required=True)
    options = parser.parse_args(arguments)
    try:
        return _join(options.journals, options.out)
    except InvalidRequestError as error:
        print(error, file=sys.stderr)
        return 2


def _join(journals: Sequence[Path], out: Path) -> int:
    target = journal_path(out)
    if target.exists() and not any(path.samefile(target) for path in journals if path.exists()):
        raise InvalidRequestError(f"{target} is there already: join it too, or remove it")
    parts = []
    for path in journals:
        if not path.is_file():
            raise InvalidRequestError(f"there is no journal {path}")
        parts.append(_read(path))
        print(f"{path}: {len(parts[-1].entries)} models")
    whole = collection_journal.joined(parts)
    for difference in whole.differences():
        print(difference)
    found = whole.baseline()
    collection_journal.replace(target, whole)
    baseline.write(found, out)
    print(f"{len(whole.entries)} models, {len(found.records)} records in {out}")
    return 0


def _read(path: Path) -> Contents:
    if path.name.endswith(".jsonl"):
        return collection_journal.read(path)
    return collection_journal.of_baseline(baseline.read(path))


if __name__ == "__main__":
    sys.exit(main())
