"""Says whether two baselines agree on which candidates are right.

The same seed should give the same labels on at least 99 % of what both measured; the exit code
says whether it did.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from selector import baseline
from selector.baseline import Baseline, Record
from selector.errors import InvalidRequestError

ENOUGH = 0.99


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Where two baselines agree.

    Attributes:
        common: Candidates on models that both measured.
        other: Those of them that ended otherwise, in both.
        first_only: How many only the first one has.
        second_only: How many only the second one has.
    """

    common: int
    other: tuple[tuple[Record, Record], ...]
    first_only: int
    second_only: int

    @property
    def equal_share(self) -> float:
        """Between 0 and 1; 1 where they have nothing in common."""
        return 1 - len(self.other) / self.common if self.common else 1.0


def compare(first: Baseline, second: Baseline) -> Comparison:
    """Compares the success labels of two baselines."""
    one, two = _by_key(first), _by_key(second)
    common = [key for key in one if key in two]
    return Comparison(
        common=len(common),
        other=tuple((one[key], two[key]) for key in common if one[key].success != two[key].success),
        first_only=len(one) - len(common),
        second_only=len(two) - len(common),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the share of equal labels and every other one; 1 where there are too many."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--at-least", type=float, metavar="SHARE", default=ENOUGH)
    options = parser.parse_args(arguments)
    try:
        found = compare(baseline.read(options.first), baseline.read(options.second))
    except InvalidRequestError as error:
        print(error, file=sys.stderr)
        return 2
    for record, again in found.other:
        candidate = record.candidate.candidate()
        print(f"{record.model} {candidate}: {_ending(record)}, then {_ending(again)}")
    equal = found.common - len(found.other)
    print(f"{equal} of {found.common} labels are equal ({found.equal_share:.2%})")
    print(f"only in the first: {found.first_only}, only in the second: {found.second_only}")
    return 0 if found.equal_share >= options.at_least else 1


def _by_key(whole: Baseline) -> dict[tuple[str, str], Record]:
    return {(item.model, str(item.candidate.candidate())): item for item in whole.records}


def _ending(record: Record) -> str:
    return "right" if record.success else f"{record.error_type} ({record.error})"


if __name__ == "__main__":
    sys.exit(main())
