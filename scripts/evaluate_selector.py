"""Says how good the selector is on models that its ranker was not fitted on.

python -m scripts.evaluate_selector training_data/baseline.json.gz --out docs/

The ranker is fitted anew for every fold and seed, without one architecture family at a time, and
without a random fifth of the models. What it costs stands beside every simpler way to order.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from selector import baseline, report
from selector.errors import InvalidRequestError
from selector.orders import Order, fixed
from selector.scoring import (
    RANKER,
    SEEDS,
    SINGLE_BEST,
    VIRTUAL_BEST,
    Model,
    Scores,
    Splitter,
    Validation,
    cross_validate,
    leave_one_family_out,
    random_fifths,
    score,
)
from selector.training import Row, fit, rows_of
from strategies.base import Candidate

SPLITS: Mapping[str, Splitter] = {
    "leave_one_family_out": leave_one_family_out,
    "random_fifths": random_fifths,
}
SHARES = (0.1, 0.2, 0.4, 0.7, 1.0)
CURVE_SEEDS = 3
SEED_ORDER = ("usage_based", "htp", "fx")


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the score card and writes it to a folder; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("baselines", type=Path, nargs="+", metavar="BASELINE.json")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="gets selector.md and pictures")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    try:
        merged = baseline.merge([baseline.read(path) for path in options.baselines])
        rows, _ = rows_of(merged.records)
        card = evaluate(rows, options.seeds)
    except (InvalidRequestError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    if options.out:
        from scripts import evaluate_report  # noqa: PLC0415 - matplotlib, only where wanted

        for path in evaluate_report.write(card, merged.environment, options.out):
            print(path, file=sys.stderr)
    if options.json:
        print(json.dumps(report.to_json(card), allow_nan=False))
    else:
        for name in SPLITS:
            print(f"{name.replace('_', ' ')}:\n{table(card[name])}\n")
    return 0


def evaluate(rows: Sequence[Row], seeds: int = SEEDS) -> dict[str, Any]:
    """The score card of the ranker that these rows give.

    Raises:
        ValueError: There are too few models to hold any out.
    """
    validations = {
        name: cross_validate(rows, fit, split, seeds=seeds, contenders=CONTENDERS)
        for name, split in SPLITS.items()
    }
    if None in validations.values():
        raise ValueError("too few models: nothing is left to fit on when some are held out")
    held_out = {name: found for name, found in validations.items() if found is not None}
    return {
        **{name: score(found) for name, found in held_out.items()},
        "calibration": calibration(held_out["leave_one_family_out"]),
        "families": by_family(held_out["leave_one_family_out"]),
        "costs": costs(held_out["leave_one_family_out"]),
        "learning_curve": learning_curve(rows),
        "weights": weights(rows),
    }


# Ways to order that nothing is fitted for


def _in_order_of(strategies: Sequence[str], candidates: Sequence[Candidate]) -> list[Candidate]:
    """By strategy, dynamic ones first; without weights before with them."""
    return sorted(
        (item for item in candidates if item.strategy in strategies),
        key=lambda item: (
            not item.dynamic, strategies.index(item.strategy), item.weights == "real",
        ),
    )  # fmt: skip


def _candidates(rows: Model) -> list[Candidate]:
    return sorted((row.candidate for row in rows), key=str)


def _seeds_order(rows: Model, _: int) -> Order:
    return fixed(_in_order_of(SEED_ORDER, _candidates(rows)))


def _alone(strategy: str) -> Any:
    return lambda rows, _: fixed(_in_order_of([strategy], _candidates(rows)))


def _by_rules(rows: Model, _: int) -> Order:
    """The seed's recommendations: no fx for transformers models, else fx first."""
    plain = rows[0].features.model_type is None
    return fixed(
        _in_order_of(("fx", "usage_based", "htp") if plain else SEED_ORDER[:2], _candidates(rows))
    )


def _random(rows: Model, seed: int) -> Order:
    order = _candidates(rows)
    random.Random(f"{seed} {rows[0].model}").shuffle(order)  # noqa: S311 - an order, not a secret
    return fixed(sorted(order, key=lambda item: not item.dynamic))


