"""One model of a collection, in the process of a worker: every candidate, or why there is none."""

from __future__ import annotations

import functools
import hashlib
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from scripts import collection_models
from scripts.collection_journal import Entry
from selector import baseline
from selector.baseline import Unmeasured
from selector.chain import SUCCEEDED, Attempt, Progress
from selector.measuring import Measurement, measure
from strategies.base import VOID, Candidate
from strategies.isolation import Limits

# Of so many models, one has all twins measured.
DRAWN_OF = 5
PARENT_POLL_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How models are measured.

    Attributes:
        candidates: As they are shown, `htp[static]`; empty for all.
        limits: Of each attempt, and of building and studying a model.
        seed: Of the random weights, and of the draw of models that have all twins measured.
        all_twins: Whether every model has.
        parent: The process that this one must not outlive; None where it may.
    """

    candidates: tuple[str, ...]
    limits: Limits
    seed: int
    all_twins: bool
    parent: int | None = None


def measure_model(name: str, settings: Settings) -> Entry:
    """Measures one model; whatever goes wrong with it is in what it returns."""
    if settings.parent is not None:
        _follow(settings.parent)
    started = time.perf_counter()
    stages = ["load"]
    try:
        measurement = _measured(name, settings, stages)
    except Exception as error:  # noqa: BLE001 - no model may stop the collection
        stage = {"source": "load", "export": "attempt"}.get(stages[-1], stages[-1])
        entry = Entry(model=name, unmeasured=Unmeasured.of(name, stage, error))
    else:
        records = _records(name, measurement, settings.seed)
        entry = Entry(model=name, records=records, seconds=dict(measurement.timings))
    total = time.perf_counter() - started
    rounded = {stage: round(spent, 3) for stage, spent in entry.seconds.items()}
    return entry.model_copy(update={"seconds": rounded | {"total": round(total, 3)}})


def is_drawn(model: str, seed: int) -> bool:
    """Whether both twins are measured on a model in any case; the same on every machine."""
    digest = hashlib.sha256(f"{seed} {model}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % DRAWN_OF == 0


def _measured(name: str, settings: Settings, stages: list[str]) -> Measurement:
    all_twins = settings.all_twins or is_drawn(name, settings.seed)

    def is_wanted(candidate: Candidate, attempts: Sequence[Attempt]) -> bool:
        if settings.candidates and str(candidate) not in settings.candidates:
            return False
        right = {item.candidate for item in attempts if item.outcome == SUCCEEDED}
        void = replace(candidate, weights=VOID)
        return all_twins or candidate == void or void not in right

    def note_stage(progress: Progress) -> None:
        stages.append(progress.stage)

    with collection_models.had(name, settings.seed, settings.limits) as subject:
        return measure(
            subject.model,
            random_weights=subject.random_weights,
            limits=settings.limits,
            wanted=is_wanted,
            progress=note_stage,
        )


def _records(name: str, measurement: Measurement, seed: int) -> tuple[baseline.Record, ...]:
    return tuple(
        baseline.record(
            model=name,
            features=measurement.study.features,
            attempt=result.attempt,
            artifact=result.verified.artifact if result.verified else None,
            report=result.verified.verification if result.verified else None,
            seed=seed,
        )
        for result in measurement.results
    )


@functools.cache
def _follow(parent: int) -> None:
    """Ends this process, and with it what it started, once its parent has been killed."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
