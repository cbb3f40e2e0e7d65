"""What is the same whichever strategy ran: that ONNX Runtime does not fuse what it would change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from strategies import registry
from strategies.base import Candidate
from tests.exporting import largest_error, request_for


class PadsWithZeros(nn.Module):
    """Pads before pooling what is negative everywhere."""

    def forward(self, image: Tensor) -> Tensor:
        padded = nn.functional.pad(-image.abs() - 1, (1, 1, 1, 1))
        return nn.functional.max_pool2d(padded, 3, 2)


@pytest.mark.parametrize("strategy", registry.BUILTIN)
def test_padding_with_zeros_is_not_that_of_the_pool(strategy: str, tmp_path: Path) -> None:
    model, inputs = PadsWithZeros().eval(), {"image": torch.randn(2, 3, 8, 8)}
    request = request_for(model, inputs, Candidate(strategy=strategy), tmp_path)
    path = registry.resolve(strategy)(request).path
    assert largest_error(path, model, inputs) < 1e-6


class Island(nn.Module):
    """Computes in half precision between float32 ends."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.inner = nn.Linear(6, 6, dtype=dtype)
        self.norm = nn.LayerNorm(6, dtype=dtype)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        small = (x.to(self.dtype) + 1) * 3
        chosen = torch.where(small > 3, small / 7, small.tanh() * 3)
        return chosen.float(), self.norm(self.inner(small[:, :6])).float().softmax(-1)


@pytest.mark.parametrize("strategy", registry.BUILTIN)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_rounded_to_after_every_operation(
    dtype: torch.dtype, strategy: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model, inputs = Island(dtype).eval(), {"x": torch.randn(5, 6)}
    axes = {"x": {0: "batch"}}
    request = request_for(model, inputs, Candidate(strategy=strategy), tmp_path, axes=axes)
    path = registry.resolve(strategy)(request).path
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for count in (5, 3):
        x = torch.randn(count, 6)
        with torch.no_grad():
            exact, rough = model(x)
        found = session.run(None, {"x": x.numpy()})
        # tanh is another function to the last bit, a product is summed up in another order.
        assert np.abs(found[0] - exact.numpy()).max() <= torch.finfo(dtype).eps * 2
        assert (found[0] == exact.numpy()).mean() > 0.9
        assert np.abs(found[1] - rough.numpy()).max() < torch.finfo(dtype).eps * 4


class Windows(nn.Module):
    """Adds a row for each full window of a sequence; a short one has none."""

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        whole = length // 4 * 4
        if whole == 0:
            return torch.cat([x, x.new_zeros(batch, 0, width)], 1)
        windows = x[:, :whole].view(batch, whole // 4, 4, -1)
        return torch.cat([x, (windows * windows.softmax(2)).sum(2)], 1)


@pytest.mark.parametrize("strategy", registry.BUILTIN)
def test_what_a_branch_leaves_out_may_have_no_elements(strategy: str, tmp_path: Path) -> None:
    model, inputs = Windows().eval(), {"x": torch.randn(2, 11, 6)}
    request = request_for(
        model,
        inputs,
        Candidate(strategy=strategy),
        tmp_path,
        axes={"x": {0: "batch", 1: "length"}},
        output_axes={"output": {0: "batch", 1: "rows"}},
        past_branches=True,
    )
    path = registry.resolve(strategy)(request).path
    for batch, length in ((2, 11), (3, 3), (1, 4), (5, 21), (1, 1)):
        assert largest_error(path, model, {"x": torch.randn(batch, length, 6)}) < 1e-6