CONTENDERS = {
    "the seed's order": _seeds_order,
    "the seed's rules": _by_rules,
    "random order": _random,
    **{f"{name} alone": _alone(name) for name in SEED_ORDER},
}


# What the pictures show


def calibration(validation: Validation) -> list[dict[str, float]]:
    """For ten bins of probability: their mean, the success rate, and the number of rows."""
    bins: dict[int, list[tuple[float, bool]]] = {}
    for row, chance, _ in validation.predictions:
        bins.setdefault(min(int(chance * 10), 9), []).append((chance, row.success))
    return [
        {
            "probability": sum(chance for chance, _ in held) / len(held),
            "success": sum(success for _, success in held) / len(held),
            "rows": len(held),
        }
        for _, held in sorted(bins.items())
    ]


def by_family(validation: Validation) -> dict[str, dict[str, int]]:
    """For each family how often the first choice was the oracle's, another right one, or wrong."""
    found: dict[str, dict[str, int]] = {}
    for of_seed in validation.spent[RANKER]:
        for rows, mine, best in zip(
            validation.models, of_seed, validation.spent[VIRTUAL_BEST][0], strict=True
        ):
            kind = "wrong" if mine.attempts > 1 else "right, slower"
            if mine.attempts == 1 and mine.seconds <= best.seconds:
                kind = "the oracle's"
            counts = found.setdefault(rows[0].features.family, {})
            counts[kind] = counts.get(kind, 0) + 1
    return found


def costs(validation: Validation) -> dict[str, list[float]]:
    """Seconds of each model by the ranker (mean over seeds), the single and the virtual best."""
    return {
        name: [
            sum(of_seed[place].seconds for of_seed in validation.spent[name])
            / len(validation.spent[name])
            for place in range(len(validation.models))
        ]
        for name in (RANKER, SINGLE_BEST, VIRTUAL_BEST)
    }


def learning_curve(rows: Sequence[Row]) -> list[dict[str, float]]:
    """The remaining gap on random fifths by the share of the other models that is learned from."""
    curve = []
    for share in SHARES:

        def on_share(train: Sequence[Row], share: float = share) -> Any:
            models = sorted({row.model for row in train})
            drawn = set(random.Random(0).sample(models, max(1, round(share * len(models)))))  # noqa: S311 - no secret
            return fit([row for row in train if row.model in drawn])

        scores = score(cross_validate(rows, on_share, random_fifths, seeds=CURVE_SEEDS))
        if scores.remaining_gap is not None:
            curve.append({"share": share, **asdict(scores.remaining_gap)})
    return curve


def weights(rows: Sequence[Row]) -> dict[str, float]:
    """The log odds that one standard deviation of each trait moves, the strongest first.

    Means of their magnitudes over the regressions of all candidates.
    """
    chances = fit(rows).chances
    moved: defaultdict[str, float] = defaultdict(float)
    for candidate in chances.regressions:
        for name, log_odds in chances.weights(candidate).items():
            moved[name] += abs(log_odds) / len(chances.regressions)
    return dict(sorted(moved.items(), key=lambda item: -item[1]))


def table(scores: Scores) -> str:
    """A Markdown table of every way to order."""
    lines = [
        "| way to order | seconds | PAR10 | first right | attempts | remaining gap |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, item in sorted(scores.policies.items(), key=lambda pair: pair[1].par10.mean):
        gap = item.remaining_gap
        shown = "" if gap is None else f"{gap.mean:.2f} ({gap.low:.2f} to {gap.high:.2f})"
        lines.append(
            f"| {name} | {item.seconds.mean:.2f} ({item.seconds.low:.2f} to "
            f"{item.seconds.high:.2f}) | {item.par10.mean:.2f} | {item.first_right.mean:.1%} "
            f"| {item.attempts.mean:.2f} | {shown} |"
        )
    brier, rates, error = scores.brier, scores.brier_of_rates, scores.calibration_error
    lines.append(
        f"\n{scores.models} models, {scores.seeds} seeds. Probabilities: Brier score {brier:.3f} "
        f"(rates alone {rates:.3f}), AUC {scores.auc:.3f}, calibration error {error:.3f}."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
