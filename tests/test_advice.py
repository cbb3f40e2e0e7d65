"""How closely a model is looked at before and after the first attempt; with real sessions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from selector.advice import Advice, advise
from selector.chain import record_attempt
from selector.features import ModelFeatures
from selector.ranker import FittedRanker, Tally
from selector.ranking import SURE
from selector.steps import Study, StudyOrder
from selector.workshop import Workshop
from strategies.base import Candidate
from strategies.errors import LoweringError
from strategies.isolation import Outcome
from tests.another_file import at_most_one

TALLIES = {
    str(Candidate(strategy=name, dynamic=dynamic)): Tally(90, 100)
    for name in ("usage_based", "htp", "fx")
    for dynamic in (True, False)
}
MEDIANS = {"size": {"": 100.0}}
SURE_OF_IT = FittedRanker(
    tallies={**TALLIES, "usage_based[dynamic,void]": Tally(999, 1000)}, medians=MEDIANS
)
IN_DOUBT = FittedRanker(tallies={name: Tally(50, 100) for name in TALLIES}, medians=MEDIANS)


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.layer(x))


class Reads(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.sum() > 0 else x


class Hides(Plain):
    """Branches in a function of another file, which reading this one does not tell."""

    def forward(self, x: Tensor) -> Tensor:
        return at_most_one(super().forward(x))


class Told(Reads):
    def forward(self, x: Tensor, times: int = 1) -> Tensor:
        return super().forward(x) * times


@contextmanager
def advice_on(
    module: nn.Module,
    ranker: FittedRanker,
    folder: Path,
    objective: str = "time",
    given: Any = None,
) -> Iterator[Advice]:
    with Workshop(folder) as workshop:
        workshop.load(module.eval())
        yield advise(
            workshop,
            StudyOrder(given=given or (torch.randn(2, 4),)),
            strategy="auto",
            dynamic="auto",
            objective=objective,
            ranker=ranker,
        )


def features_in(study: Study) -> ModelFeatures:
    assert study.features is not None
    return study.features


@pytest.mark.parametrize(
    ("ranker", "objective", "recorded"),
    [(SURE_OF_IT, "time", False), (IN_DOUBT, "time", True), (SURE_OF_IT, "size", True)],
)
def test_a_forward_is_recorded_only_where_the_order_is_in_doubt(
    ranker: FittedRanker, objective: str, recorded: bool, tmp_path: Path
) -> None:
    with advice_on(Plain(), ranker, tmp_path, objective) as advice:
        ranking = advice.first()
    assert features_in(advice.study).recorded is recorded
    assert ranking.sure is (ranker is SURE_OF_IT and objective == "time")
    if not recorded:
        assert (ranking.order[0].success_probability or 0.0) >= SURE


def test_after_a_failure_it_is_recorded(tmp_path: Path) -> None:
    with advice_on(Plain(), SURE_OF_IT, tmp_path) as advice:
        first, *rest = advice.first().candidates
        before = advice.study
        failed = record_attempt(1, first, Outcome(error=LoweringError("no"), seconds=1.0))
        left = advice.after(rest, [failed])
    assert not features_in(before).recorded
    assert features_in(advice.study).operators["aten.relu.default"] == 1
    assert advice.study.seconds > before.seconds
    assert sorted(map(str, left)) == sorted(map(str, rest))


def test_where_the_source_reads_values_a_run_tells_whether_it_gets_there(tmp_path: Path) -> None:
    with advice_on(Reads(), SURE_OF_IT, tmp_path) as advice:
        features = features_in(advice.study)
    assert features.recorded
    assert features.value_dependent


def test_what_only_a_run_shows_brings_scripted_candidates_and_more_cases(tmp_path: Path) -> None:
    with advice_on(Hides(), IN_DOUBT, tmp_path) as advice:
        read = advice.study
        ranking = advice.first()
    assert not features_in(read).value_dependent
    assert features_in(advice.study).value_dependent
    assert any(item.scripted for item in ranking.candidates)
    assert len(advice.study.reference.cases) > len(read.reference.cases)


@pytest.mark.parametrize(("told", "scripted"), [({}, True), ({"times": 2}, False)])
def test_what_is_no_tensor_keeps_scripted_candidates_away(
    told: dict[str, int], scripted: bool, tmp_path: Path
) -> None:
    with advice_on(Told(), IN_DOUBT, tmp_path, given={"x": torch.randn(2, 4), **told}) as advice:
        ranking = advice.first()
        assert advice.study.tensors_only is scripted
    assert any(item.scripted for item in ranking.candidates) is scripted
