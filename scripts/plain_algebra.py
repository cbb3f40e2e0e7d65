"""Plain modules of linear algebra: products, norms, solves and decompositions in forward."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scripts.plain_inputs import Plain, floats


class Gaussian(nn.Module):
    """Log density of a Gaussian, by its covariance's Cholesky factor and a triangular solve."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.randn(4, 4) * 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 4) to (batch,)."""
        covariance = self.factor @ self.factor.T + torch.eye(4)
        lower = torch.linalg.cholesky(covariance)
        white = torch.linalg.solve_triangular(lower, x.T, upper=False)
        density: Tensor = -0.5 * white.square().sum(dim=0) - lower.diagonal().log().sum()
        return density


class Norms(nn.Module):
    """Norms of vectors and matrices, and a determinant."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(batch, 3, 3) to tensors of (batch,) and (batch, 3)."""
        return {
            "euclidean": torch.linalg.vector_norm(x, dim=(1, 2)),
            "largest": torch.linalg.vector_norm(x, ord=float("inf"), dim=-1),
            "taxi": torch.norm(x, p=1, dim=2),
            "frobenius": torch.linalg.matrix_norm(x),
            "volume": torch.linalg.det(x),
        }


class LeastSquares(nn.Module):
    """Ridge regression in forward: a solve and an inverse, batched."""

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, points, 3) and (batch, points, 1) to (batch, 3, 1) and (batch, 3, 3)."""
        gram = x.mT @ x + 0.1 * torch.eye(3)
        return torch.linalg.solve(gram, x.mT @ y), torch.linalg.inv(gram)


class Spectrum(nn.Module):
    """Whitens by an eigendecomposition, and gives singular values."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(points, 4) to (4, 4) and (4,)."""
        centred = x - x.mean(dim=0)
        values, vectors = torch.linalg.eigh(centred.T @ centred / x.shape[0])
        whiten = vectors @ torch.diag(values.clamp(min=1e-4).rsqrt()) @ vectors.T
        return whiten, torch.linalg.svdvals(centred)


class MatrixExponential(nn.Module):
    """Moves a state by the exponential of a learnt skew matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.randn(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        """Keeps (batch, 4)."""
        turn = torch.matrix_exp(self.raw - self.raw.T)
        out: Tensor = x @ turn @ torch.linalg.matrix_power(turn, 3)
        return out


class GaussianProcess(nn.Module):
    """Predicts mean and variance at new points from given ones, by a kernel's Cholesky factor."""

    def forward(self, known: Tensor, values: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """(items, 2), (items,) and (points, 2) to two of (points,)."""
        lower = torch.linalg.cholesky(_kernel(known, known) + 0.1 * torch.eye(known.shape[0]))
        weights = torch.cholesky_solve(values.unsqueeze(-1), lower)
        across = _kernel(points, known)
        half = torch.linalg.solve_triangular(lower, across.T, upper=False)
        return (across @ weights).squeeze(-1), 1.0 - half.square().sum(dim=0)


class Einsums(nn.Module):
    """Products by index: paths of three, diagonals, traces, ellipses, outer products."""

    def __init__(self) -> None:
        super().__init__()
        self.core = nn.Parameter(torch.randn(3, 4, 5))

    def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        """(batch, items, 3) and (batch, items, 4) to contractions of them."""
        square = torch.einsum("bni,bnj->bij", a, a)
        return {
            "path": torch.einsum("bni,ijk,bnj->bnk", a, self.core, b),
            "diagonal": torch.einsum("bii->bi", square),
            "trace": torch.einsum("...ii", square),
            "outer": torch.einsum("bi,bj->bij", a[:, 0], b[:, 0]),
            "dot": torch.tensordot(a, self.core, dims=([2], [0])),
        }


class MatrixProducts(nn.Module):
    """Products of whole matrices: a chain of them, and the Kronecker product."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 2))

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """(points, 3) and (points, 4) to (3, 2) and (4, 4)."""
        return torch.linalg.multi_dot([a.T, b, self.weight]), torch.kron(b[:2], torch.eye(2))[:, :4]


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return torch.exp(-0.5 * torch.cdist(a, b).pow(2))


MODULES = {
    "gaussian": Plain(build=Gaussian, inputs={"x": floats("batch 4")}),
    "norms": Plain(build=Norms, inputs={"x": floats("batch 3 3")}),
    "least_squares": Plain(
        build=LeastSquares, inputs={"x": floats("batch points 3"), "y": floats("batch points 1")}
    ),
    "spectrum": Plain(build=Spectrum, inputs={"x": floats("points 4")}),
    "matrix_exponential": Plain(build=MatrixExponential, inputs={"x": floats("batch 4")}),
    "gaussian_process": Plain(
        build=GaussianProcess,
        inputs={
            "known": floats("items 2"),
            "values": floats("items"),
            "points": floats("points 2"),
        },
    ),
    "einsums": Plain(
        build=Einsums, inputs={"a": floats("batch items 3"), "b": floats("batch items 4")}
    ),
    "matrix_products": Plain(
        build=MatrixProducts, inputs={"a": floats("points 3"), "b": floats("points 4")}
    ),
}
