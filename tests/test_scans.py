"""State-space models at lengths that the capture did not see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import MambaConfig, MambaModel

from scripts import zoo
from strategies import registry, scans
from strategies.base import Candidate
from tests.exporting import largest_error, request_for


def text(batch: int, length: int) -> dict[str, Tensor]:
    return {"input_ids": torch.randint(1, 50, (batch, length))}


@pytest.mark.parametrize("strategy", ["usage_based", "htp", "fx"])
def test_a_state_space_model_at_other_lengths(strategy: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = MambaConfig(
        vocab_size=50, hidden_size=16, state_size=4, num_hidden_layers=2, use_cache=False
    )
    model: Any = MambaModel(config)
    model.eval()
    request = request_for(
        model,
        text(2, 7),
        Candidate(strategy=strategy),
        tmp_path,
        axes={"input_ids": {0: "batch_size", 1: "sequence_length"}},
    )
    path = registry.resolve(strategy)(request).path
    for sizes in ((3, 11), (1, 4), (2, 20)):
        assert largest_error(path, model, text(*sizes)) < 1e-5


def test_the_operator_on_tensors() -> None:
    factors, terms = torch.rand(2, 5, 3), torch.randn(2, 5, 3)
    state = torch.zeros(2, 3)
    for step, found in enumerate(scans.linear_recurrence(factors, terms, 1).unbind(1)):
        state = factors[:, step] * state + terms[:, step]
        assert torch.allclose(found, state)


@pytest.mark.parametrize("strategy", ["htp", "fx"])
def test_triangular_systems_are_solved_in_few_steps(strategy: str, tmp_path: Path) -> None:
    model = zoo.build("base:qwen3_next")
    axes = {"input_ids": {0: "batch_size", 1: "sequence_length"}}
    candidate = Candidate(strategy=strategy)
    request = request_for(
        model, text(2, 7), candidate, tmp_path, axes=axes, constants={"use_cache": False}
    )
    artifact = registry.resolve(strategy)(request)
    assert artifact.nodes < 2000
    assert largest_error(artifact.path, model, text(3, 9)) < 1e-4
