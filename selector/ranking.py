"""Features to ordered candidates: by the trained ranker, or in the static order without one."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from selector.errors import InvalidRequestError, RankerError
from selector.hindsight import Failure, twins_apart
from selector.ranker import FREEZING, LOWERINGS, FittedRanker
from selector.ranker_files import Chosen, choose
from strategies.base import VOID, Candidate
from strategies.registry import unknown_name_message

if TYPE_CHECKING:
    from selector.features import ModelFeatures

# What each objective minimises, for the sentence that says that it could not.
OBJECTIVES = {
    "time": "the seconds to a verified file",
    "attempts": "the number of attempts",
    "latency": "the file's latency in ONNX Runtime",
    "size": "the file's size",
    "coverage": "the share of nodes whose module is not traced",
}
QUALITIES = frozenset({"latency", "size", "coverage"})
LOWERING_NAMES = {"torchscript": "TorchScript has no symbolic", "torchlib": "torchlib has nothing"}
HARDLY = 0.1
# A file with dynamic axes is worth trying for, unless it is less likely than this.
UNLIKELY = 0.2
# Seconds for an attempt of which nothing is known: everything that was measured took less.
USUAL_LIMIT = 900.0
# How much dearer a candidate without weights must look than its twin with them to come after
# it where a model has this many bytes of parameters. The seconds of a baseline's small models
# hardly tell the two apart, but what reading the weights takes of memory grows with them.
TWIN_MARGIN = 1.5
HEAVY = 100 << 20
# Recording a forward takes about a tenth of an attempt, so it pays only where the first attempt
# fails more often than that.
SURE = 0.9
# What the learned order has to save of the expected cost to be preferred to the single best one.
NOISE = 0.1
FEWEST_SIMILAR = 3
OPERATORS_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedCandidate:
    """A candidate in its place.

    Attributes:
        candidate: What would be tried.
        success_probability: Of a verified file, calibrated; None in the static order.
        expected_seconds: Of one attempt, however it ends; None in the static order.
        score: What the order ascends by, among candidates that are equally dynamic: for
            `time` the expected seconds over the probability, for `attempts` the probability
            of failure, else what the objective measures; None in the static order. On a
            large model a candidate without weights stands before its twin with them unless
            it is clearly worse, and the single best order's first one stands first where that
            costs hardly more.
        time_limit: Seconds after which an attempt is stopped unless the user says otherwise.
        reasons: Why it stands here, short sentences.
        speaks_for: What raises its probability most, the strongest first.
        speaks_against: What lowers it most.
    """

    candidate: Candidate
    success_probability: float | None = None
    expected_seconds: float | None = None
    score: float | None = None
    time_limit: float = USUAL_LIMIT
    reasons: tuple[str, ...] = ()
    speaks_for: tuple[str, ...] = ()
    speaks_against: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Candidates, the first to try first.

    Attributes:
        order: All that were asked about.
        trained: Whether the order was learned; else it is the static one.
        note: Why it is not learned, or not by the objective that was asked for.
        sure: Whether knowing more of the model would hardly change which one is first.
    """

    order: tuple[RankedCandidate, ...]
    trained: bool
    note: str | None = None
    sure: bool = False

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Those in the order, without the reasons."""
        return tuple(item.candidate for item in self.order)


def rank_candidates(  # noqa: PLR0913 - what is ranked, for what, by what, after what
    features: ModelFeatures | None,
    candidates: Sequence[Candidate],
    *,
    objective: str = "time",
    ranker: str | os.PathLike[str] | FittedRanker | None = None,
    failed: Sequence[Failure] = (),
    explain: bool = True,
) -> Ranking:
    """Orders candidates by what they are expected to cost.

    A file with dynamic axes is worth more than a static one, so static candidates come
    after all dynamic ones, unless hardly any of these is still likely to be right. Where no
    trained ranker can be used, the order is the given
    one, in which `registry.portfolio` puts scripted candidates before traced ones.

    Args:
        features: Of the model; None where they could not be computed.
        candidates: In static order.
        objective: One of `OBJECTIVES`.
        ranker: Path of an artefact, or a ranker itself; None for the user's own or the
            shipped one. Where it is refused, the note says why and what served instead.
        failed: What was tried before, in order.
        explain: Whether to say what speaks for and against each, which takes milliseconds.

    Raises:
        InvalidRequestError: There is no such objective.
    """
    if objective not in OBJECTIVES:
        msg = unknown_name_message("objective", objective, tuple(OBJECTIVES))
        raise InvalidRequestError(msg)
    ranking = _ranked(features, candidates, objective, ranker, failed, explain=explain)
    entries = {item.candidate: item for item in ranking.order}
    return replace(ranking, order=tuple(entries[item] for item in twins_apart([*entries], failed)))


def _ranked(  # noqa: PLR0913 - as above
    features: ModelFeatures | None,
    candidates: Sequence[Candidate],
    objective: str,
    ranker: str | os.PathLike[str] | FittedRanker | None,
    failed: Sequence[Failure],
    *,
    explain: bool,
) -> Ranking:
    if features is None:
        return static_ranking(None, candidates, "the model's features are not known", objective)
    try:
        chosen = _chosen(ranker)
        entries = _predict(chosen.ranker, features, candidates, failed, explain=explain)
    except RankerError as error:
        return static_ranking(features, candidates, str(error), objective)
    ranking = _ordered(chosen.ranker, features, entries, objective)
    if objective == "time" and entries and not failed:
        ranking = _abstaining(ranking, chosen.ranker.single_best)
    notes = [note for note in (chosen.note, ranking.note) if note]
    return replace(ranking, note="; ".join(notes) or None)


def prepare_ranker(ranker: str | os.PathLike[str] | None = None) -> None:
    """Loads a ranker ahead of `rank_candidates`, which says what is wrong with it, if anything.

    It brings scikit-learn, whose import takes a second.
    """
    with contextlib.suppress(RankerError):
        _chosen(ranker)


def static_ranking(
    features: ModelFeatures | None,
    candidates: Sequence[Candidate],
    why: str,
    objective: str = "time",
) -> Ranking:
    """The given order of strategies; where a branch must be kept, scripted candidates first.

    Of two that differ in their weights alone, the one without them comes first.
    """
    keeps = features is not None and features.value_dependent
    places = {name: index for index, name in enumerate(dict.fromkeys(map(_place, candidates)))}
    ordered = sorted(
        candidates,
        key=lambda item: (
            not item.dynamic,
            places[_place(item)],
            keeps and not item.scripted,
            item.weights != VOID,
        ),
    )
    entries = tuple(
        RankedCandidate(candidate=item, reasons=("static order", *_facts(features, item)))
        for item in ordered
    )
    if objective != "time":
        why = f"{why}; so nothing is known of {OBJECTIVES[objective]}"
    return Ranking(order=entries, trained=False, note=why)


def _place(candidate: Candidate) -> tuple[str, bool]:
    return candidate.strategy, candidate.dynamic


def _chosen(ranker: str | os.PathLike[str] | FittedRanker | None) -> Chosen:
    if isinstance(ranker, FittedRanker):
        return Chosen(ranker=ranker)
    return choose(None if ranker is None else Path(ranker))


def _predict(
    fitted: FittedRanker,
    features: ModelFeatures,
    candidates: Sequence[Candidate],
    failed: Sequence[Failure],
    *,
    explain: bool,
) -> list[RankedCandidate]:
    """Probability and expected seconds of each, and what speaks for and against it."""
    try:
        chances = fitted.probabilities(features, candidates, failed)
        right = fitted.seconds(features, candidates, success=True)
        wrong = fitted.seconds(features, candidates, success=False)
    except (ValueError, AttributeError, TypeError) as error:
        # scikit-learn's way of saying that estimators were made by another version.
        raise RankerError(f"the trained ranker does not work here: {error}") from error
    entries: list[RankedCandidate] = []
    for candidate, chance, success, failure in zip(candidates, chances, right, wrong, strict=True):
        seconds = chance * success + (1 - chance) * failure
        pros, cons = fitted.chances.evidence(features, candidate) if explain else ((), ())
        entries.append(
            RankedCandidate(
                candidate=candidate,
                success_probability=chance,
                expected_seconds=seconds,
                score=seconds / chance,
                time_limit=fitted.time_limit(success),
                reasons=(_learned(fitted, features, candidate), *_facts(features, candidate)),
                speaks_for=pros,
                speaks_against=cons,
            )
        )
    return entries


def _ordered(
    fitted: FittedRanker, features: ModelFeatures, entries: list[RankedCandidate], objective: str
) -> Ranking:
    note = None
    measured: list[float] | None = None
    if objective in QUALITIES:
        measured = fitted.quality(objective, features, [item.candidate for item in entries])
        if measured is None:
            note = f"the baseline did not measure {OBJECTIVES[objective]}; ordered by time instead"
    costs = {item.candidate: item.score or 0.0 for item in entries}
    scores = costs
    if objective == "attempts":
        scores = {item.candidate: 1 - (item.success_probability or 0.0) for item in entries}
    elif measured is not None:
        scores = dict(zip(costs, measured, strict=True))

    margin = TWIN_MARGIN if features.parameter_bytes >= HEAVY else 1.0
    ties = _twins_together(costs, margin)
    # An attempt is an attempt, however much sooner a twin's ends.
    places = scores if objective == "attempts" else _twins_together(scores, margin)
    chance = _chance_of_dynamic(entries)
    unlikely = chance is not None and chance < UNLIKELY

    def key(entry: RankedCandidate) -> tuple[bool, bool, float, float, bool]:
        # Among files that are about as good, and only among candidates that may succeed at all,
        # the cheaper one comes first.
        candidate = entry.candidate
        hopeless = measured is not None and (entry.success_probability or 0.0) < HARDLY
        place = places[candidate]
        rounded = place if measured is None else float(f"{place:.1e}")
        late = candidate.dynamic if unlikely else not candidate.dynamic
        return late, hopeless, rounded, ties[candidate], candidate.weights != VOID

    order = [replace(item, score=scores[item.candidate]) for item in sorted(entries, key=key)]
    if unlikely and not order[0].candidate.dynamic:
        why = f"static, as a right file with dynamic axes is unlikely ({chance:.1%})"
        order[0] = replace(order[0], reasons=(why, *order[0].reasons))
    # Sizes and latencies go by the operators.
    first = order[0].success_probability if order and objective not in QUALITIES else None
    sure = first is not None and first >= SURE
    return Ranking(order=tuple(order), trained=True, note=note, sure=sure)


def _abstaining(ranking: Ranking, single_best: Sequence[Candidate]) -> Ranking:
    """The ranking, with the single best order's first choice first if that costs hardly more.

    After a failure, what it tells of the others counts, in any case.
    """
    first = ranking.order[0]
    places = {candidate.with_weights(): place for place, candidate in enumerate(single_best)}
    alike = [item for item in ranking.order if item.candidate.dynamic == first.candidate.dynamic]
    usual = min(alike, key=lambda item: places.get(item.candidate.with_weights(), len(places)))
    if usual.candidate.with_weights() == first.candidate.with_weights():
        return ranking
    order = [usual, *(item for item in ranking.order if item != usual)]
    saved = 1 - _expected_cost(ranking.order) / _expected_cost(order)
    if saved >= NOISE:
        return ranking
    why = f"first in the single best order; the learned one would save {max(saved, 0):.0%}, noise"
    order[0] = replace(usual, reasons=(why, *usual.reasons))
    return replace(ranking, order=tuple(order))


def _expected_cost(order: Sequence[RankedCandidate]) -> float:
    """Seconds until one is right, or all have failed, if failures are independent."""
    cost, open_chance = 0.0, 1.0
    for item in order:
        cost += open_chance * (item.expected_seconds or 0.0)
        open_chance *= 1 - (item.success_probability or 0.0)
    return cost


def _chance_of_dynamic(entries: Sequence[RankedCandidate]) -> float | None:
    """Of any right file with dynamic axes, if failures are independent; None without candidates.

    Failures go together, so that it is less in truth. Twins count once.
    """
    best: dict[Candidate, float] = {}
    for item in entries:
        if item.candidate.dynamic:
            twin = item.candidate.with_weights()
            best[twin] = max(best.get(twin, 0.0), item.success_probability or 0.0)
    return 1 - math.prod(1 - chance for chance in best.values()) if best else None


def _twins_together(scores: Mapping[Candidate, float], margin: float) -> dict[Candidate, float]:
    """The scores, where one without weights that is hardly worse than its twin gets the twin's."""
    together = dict(scores)
    for candidate, score in scores.items():
        twin = scores.get(candidate.with_weights(), score)
        if twin < score <= twin * margin:
            together[candidate] = twin
    return together


