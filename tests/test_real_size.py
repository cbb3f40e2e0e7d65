"""The models of real size have the parameters that were published, and their checkpoints load."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from scripts import real_size
from selector.source import load, resolve


def test_there_are_at_least_40_and_no_name_twice() -> None:
    assert len(real_size.NAMES) >= 40
    parts = (real_size.TEXT, real_size.DECODERS, real_size.VISION, real_size.SOUND_AND_MIXED)
    assert len(real_size.NAMES) == sum(map(len, parts))


@pytest.mark.parametrize("name", real_size.NAMES)
def test_has_the_published_number_of_parameters(name: str) -> None:
    with torch.device("meta"):
        model = real_size.build(name)
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert millions == pytest.approx(real_size.SIZES[name].millions, rel=0.005)


def test_a_checkpoint_is_the_same_for_the_same_seed_and_loads(tmp_path: Path) -> None:
    name = "segformer-b0"
    drawn = torch.random.get_rng_state()
    first = real_size.write_checkpoint(name, tmp_path / "first", seed=1)
    again = real_size.write_checkpoint(name, tmp_path / "again", seed=1)
    other = real_size.write_checkpoint(name, tmp_path / "other", seed=2)
    assert torch.equal(torch.random.get_rng_state(), drawn)
    weights = [(folder / "model.safetensors").read_bytes() for folder in (first, again, other)]
    assert weights[0] == weights[1] != weights[2]
    module = load(resolve(first)).module
    assert type(module).__name__ == real_size.SIZES[name].class_name
    total = sum(parameter.numel() for parameter in module.parameters()) / 1e6
    assert total == pytest.approx(real_size.SIZES[name].millions, rel=0.005)
