"""What the processes of an export import, and what they do not."""

from __future__ import annotations

import gc
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.zoo import tiny_model
from selector import steps
from strategies.isolation import Session

HEAVY = ("torch", "transformers", "onnx", "onnxruntime", "onnxscript")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT."""
    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    model: Any = tiny_model("bert")
    model.save_pretrained(folder)
    return folder


ASKER = """
import json, sys
import selector
seen = {}
def note(event):
    seen[event.stage] = sorted(name for name in sys.argv[3:] if name in sys.modules)
result = selector.auto_export(sys.argv[1], sys.argv[2], progress=note)
seen["end"] = sorted(name for name in sys.argv[3:] if name in sys.modules)
print(json.dumps([seen, result.ranking.trained, result.verification.ok]))
"""


def test_the_asking_process_imports_no_framework(
    checkpoint: Path, tmp_path: Path, root: Path
) -> None:
    run = subprocess.run(
        [sys.executable, "-c", ASKER, checkpoint, tmp_path / "x.onnx", *HEAVY, "sklearn"],
        capture_output=True,
        text=True,
        check=True,
        cwd=root,
    )
    seen, trained, right = json.loads(run.stdout)
    assert seen.pop("source") == seen.pop("load") == []
    # The ranker was loaded while the worker was importing torch.
    assert set(map(tuple, seen.values())) == {("sklearn",)}
    assert trained
    assert right


def loaded() -> None:
    """Nothing: these tests look at the process."""


def modules(_: object, names: tuple[str, ...]) -> list[str]:
    return [name for name in names if name in sys.modules]


def matched(_: object) -> tuple[bool, list[int], bool]:
    losses = importlib.import_module("transformers.loss.loss_for_object_detection")
    before = "scipy.optimize" in sys.modules
    _rows, columns = losses.linear_sum_assignment([[4, 1], [2, 5]])
    return before, columns.tolist(), "scipy.optimize" in sys.modules


def collector(_: object) -> tuple[bool, int]:
    return gc.isenabled(), gc.get_freeze_count()


def wait_policy(_: object) -> str:
    return os.environ["OMP_WAIT_POLICY"]


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    with Session(imports=steps.IMPORTS) as opened:
        opened.load(loaded)
        yield opened


def test_sessions_find_everything_imported(session: Session) -> None:
    names = (*HEAVY[:-1], "strategies.usage_based", *steps.IMPORTS)
    assert session.attempt(modules, names).value() == list(names)


def test_scipy_is_imported_where_a_loss_needs_it(session: Session) -> None:
    assert session.attempt(matched).value() == (False, [1, 0], True)


def test_garbage_is_collected_but_not_looked_for_in_libraries(session: Session) -> None:
    enabled, frozen = session.attempt(collector).value()
    assert enabled
    assert frozen > 100_000


def test_waiting_threads_leave_the_cores_to_others(session: Session) -> None:
    assert session.attempt(wait_policy).value() == "PASSIVE"
