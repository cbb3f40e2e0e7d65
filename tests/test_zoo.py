"""Every tiny model and plain module of the zoo gets a verified file, nearly all a dynamic one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from scripts import zoo
from scripts.plain_modules import PLAIN
from scripts.zoo import TINY, tiny_model
from scripts.zoo_census import RUNS
from scripts.zoo_check import find_out
from selector import ExportResult, auto_export

# Of the plain modules, some that each candidate can do and some that few can.
PLAIN_NAMES = (*("mlp", "cnn", "lstm", "branch", "loop", "dict_output", "shared"),)
NAMES = (*TINY, *PLAIN_NAMES)


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ExportResult]:
    """Exports a model of the zoo, once for all tests; the file is not kept."""
    done: dict[str, ExportResult] = {}

    def run(name: str) -> ExportResult:
        if name not in done:
            module, inputs = PLAIN[name]() if name in PLAIN else (tiny_model(name), None)
            target = tmp_path_factory.mktemp("zoo") / f"{name}.onnx"
            done[name] = auto_export(module, target, inputs=inputs, attempt_timeout=120)
            target.unlink()
        return done[name]

    return run


@pytest.mark.parametrize("name", NAMES)
def test_there_is_a_verified_file_with_every_node_tagged(
    export: Callable[[str], ExportResult], name: str
) -> None:
    result = export(name)
    assert result.verification.ok
    assert result.verification.untagged == 0
    assert result.verification.cases


def test_nine_in_ten_hold_their_dynamic_axes(export: Callable[[str], ExportResult]) -> None:
    dynamic = [name for name in NAMES if export(name).verification.dynamic_axes]
    assert len(dynamic) >= 0.9 * len(NAMES)


def test_the_list_has_every_architecture() -> None:
    assert len(zoo.names(zoo.BASE)) >= 600
    assert len(zoo.names(zoo.HEAD)) >= 600


# The last one has no register tokens, a parameter without elements.
@pytest.mark.parametrize(
    "name", ["base:bert", "head:BertForSequenceClassification", "base:dinov3_vit"]
)
def test_a_model_is_the_same_on_every_call(name: str) -> None:
    models: list[Any] = [zoo.build(name) for _ in range(2)]
    assert models[0].config.architectures == [type(models[0]).__name__]
    weights, others = (model.state_dict() for model in models)
    assert all(torch.equal(weights[key], others[key]) for key in weights)


def test_a_rung_with_all_its_inputs_is_better_than_one_without() -> None:
    first, *_, best = find_out("base:voxtral")
    assert best.status == RUNS
    assert not best.left_out
    assert best.level is not None
    assert first.level is not None
    assert best.level > first.level
