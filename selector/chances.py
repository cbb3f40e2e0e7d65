"""How likely a candidate gives a right file: logistic regressions, and what spoke for it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from selector import traits
from selector.features import ModelFeatures
from selector.hindsight import by_model
from selector.traits import Vocabulary
from strategies.base import VOID

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from selector.training import Row
    from strategies.base import Candidate

# With fewer rows a regression says less than rates do.
FEWEST_ROWS = 12
# Variance of the log odds before anything is learned, which all traits share: the more of them
# there are, the less each may say, but a cause may say so many times what another trait may.
# Both chosen by the gap and the calibration on held-out families.
VARIANCE, EMPHASIS = 1.0, 3.0
EVIDENCE_SHOWN = 3
# Log odds below which a trait hardly speaks.
HARDLY = 0.05
# Of the candidate: captured without weights, and without some whose values forward reads.
NEEDS_WEIGHTS = "needs_weights"
OF_CANDIDATE = (VOID, NEEDS_WEIGHTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chances:
    """One regression for each strategy, dynamic or not, scripted or not.

    Its inputs are the model's traits, whether the candidate is captured without weights, and
    whether forward reads values of those that it is captured without.

    Attributes:
        vocabulary: The operators and axes among the traits.
        regressions: Pipelines of scikit-learn by candidate with weights: what is missing
            becomes the mean, then each input is standardised, and causes are emphasised.
    """

    vocabulary: Vocabulary = field(default_factory=Vocabulary)
    regressions: Mapping[str, Any] = field(default_factory=dict)

    def of(self, features: ModelFeatures, candidates: Sequence[Candidate]) -> list[float | None]:
        """The probability of a right file for each; None where nothing was learned of it."""
        found: list[float | None] = []
        known = list(traits.of_model(features, self.vocabulary).values())
        for candidate in candidates:
            regression = self.regressions.get(str(candidate.with_weights()))
            if regression is None:
                found.append(None)
                continue
            terms, intercept = _terms(regression, _model_and_candidate(known, features, candidate))
            found.append(1 / (1 + math.exp(-float(terms.sum()) - intercept)))
        return found

    def evidence(
        self, features: ModelFeatures, candidate: Candidate
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What speaks most for and what most against a candidate, in words, the strongest first."""
        regression = self.regressions.get(str(candidate.with_weights()))
        if regression is None:
            return (), ()
        known = traits.of_model(features, self.vocabulary).values()
        values = _model_and_candidate(list(known), features, candidate)
        terms, _ = _terms(regression, values)
        usual = regression[1].mean_
        told: dict[str, float] = defaultdict(float)
        for name, value, mean, term in zip(self.names, values, usual, terms, strict=True):
            if name not in OF_CANDIDATE and not math.isnan(value):
                told[traits.in_words(name, high=value > mean)] += float(term)
        ordered = sorted(told.items(), key=lambda item: -item[1])
        speaks_for = [words for words, term in ordered if term > HARDLY]
        against = [words for words, term in reversed(ordered) if term < -HARDLY]
        return tuple(speaks_for[:EVIDENCE_SHOWN]), tuple(against[:EVIDENCE_SHOWN])

    def weights(self, candidate: str) -> dict[str, float]:
        """The log odds that one standard deviation of each input moves, by its name."""
        _, _, emphasis, logistic = (step for _, step in self.regressions[candidate].steps)
        moved = emphasis.transform(logistic.coef_)[0].tolist()
        return dict(zip(self.names, moved, strict=True))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of a regression's inputs, in order."""
        nothing = ModelFeatures(model_type=None, architecture="", family="plain")
        return (*traits.of_model(nothing, self.vocabulary), *OF_CANDIDATE)


def _inputs(known: Sequence[float], features: ModelFeatures, candidate: Candidate) -> list[float]:
    """Those of the model, then those of the candidate."""
    if candidate.weights != VOID:
        return [*known, 0.0, 0.0]
    return [*known, 1.0, float(features.weight_dependent) if features.recorded else math.nan]


def _model_and_candidate(
    known: Sequence[float], features: ModelFeatures, candidate: Candidate
) -> NDArray[Any]:
    import numpy as np  # noqa: PLC0415 - the static order needs none of it

    return np.asarray(_inputs(known, features, candidate))


def _terms(regression: Any, values: NDArray[Any]) -> tuple[NDArray[Any], float]:
    """What each input adds to the log odds, and the intercept; far faster than the pipeline."""
    import numpy as np  # noqa: PLC0415 - as above

    imputer, scaler, emphasis, logistic = (step for _, step in regression.steps)
    filled = np.where(np.isnan(values), imputer.statistics_, values)
    terms = emphasis.transform((filled - scaler.mean_) / scaler.scale_) * logistic.coef_[0]
    return terms, float(logistic.intercept_[0])


def _emphasised(standardised: NDArray[Any], weights: NDArray[Any]) -> NDArray[Any]:
    emphasised: NDArray[Any] = standardised * weights
    return emphasised


# Fitting


def fit_chances(rows: Iterable[Row]) -> Chances:
    """Fits the regressions; groups with too few models, or one outcome only, get none."""
    models = by_model(rows)
    vocabulary = Vocabulary.of([of_model[0].features for of_model in models])
    lessons: defaultdict[str, _Lessons] = defaultdict(_Lessons)
    for of_model in models:
        own = list(traits.of_model(of_model[0].features, vocabulary).values())
        for row in of_model:
            lesson = lessons[str(row.candidate.with_weights())]
            lesson.inputs.append(_inputs(own, row.features, row.candidate))
            lesson.right.append(row.success)
    names = Chances(vocabulary=vocabulary).names
    weights = [EMPHASIS if traits.CAUSES.match(name) else 1.0 for name in names]
    regressions = {name: item.regression(weights) for name, item in sorted(lessons.items())}
    return Chances(
        vocabulary=vocabulary,
        regressions={name: item for name, item in regressions.items() if item is not None},
    )


@dataclass(slots=True)
class _Lessons:
    """What one regression is fitted on."""

    inputs: list[list[float]] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)

    def regression(self, weights: Sequence[float]) -> Any:
        """The pipeline; None where there is too little to learn from.

        Args:
            weights: Of each input, once it is standardised.
        """
        if len(self.right) < FEWEST_ROWS or len(set(self.right)) < 2:
            return None
        import numpy as np  # noqa: PLC0415 - scikit-learn takes seconds, and only fitting needs it
        from sklearn.impute import SimpleImputer  # noqa: PLC0415 - as above
        from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - as above
        from sklearn.pipeline import make_pipeline  # noqa: PLC0415 - as above
        from sklearn.preprocessing import (  # noqa: PLC0415 - as above
            FunctionTransformer,
            StandardScaler,
        )

        inputs = np.asarray(self.inputs)
        regression = make_pipeline(
            SimpleImputer(keep_empty_features=True),
            StandardScaler(),
            FunctionTransformer(_emphasised, kw_args={"weights": np.asarray(weights)}),
            LogisticRegression(C=VARIANCE / inputs.shape[1], max_iter=1000),
        )
        return regression.fit(inputs, np.asarray(self.right, dtype=int))