# Reasons


def _learned(fitted: FittedRanker, features: ModelFeatures, candidate: Candidate) -> str:
    """What was measured of a candidate, on similar models where there are enough of them."""
    tally, where = fitted.similar(features, candidate), f"similar models ({features.family})"
    if tally.tried < FEWEST_SIMILAR:
        tally, where = fitted.overall(candidate), "models"
    if not tally.tried:
        return "learned: never measured as such, so judged by what is like it"
    return f"learned: right on {tally.right} of {tally.tried} {where}"


def _facts(features: ModelFeatures | None, candidate: Candidate) -> tuple[str, ...]:
    """What a candidate does without, and what the analysis says of it."""
    facts = ["captured without reading the weights" if candidate.weights == VOID else None]
    if features is not None:
        facts += [_control_flow_fact(features, candidate), _operator_fact(features, candidate)]
    return tuple(fact for fact in facts if fact)


def _control_flow_fact(features: ModelFeatures, candidate: Candidate) -> str | None:
    if not features.value_dependent:
        return None
    found = next((item for item in features.findings if item.kind in {"branch", "loop"}), None)
    verb = "loops" if found and found.kind == "loop" else "branches"
    place = f" ({found.place})" if found else ""
    what = f"forward {verb} on a tensor's value{place}"
    if candidate.scripted:
        return f"{what}, which scripting keeps in the file"
    if candidate.strategy in FREEZING:
        return f"{what}, which tracing would freeze"
    return f"{what}, which torch.export refuses" if candidate.strategy == "fx" else what


def _operator_fact(features: ModelFeatures, candidate: Candidate) -> str | None:
    lowering = LOWERINGS.get(candidate.strategy, "")
    unknown = features.unknown_to.get(lowering, ())
    if not unknown:
        return None
    shown = ", ".join(unknown[:OPERATORS_SHOWN])
    more = f" and {len(unknown) - OPERATORS_SHOWN} more" if len(unknown) > OPERATORS_SHOWN else ""
    return f"{LOWERING_NAMES[lowering]} for {shown}{more}"
