"""Every candidate on one model: limits, crashes, and what is left behind."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from selector.chain import Attempt
from selector.errors import AttemptOutOfMemoryError, AttemptTimeoutError, StrategyError
from selector.measuring import BUG_STAGE, Measurement, Recipe, _of_strategy, measure
from strategies.base import Candidate
from strategies.isolation import Limits, Outcome

HTP = Candidate(strategy="htp", dynamic=False)
TRACED = Candidate(strategy="usage_based", dynamic=False)
# A session has half a gigabyte of libraries in memory.
MEMORY = 1 << 30
WASTED = 1 << 28


class Doubled(nn.Module):
    """Does something harmful where it is traced, and only there."""

    def __init__(self, harm: Callable[[], object]) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.harm = harm

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]  # has no types
            self.harm()
        return self.linear(x) * 2  # type: ignore[no-any-return]  # torch's


def recipe(harm: Callable[[], object]) -> Recipe:
    def build() -> tuple[nn.Module, Any]:
        torch.manual_seed(0)
        return Doubled(harm), {"x": torch.ones(2, 3)}

    return Recipe(name="doubled", build=build)


def measured(model: Recipe, tmp_path: Path, **limits: Any) -> Measurement:
    def wanted(candidate: Candidate, _: Sequence[Attempt]) -> bool:
        return candidate in (HTP, TRACED)

    return measure(model, limits=Limits(**limits), wanted=wanted, keep=tmp_path)


def outcomes(measurement: Measurement) -> dict[Candidate, str]:
    return {item.attempt.candidate: item.attempt.outcome for item in measurement.results}


def waste() -> Tensor:
    return torch.ones(2 * WASTED)


def test_a_model_is_built_and_measured_and_nothing_is_left_behind(tmp_path: Path) -> None:
    found = measured(recipe(int), tmp_path)
    assert outcomes(found) == {TRACED: "succeeded", HTP: "succeeded"}
    assert found.source.name == "doubled"
    assert {"load", "study", "export"} == found.timings.keys()
    verified = found.results[0].verified
    assert verified is not None
    assert not verified.artifact.path.exists()
    assert list(tmp_path.iterdir()) == []


def test_an_attempt_beyond_its_memory_is_recorded_and_the_next_one_measured(tmp_path: Path) -> None:
    found = measured(recipe(waste), tmp_path, memory_bytes=MEMORY)
    assert outcomes(found) == {TRACED: "out_of_memory", HTP: "succeeded"}


def test_an_attempt_beyond_its_time_is_recorded_and_the_next_one_measured(tmp_path: Path) -> None:
    found = measured(recipe(lambda: time.sleep(60)), tmp_path, seconds=10)
    assert outcomes(found) == {TRACED: "timeout", HTP: "succeeded"}


def test_an_attempt_that_takes_its_session_along_does_not_take_the_others(tmp_path: Path) -> None:
    def kill_session() -> None:
        os.kill(os.getppid(), signal.SIGKILL)

    found = measured(recipe(kill_session), tmp_path)
    assert outcomes(found) == {TRACED: "crashed", HTP: "succeeded"}
    assert list(tmp_path.iterdir()) == []


def test_building_that_hangs_is_ended(tmp_path: Path) -> None:
    def build() -> tuple[nn.Module, Any]:
        time.sleep(60)
        return nn.Identity(), None

    with pytest.raises(AttemptTimeoutError, match="stopped after 1 s"):
        measured(Recipe(name="slow", build=build), tmp_path, seconds=1)
    assert list(tmp_path.iterdir()) == []


def test_building_that_takes_too_much_memory_is_ended(tmp_path: Path) -> None:
    def build() -> tuple[nn.Module, Any]:
        held = [waste() for _ in range(4)]
        time.sleep(60)
        return nn.Linear(len(held), 1), None

    with pytest.raises(AttemptOutOfMemoryError, match="its memory limit"):
        measured(Recipe(name="large", build=build), tmp_path, memory_bytes=MEMORY)


def test_what_building_raises_passes_through(tmp_path: Path) -> None:
    def build() -> tuple[nn.Module, Any]:
        raise LookupError("no such size")

    with pytest.raises(LookupError, match="no such size"):
        measured(Recipe(name="none", build=build), tmp_path)


def test_a_mistake_is_recorded_as_such() -> None:
    outcome = _of_strategy(Outcome(error=KeyError("a bug"), seconds=2.0), HTP)
    assert isinstance(outcome.error, StrategyError)
    assert str(outcome.error) == f"htp/{BUG_STAGE}: KeyError: 'a bug'"
    assert outcome.seconds == 2.0
    failed: Outcome[Any] = Outcome(error=AttemptTimeoutError("late"))
    assert _of_strategy(failed, HTP) is failed
