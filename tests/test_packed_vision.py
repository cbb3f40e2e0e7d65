"""Packed images: what transformers reads off their grid, and towers at other counts and sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import vision_utils
from transformers.models.kimi_k25 import modeling_kimi_k25
from transformers.models.muse_spark import modeling_muse_spark
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as qwen
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig

from strategies import packed_vision, registry
from strategies.base import Candidate
from tests.exporting import largest_error, request_for

GRID = torch.tensor([[2, 4, 6], [1, 8, 4], [3, 4, 4]])
PATCHES = int(GRID.prod(1).sum())


@pytest.mark.parametrize("merge_temporal", [False, True])
def test_segments(merge_temporal: bool) -> None:
    expected = vision_utils.get_vision_cu_seqlens(GRID, merge_temporal)
    found = packed_vision.cumulative_lengths(GRID, PATCHES, merge_temporal=merge_temporal)
    assert found[: len(expected)].tolist() == expected.tolist()
    assert set(found[len(expected) :].tolist()) == {PATCHES}


@pytest.mark.parametrize("merge", [1, 2, torch.tensor([1, 2, 2])], ids=["1", "2", "each its own"])
@pytest.mark.parametrize("time", [False, True])
def test_positions(merge: int | Tensor, time: bool) -> None:
    expected = vision_utils.get_vision_position_ids(GRID, merge, time)
    found = packed_vision.positions(GRID, PATCHES, merge, include_temporal=time)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("window", [8, 12, 16, 32])
def test_windows(window: int) -> None:
    expected, lengths = vision_utils.get_vision_window_index(GRID, 2, window, 2)
    found, found_lengths = packed_vision.windows(GRID, PATCHES, 2, window, 2)
    assert torch.equal(found, expected)
    assert found_lengths[: len(lengths)].tolist() == lengths.tolist()
    assert set(found_lengths[len(lengths) :].tolist()) <= {PATCHES}


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("merge", [1, 2])
def test_interpolation(mode: str, merge: int) -> None:
    expected = vision_utils.get_vision_interpolation_indices_and_weights(
        GRID, 7, mode, spatial_merge_size=merge
    )
    found = packed_vision.interpolation(
        GRID,
        PATCHES,
        7,
        mode=mode,
        align_corners=False,
        spatial_merge_size=merge,
        padding="border",
    )
    assert torch.equal(found[0], expected[0])
    assert torch.allclose(found[1], expected[1])


def test_blocks() -> None:
    expected = modeling_muse_spark.get_vision_pixel_shuffle_index(GRID, 2)
    assert torch.equal(packed_vision.blocks(GRID, PATCHES, 2), expected)


def test_frames() -> None:
    expected = modeling_kimi_k25.get_vision_frame_index(GRID)
    assert torch.equal(packed_vision.frames(GRID, PATCHES), expected)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("kernel", [(2, 2), (1, 2)])
def test_blocks_of_all_frames(kernel: tuple[int, int], count: int) -> None:
    grid = GRID.clone()
    grid[:, 0] = count
    expected = modeling_kimi_k25.get_vision_temporal_merge_index(grid, *kernel)
    found = packed_vision.blocks_of_all_frames(grid, int(grid.prod(1).sum()), *kernel)
    assert torch.equal(found, expected)


def tower() -> Any:
    """A vision tower with windows and images of any size."""
    config = Qwen2_5_VLVisionConfig(
        depth=2,
        hidden_size=32,
        intermediate_size=48,
        num_heads=2,
        patch_size=4,
        window_size=16,
        out_hidden_size=32,
        fullatt_block_indexes=[1],
    )
    torch.manual_seed(0)
    model: Any = qwen.Qwen2_5_VisionTransformerPretrainedModel(config)
    return model.eval()


def packed(grid: list[list[int]]) -> dict[str, Tensor]:
    sizes = torch.tensor(grid)
    patches = torch.randn(int(sizes.prod(1).sum()), 3 * 2 * 4 * 4)
    return {"hidden_states": patches, "grid_thw": sizes}


@pytest.mark.parametrize("strategy", ["usage_based", "htp", "fx"])
def test_a_tower_at_other_counts_and_sizes(strategy: str, tmp_path: Path) -> None:
    model = tower()
    config = dict(vars(model.config))
    request = request_for(
        model,
        packed([[1, 4, 8], [1, 8, 4], [1, 4, 8]]),
        Candidate(strategy=strategy),
        tmp_path,
        axes={"hidden_states": {0: "total_patches"}, "grid_thw": {0: "num_images"}},
    )
    path = registry.resolve(strategy)(request).path
    for grid in ([[1, 8, 4], [1, 4, 4], [2, 8, 8], [1, 4, 12]], [[1, 4, 4]]):
        assert largest_error(path, model, packed(grid)) < 1e-5
    assert vars(model.config) == config
    assert vars(qwen)["get_vision_position_ids"] is vision_utils.get_vision_position_ids


class Positions(nn.Module):
    """Adds positions to patches that come as one batch."""

    def forward(self, patches: Tensor, grid_thw: Tensor) -> Tensor:
        found = vision_utils.get_vision_position_ids(grid_thw, 2)
        return patches[0] + found.sum(-1, keepdim=True)


class OneBatch(nn.Module):
    """Gives a tower all patches as one batch."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = Positions()

    def forward(self, patches: Tensor, grid: Tensor) -> Tensor:
        found: Tensor = self.tower(patches.unsqueeze(0), grid_thw=grid)
        return found


@pytest.mark.parametrize("strategy", ["usage_based", "htp"])
def test_patches_in_one_batch(strategy: str, tmp_path: Path) -> None:
    model = OneBatch().eval()
    axes = {"patches": {0: "total_patches"}, "grid": {0: "num_images"}}

    def case(*grid: list[int]) -> dict[str, Tensor]:
        sizes = torch.tensor(grid)
        return {"patches": torch.randn(int(sizes.prod(1).sum()), 3), "grid": sizes}

    candidate = Candidate(strategy=strategy)
    request = request_for(model, case([1, 4, 2], [2, 2, 6]), candidate, tmp_path, axes=axes)
    path = registry.resolve(strategy)(request).path
    for grid in ([[1, 4, 2], [2, 2, 6]], [[1, 6, 2]], [[1, 2, 2], [3, 2, 4], [1, 4, 8]]):
        assert largest_error(path, model, case(*grid)) < 1e-6
