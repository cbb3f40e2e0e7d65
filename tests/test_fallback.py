"""The whole chain, in real processes, over strategies that fail in every way there is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from selector import ExportResult, auto_export, ranker_files
from selector.errors import VoidReadError
from selector.ranker import FittedRanker
from strategies.registry import BUILTIN
from tests.conftest import ROOT

# What a third-party package looks like: a module, and metadata that announces it.
STRATEGIES = '''
import ctypes, os, time
import numpy as np
import onnx_ir as ir
from strategies.base import ExportStrategy
from strategies.errors import StrategyUnavailableError
from strategies.usage_based import UsageBasedStrategy

class Segfault(ExportStrategy):
    name = "segfault"
    def _export(self, model, request):
        ctypes.string_at(0)

class Allocate(ExportStrategy):
    name = "allocate"
    def _export(self, model, request):
        held = []
        while True:
            held.append(np.ones(1 << 22))
            time.sleep(0.005)

class Sleep(ExportStrategy):
    name = "sleep"
    def _export(self, model, request):
        time.sleep(600)

class Raise(ExportStrategy):
    name = "raise"
    def _export(self, model, request):
        raise RuntimeError("the exporter gave up")

class Missing(ExportStrategy):
    name = "missing"
    def _export(self, model, request):
        raise StrategyUnavailableError("needs a library that is not here")

class Wrong(UsageBasedStrategy):
    """Writes a valid, loadable file with a weight changed."""
    name = "wrong"
    def _export(self, model, request):
        graph = super()._export(model, request)
        value = next(v for k, v in graph.graph.initializers.items() if k.endswith("weight"))
        value.const_value = ir.tensor(value.const_value.numpy() * 1.01, name=value.name)
        return graph
'''

SCRIPT = """
import json, sys
from pathlib import Path
import torch
from selector.chain import Budget, run_chain
from selector.errors import AllStrategiesFailedError
from selector.steps import StudyOrder
from selector.workshop import Workshop
from strategies.base import Candidate
from strategies.isolation import Limits

names = sys.argv[1].split(",")
with Workshop(Path(sys.argv[2])) as workshop:
    workshop.load(torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU()))
    study = workshop.study(StudyOrder(given=(torch.randn(2, 8),)))
    run = workshop.attempts(
        study, opset=18, weights="copy", verify="full", tolerance=None
    )
    def limited(candidate, limits):
        seconds = 3 if candidate.strategy == "sleep" else 60
        memory = 1_500_000_000 if candidate.strategy == "allocate" else None
        return run(candidate, Limits(seconds=seconds, memory_bytes=memory))
    try:
        result = run_chain([Candidate(strategy=name) for name in names], limited)
        attempts, path = result.attempts, result.value.artifact.path.name
    except AllStrategiesFailedError as error:
        attempts, path = error.attempts, None
print(json.dumps({
    "path": path, "attempts": [[a.candidate.strategy, a.outcome, str(a.error)] for a in attempts]
}))
"""

EXPECTED = {
    "segfault": "crashed",
    "allocate": "out_of_memory",
    "sleep": "timeout",
    "raise": "failed",
    "missing": "unavailable",
    "wrong": "wrong",
}


@pytest.fixture(scope="module")
def third_party(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    (folder / "broken_strategies.py").write_text(STRATEGIES)
    info = folder / "broken_strategies-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-strategies\nVersion: 1.0\n")
    classes = "\n".join(f"{name} = broken_strategies:{name.title()}" for name in EXPECTED)
    (info / "entry_points.txt").write_text(f"[autoexport.strategies]\n{classes}\n")
    return folder


def run_with(third_party: Path, names: list[str], staging: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, ",".join(names), str(staging)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PYTHONPATH": f"{third_party}:{ROOT}", "PATH": "/usr/bin:/bin", "HOME": str(staging)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_every_way_to_fail_is_recorded_and_the_chain_ends_in_a_right_file(
    third_party: Path, tmp_path: Path
) -> None:
    result = run_with(third_party, [*EXPECTED, "usage_based"], tmp_path)
    assert {name: outcome for name, outcome, _ in result["attempts"]} == {
        **EXPECTED,
        "usage_based": "succeeded",
    }
    assert result["path"] == "model.onnx"
    assert list(tmp_path.glob(".autoexport*")) == []


def test_when_all_fail_the_errors_say_what_happened(third_party: Path, tmp_path: Path) -> None:
    result = run_with(third_party, ["segfault", "raise", "wrong"], tmp_path)
    errors = {name: error for name, _, error in result["attempts"]}
    assert result["path"] is None
    assert "SIGSEGV" in errors["segfault"]
    assert "the exporter gave up" in errors["raise"]
    assert "wrong" in errors["wrong"]


# Without weights, and with them


class Repeats(nn.Module):
    """Reads a weight's value in Python, and calls what is replaced before TorchScript sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.times = nn.Parameter(torch.tensor(3.0))

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(int(self.times.item())):
            x = torch.tanh(self.linear(x))
        return torch.diff(torch.cumsum(x, -1).as_strided((2, 2), (4, 1)))


class Gates(nn.Module):
    """Branches on a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x)
        return out * self.scale if self.scale > 0 else out


class Rare(nn.Module):
    """Has an operator that TorchScript's exporter lacks, and torchlib has."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.linear(x)
        return torch.logaddexp2(hidden, -hidden)


def in_static_order(module: nn.Module, folder: Path, **options: Any) -> ExportResult:
    seconds = {name: float(place) for place, name in enumerate(BUILTIN, 1)}
    ranker = FittedRanker(medians={"success_seconds": seconds})
    ranker_files.store(ranker, folder / "ranker.joblib", {})
    return auto_export(
        module, folder / "m.onnx", inputs=torch.randn(2, 4), ranker=folder / "ranker.joblib",
        **options,
    )  # fmt: skip


@pytest.mark.parametrize(("module", "dynamic"), [(Repeats(), False), (Gates(), True)])
def test_a_weight_that_is_read_is_said_at_once_and_the_twin_is_next(
    module: nn.Module, dynamic: bool, tmp_path: Path
) -> None:
    result = in_static_order(module, tmp_path, dynamic=dynamic)
    shapes = "dynamic" if dynamic else "static"
    assert [(str(item.candidate), item.outcome) for item in result.attempts] == [
        (f"usage_based[{shapes},void]", "failed"),
        (f"usage_based[{shapes}]", "succeeded"),
    ]
    error = result.attempts[0].error
    assert isinstance(error, VoidReadError)
    assert "needs a value that depends on the weights" in str(error)
    assert "test_fallback.py" in str(error)
    assert result.features is not None
    assert result.features.unknown_to["torchscript"] == ()


def test_what_cannot_be_lowered_is_not_traced_again_with_weights(tmp_path: Path) -> None:
    result = in_static_order(Rare(), tmp_path)
    assert [str(item.candidate) for item in result.ranking.order[:3]] == [
        "usage_based[dynamic,void]",
        "usage_based[dynamic]",
        "htp[dynamic]",
    ]
    assert [(str(item.candidate), item.outcome) for item in result.attempts] == [
        ("usage_based[dynamic,void]", "failed"),
        ("htp[dynamic]", "succeeded"),
    ]
