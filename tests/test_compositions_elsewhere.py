"""Compositions in the captures whose operators torchlib lowers, as far as it lacks them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from torch import Tensor, nn

from strategies import registry
from strategies.base import Candidate
from strategies.calling import flatten_outputs
from tests.exporting import largest_error, request_for
from tests.test_compositions import CASES, draw

# Those of one line are drawn alike, and are exported together.
GROUPS: Mapping[str, Sequence[str]] = {
    "elementwise": ("trunc", "fmax", "fmin", "hypot", "special", "signs", "in place", "written"),
    "counting": ("histc", "bincount", "kthvalue", "median", "quantile", "cumprod", "cummax"),
    "moving": ("searchsorted", "bucketize", "isin", "take_along_dim", "stable sort"),
    "placing": ("fill_diagonal", "scatter_reduce", "roll", "kron", "triangles", "vander"),
    "sizes": ("tensor", "as_tensor", "new_tensor", "linspace"),
    "products": (
        "grouped attention",
        "cdist",
        "cholesky",
        "cholesky_solve",
        "layers",
        "bags",
        "matrix_exp",
        "solve_triangular",
    ),
    "attention": ("attention",),
    "resizing": ("bilinear by factor", "nearest-exact by factor", "area by traced size", "corners"),
    "images": ("adaptive pooling", "affine_grid", "pooling"),
}


class Together(nn.Module):
    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = names

    def forward(self, x: Tensor) -> list[Tensor]:
        found = [CASES[name][0](x) for name in self.names]
        return [
            tensor if tensor.is_floating_point() else tensor.long()
            for _, tensor in flatten_outputs(found)
        ]


@pytest.mark.parametrize("strategy", ["htp", "fx"])
@pytest.mark.parametrize("group", GROUPS)
def test_gives_what_torch_gives_at_two_sizes(group: str, strategy: str, tmp_path: Path) -> None:
    names = GROUPS[group]
    shape, other_shape = CASES[names[0]][1:]
    model = Together(names).eval()
    axes = {index: f"axis_{index}" for index in range(len(shape)) if index != 1}
    request = request_for(
        model, {"x": draw(shape)}, Candidate(strategy=strategy), tmp_path, axes={"x": axes}
    )
    path = registry.resolve(strategy)(request).path
    for size in (shape, other_shape):
        assert largest_error(path, model, {"x": draw(size)}) < 1e-5
