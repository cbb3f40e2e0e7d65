"""What is the same whichever strategy ran: that ONNX Runtime does not fuse what it would change."""

from __future__ import annotations

from pathlib import Path

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
