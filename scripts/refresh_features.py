"""Computes the features in a baseline anew, for when the analysis has learned to see more.

python -m scripts.refresh_features training_data/baseline.json.gz

What was measured of the candidates stays: that takes hours, and this minutes. Models that cannot
be had here keep the features that they have.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from joblib import Parallel, delayed

from scripts import collection_models
from selector import baseline
from selector.errors import InvalidRequestError
from selector.features import ModelFeatures
from selector.measuring import features_of
from strategies.isolation import Limits

# Of building a model, and of running it without its weights.
LIMITS = Limits(seconds=300.0, memory_bytes=12 << 30)


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the baseline in its place; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("baseline", type=Path, metavar="BASELINE.json")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="models at a time")
    options = parser.parse_args(arguments)
    try:
        whole = baseline.read(options.baseline)
        names = {record.model: record.seed for record in whole.records}
        found = dict(
            Parallel(n_jobs=options.jobs, return_as="generator_unordered", batch_size=1)(
                delayed(_features)(name, seed) for name, seed in names.items()
            )
        )
        refused = {name: told for name, told in found.items() if isinstance(told, str)}
        anew = {
            name: told.to_json() for name, told in found.items() if isinstance(told, ModelFeatures)
        }
        records = [
            record.model_copy(update={"features": anew.get(record.model, record.features)})
            for record in whole.records
        ]
        changed = {
            old.model
            for old, new in zip(whole.records, records, strict=True)
            if old.model_features() != new.model_features()
        }
        baseline.write(whole.model_copy(update={"records": tuple(records)}), options.baseline)
    except InvalidRequestError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{len(names)} models, the features of {len(changed)} of them changed")
    for name, why in refused.items():
        print(f"{name} keeps its own: {why}")
    return 0


def _features(name: str, seed: int) -> tuple[str, ModelFeatures | str]:
    """The name, and its features or why there are none."""
    try:
        with collection_models.had(name, seed, LIMITS) as subject:
            return name, features_of(
                subject.model, random_weights=subject.random_weights, limits=LIMITS
            )
    except Exception as error:  # noqa: BLE001 - models refuse in any way they like
        return name, baseline.one_line(error) or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
