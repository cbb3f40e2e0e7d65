"""The fitted ranker: what it predicts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from selector import traits
from selector.chances import Chances
from selector.features import FAMILIES, MODALITIES, ModelFeatures
from selector.hindsight import Failure, Hindsight
from strategies.base import VOID, Candidate
from strategies.registry import BUILTIN

if TYPE_CHECKING:
    from numpy.typing import NDArray

# What each strategy lowers with, and whether it follows the one way that the example took.
LOWERINGS = {"usage_based": "torchscript", "htp": "torchlib", "fx": "torchlib"}
FREEZING = frozenset({"usage_based", "htp"})
COUNTS = (
    "branch",
    "loop",
    "read",
    "nonzero",
    "mask",
    "shape_branch",
    "shape_loop",
    "config_branch",
)
# How many measurements of a candidate weigh as much as what its rate alone says.
PRIOR_WEIGHT = 4.0
FASTEST, SLOWEST = 0.02, 3600.0
# Of an attempt's time limit: so many standard deviations above what is expected, and at least so
# many times that, and these seconds.
SURPRISES, LEAST_ROOM, LEAST_LIMIT = 4.0, 8.0, 120.0
LEAST_PROBABILITY, GREATEST_PROBABILITY = 0.01, 0.99


def vector(features: ModelFeatures, candidate: Candidate) -> dict[str, float]:
    """The numbers that the estimators see for one candidate on one model."""
    frozen = candidate.strategy in FREEZING and not candidate.scripted
    unknown = features.unknown_to.get(LOWERINGS.get(candidate.strategy, ""), ())
    numbers: dict[str, float] = {
        "log_parameters": math.log10(1 + features.parameters),
        "log_modules": math.log10(1 + features.modules),
        "log_operators": math.log10(1 + sum(features.operators.values())),
        "distinct_operators": len(features.operators),
        "log_width": math.log10(1 + features.width),
        "depth": features.depth,
        "value_dependent": features.value_dependent,
        "would_freeze": features.value_dependent and frozen,
        "unknown_operators": len(unknown),
        "dynamic": candidate.dynamic,
        "scripted": candidate.scripted,
        "void": candidate.weights == VOID,
    }
    numbers |= {f"count_{name}": features.control_flow.get(name, 0) for name in COUNTS}
    numbers |= {f"family_{name}": features.family == name for name in FAMILIES}
    numbers |= {f"modality_{name}": name in features.modalities for name in MODALITIES}
    for name in BUILTIN:
        mine = candidate.strategy == name
        numbers[f"strategy_{name}"] = mine
        numbers[f"strategy_{name}_dynamic"] = mine and candidate.dynamic
    return {name: float(value) for name, value in numbers.items()}


@dataclass(frozen=True, slots=True)
class Tally:
    """How often something was tried, and how often it was right."""

    right: int = 0
    tried: int = 0

    def rate(self, expected: float, weight: float = 1.0) -> float:
        """The success rate, pulled towards an expected one that counts as `weight` tries."""
        return (self.right + weight * expected) / (self.tried + weight)


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedRanker:
    """Predicts, for a model and a candidate, success, seconds and qualities of the file.

    Where data are too few for an estimator, it is None and rates and medians serve.

    Attributes:
        chances: Calibrated probability of success.
        clock: Logarithm of an attempt's seconds from `vector` and the outcome.
        clock_unrecorded: The same where no forward was recorded.
        clock_spread: Standard deviation of its error, on families that it did not see.
        latency: Logarithm of the file's seconds per run from `vector`.
        hindsight: What the failure of one candidate says of another.
        tallies: By candidate, by strategy, and by family and candidate.
        medians: By what is measured, then by candidate, by strategy, and over all (``).
        single_best: The one order that costs least over all models.
    """

    chances: Chances = field(default_factory=Chances)
    clock: Any = None
    clock_unrecorded: Any = None
    clock_spread: float = 1.0
    latency: Any = None
    hindsight: Hindsight = field(default_factory=Hindsight)
    tallies: Mapping[str, Tally] = field(default_factory=dict)
    medians: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    single_best: Sequence[Candidate] = ()

    def probabilities(
        self,
        features: ModelFeatures,
        candidates: Sequence[Candidate],
        failed: Sequence[Failure] = (),
    ) -> list[float]:
        """The probability that each candidate gives a verified file, now that others failed."""
        chances = self._unconditional(features, [*candidates, *(item.candidate for item in failed)])
        known = list(zip(failed, chances[len(candidates) :], strict=True))
        return [
            self.hindsight.revised(chance, candidate, known)
            for candidate, chance in zip(candidates, chances, strict=False)
        ]

    def _unconditional(
        self, features: ModelFeatures, candidates: Sequence[Candidate]
    ) -> list[float]:
        """What was learned counts the more, the more often the candidate was measured."""
        found: list[float] = []
        learned = self.chances.of(features, candidates)
        for candidate, chance in zip(candidates, learned, strict=True):
            rate, measured = self.rate(candidate), self._measured(candidate)
            if chance is not None:
                rate = (measured * chance + PRIOR_WEIGHT * rate) / (measured + PRIOR_WEIGHT)
            found.append(min(max(rate, LEAST_PROBABILITY), GREATEST_PROBABILITY))
        return found

    def seconds(
        self, features: ModelFeatures, candidates: Sequence[Candidate], *, success: bool
    ) -> list[float]:
        """Expected wall seconds of an attempt that ends so, verification included."""
        clock = self.clock if features.recorded else self.clock_unrecorded
        if clock is None or not candidates:
            return [self._usual_seconds(candidate, success=success) for candidate in candidates]
        logarithms = clock.predict(timed_matrix(features, candidates, success=success))
        return [min(max(math.exp(item), FASTEST), SLOWEST) for item in logarithms.tolist()]

    def time_limit(self, seconds: float) -> float:
        """Seconds that an attempt hardly ever takes, where so many are expected of a right one."""
        room = max(math.exp(SURPRISES * self.clock_spread), LEAST_ROOM)
        return min(max(room * seconds, LEAST_LIMIT), SLOWEST)

    def quality(
        self, objective: str, features: ModelFeatures, candidates: Sequence[Candidate]
    ) -> list[float] | None:
        """What the objective minimises, or None where the baseline did not measure it.

        That is seconds per run for `latency`, bytes for `size`, and the share of nodes whose
        module was not traced for `coverage`. A file does not tell whether it was captured
        with weights, so candidates that differ in that alone are equal here.
        """
        usual = self.medians.get(objective, {})
        if not usual:
            return None
        candidates = [candidate.with_weights() for candidate in candidates]
        if objective == "latency" and self.latency is not None:
            return [math.exp(item) for item in self.latency.predict(matrix(features, candidates))]
        values = [self._median(usual, candidate) for candidate in candidates]
        if objective == "size":
            # What a file holds besides the parameters grows with the number of operators.
            operators = sum(features.operators.values())
            return [features.parameter_bytes + operators * value for value in values]
        return values

    def similar(self, features: ModelFeatures, candidate: Candidate) -> Tally:
        """How the candidate did on models of the same family."""
        return self.tallies.get(f"{features.family}/{candidate}", Tally())

    def overall(self, candidate: Candidate) -> Tally:
        """How the candidate did on all models."""
        return self.tallies.get(str(candidate), Tally())

    def _measured(self, candidate: Candidate) -> int:
        """How often the candidate, or its twin with weights, was tried."""
        names = {str(candidate), str(candidate.with_weights())}
        return sum(self.tallies.get(name, Tally()).tried for name in names)

    def rate(self, candidate: Candidate) -> float:
        """The success rate of a candidate over all models, drawn to that of its strategy."""
        rate = 0.5
        for name in reversed(_likest(candidate)):
            rate = self.tallies.get(name, Tally()).rate(rate)
        return rate

    def _usual_seconds(self, candidate: Candidate, *, success: bool) -> float:
        right = self.medians.get("success_seconds", {})
        # Of one that never succeeded it is not known how long that takes: like the slowest.
        value = self._own_median(right, candidate) or max(right.values(), default=1.0)
        if not success:
            failed = self.medians.get("failure_seconds", {})
            value = self._own_median(failed, candidate) or value
        return max(value, FASTEST)

    def _median(self, medians: Mapping[str, float], candidate: Candidate) -> float:
        own = self._own_median(medians, candidate)
        return medians[""] if own is None else own

    @staticmethod
    def _own_median(medians: Mapping[str, float], candidate: Candidate) -> float | None:
        names = _likest(candidate)
        return next((medians[name] for name in names if name in medians), None)


def _likest(candidate: Candidate) -> list[str]:
    """Under which names measurements tell of a candidate, the most telling first."""
    names = (str(candidate), str(candidate.with_weights()), candidate.strategy)
    return list(dict.fromkeys(names))


def matrix(features: ModelFeatures, candidates: Sequence[Candidate]) -> NDArray[Any]:
    """One row of `vector` per candidate, (candidates, features)."""
    import numpy as np  # noqa: PLC0415 - the static order needs none of it

    rows = [list(vector(features, candidate).values()) for candidate in candidates]
    return np.asarray(rows, dtype=float)


def timed_matrix(
    features: ModelFeatures, candidates: Sequence[Candidate], *, success: bool
) -> NDArray[Any]:
    """The rows of `matrix` with the outcome, also by strategy, (candidates, features)."""
    import numpy as np  # noqa: PLC0415 - as above

    outcome = [
        [float(success), *(float(success and item.strategy == name) for name in BUILTIN)]
        for item in candidates
    ]
    return np.hstack([matrix(features, candidates), np.asarray(outcome, dtype=float)])


def feature_names() -> tuple[str, ...]:
    """The names of what estimators see of every model, in order."""
    nothing = ModelFeatures(model_type=None, architecture="", family="plain")
    of_model = traits.of_model(nothing, traits.Vocabulary())
    return (*vector(nothing, Candidate(strategy="")), *of_model)
