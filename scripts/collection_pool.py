"""Runs a collection's models on the workers of one machine or of a Dask cluster, by joblib."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass, replace
from typing import Any

from joblib import Parallel, delayed, parallel_config

from scripts.collection_journal import Entry
from scripts.collection_task import Settings, measure_model
from selector.baseline import Unmeasured
from selector.errors import AttemptCrashedError, InvalidRequestError

LOKY, DASK = "loky", "dask"
# Building, studying, every candidate and what a static one needs first may each take their limit.
LIMITS_PER_MODEL = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Where models are measured.

    Attributes:
        backend: `loky`, processes of this machine, or `dask`, those of a cluster.
        jobs: Models at a time; a cluster measures as many as its workers have threads.
        scheduler: Address of the cluster's scheduler.
    """

    backend: str
    jobs: int
    scheduler: str | None = None


def measured(models: Sequence[str], settings: Settings, pool: Pool) -> Iterator[Entry]:
    """Each model's entry once, as soon as it is measured.

    Every attempt has a process of its own, so a worker hardly ever dies. Where one does, the
    models that were under way are measured again, each alone, to find the one that it was.

    Raises:
        InvalidRequestError: The cluster cannot be reached, or has no workers.
    """
    if pool.backend == LOKY and pool.jobs > 1:
        # Those of a cluster do outlive this process.
        settings = replace(settings, parent=os.getpid())
    rounds = [list(models)]
    while rounds:
        batch = rounds.pop(0)
        begun: list[str] = []
        done: set[str] = set()
        try:
            for entry in _in_parallel(batch, settings, pool, begun):
                done.add(entry.model)
                yield entry
        except (BrokenExecutor, OSError) as error:
            if not begun:
                msg = f"no worker of {pool.scheduler or 'this machine'} can be had: {error}"
                raise InvalidRequestError(msg) from error
            lost = [name for name in begun if name not in done]
            if batch == lost[:1]:
                yield _lost(batch[0], error)
            else:
                rest = [name for name in batch if name not in begun]
                rounds = [*([name] for name in lost), *([rest] if rest else []), *rounds]


def _in_parallel(
    models: Sequence[str], settings: Settings, pool: Pool, begun: list[str]
) -> Iterator[Entry]:
    """The entries as they come; notes in `begun` what was handed to workers."""

    def tasks() -> Iterator[Any]:
        for name in models:
            begun.append(name)
            yield delayed(measure_model)(name, settings)

    where: dict[str, Any] = {"backend": pool.backend, "n_jobs": pool.jobs}
    if pool.backend == DASK:
        where = {"backend": DASK, "n_jobs": -1, "scheduler_host": pool.scheduler}
    with parallel_config(**where):
        results: Iterator[Entry] = Parallel(
            return_as="generator_unordered",
            batch_size=1,
            # What was lost with a worker is then known to within a few models.
            pre_dispatch="n_jobs",
            timeout=_longest(settings) if where["n_jobs"] != 1 else None,
        )(tasks())
    yield from results


def _longest(settings: Settings) -> float | None:
    """Seconds after which a worker that has not answered never will."""
    seconds = settings.limits.seconds
    return None if seconds is None else seconds * LIMITS_PER_MODEL


def _lost(model: str, error: Exception) -> Entry:
    crash = AttemptCrashedError(f"its worker died or stopped answering ({type(error).__name__})")
    return Entry(model=model, unmeasured=Unmeasured.of(model, "worker", crash))
