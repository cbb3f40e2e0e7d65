"""What models compute as in training: losses, and norms by the batch's own statistics."""

# mypy: allow-untyped-calls
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from strategies.compositions.tables import Table

TABLE: Table = {}


def _cross_entropy(  # noqa: PLR0913, PLR0917 - the signature is torch's
    input: Tensor,  # noqa: A002 - as above
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Any = None,
    ignore_index: int = -100,
    reduce: Any = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Any:
    """C. Szegedy and others, "Rethinking the Inception Architecture", 2016, 7.

    ONNX knows of neither smoothing nor targets that are probabilities.
    """
    shares = target.is_floating_point()
    if not (label_smoothing or shares) or size_average is not None or reduce is not None:
        return functional.cross_entropy(
            input, target, weight, size_average, ignore_index, reduce, reduction, label_smoothing
        )
    axis = 0 if input.dim() == 1 else 1
    scores = functional.log_softmax(input, axis)
    weights = torch.ones_like(scores)
    if weight is not None:
        weights = weights * weight.reshape(-1, *[1] * (input.dim() - axis - 1))
    if shares:
        wanted = (1 - label_smoothing) * target + label_smoothing / input.shape[axis]
        losses = -(scores * weights * wanted).sum(axis)
        return losses if reduction == "none" else getattr(losses, reduction)()
    counted = target != ignore_index
    places = torch.where(counted, target, torch.zeros_like(target)).unsqueeze(axis)

    def of_target(values: Tensor) -> Tensor:
        return values.gather(axis, places).squeeze(axis) * counted.to(values.dtype)

    missed = -of_target(scores * weights)
    spread = -(scores * weights).sum(axis) * counted.to(scores.dtype) / input.shape[axis]
    losses = (1 - label_smoothing) * missed + label_smoothing * spread
    if reduction == "mean":
        return losses.sum() / of_target(weights).sum()
    return losses.sum() if reduction == "sum" else losses


def _smooth_l1_loss(  # noqa: PLR0913, PLR0917 - as above
    input: Tensor,  # noqa: A002 - as above
    target: Tensor,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    beta: float = 1.0,
) -> Any:
    if size_average is not None or reduce is not None:
        return functional.smooth_l1_loss(input, target, size_average, reduce, reduction, beta)
    far = (input - target).abs()
    near = far if beta == 0 else torch.where(far < beta, far * far / (2 * beta), far - beta / 2)
    return near if reduction == "none" else getattr(near, reduction)()


def _batch_norm(  # noqa: PLR0913, PLR0917 - the signature is torch's
    input: Tensor,  # noqa: A002 - as above
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,  # noqa: FBT001, FBT002 - as above
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    if not training or running_mean is not None or running_var is not None:
        return functional.batch_norm(
            input, running_mean, running_var, weight, bias, training, momentum, eps
        )
    others = [axis for axis in range(input.dim()) if axis != 1]
    centred = input - input.mean(others, keepdim=True)
    result = centred / torch.sqrt((centred * centred).mean(others, keepdim=True) + eps)
    shape = (-1, *[1] * (input.dim() - 2))
    if weight is not None:
        result = result * weight.reshape(shape)
    return result if bias is None else result + bias.reshape(shape)


# torch.batch_norm is another function.
TABLE[functional.cross_entropy] = _cross_entropy
TABLE[functional.smooth_l1_loss] = _smooth_l1_loss
TABLE[functional.batch_norm] = _batch_norm
