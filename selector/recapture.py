"""Another example for a capture that a branch on the first one's sizes led astray.

Forward often does less at the sizes that a model was trained with: it adds positions as they
are, where others are interpolated, which is right at every size. What is captured at another
size takes that way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from selector.plans import CAPTURE_SEED
from strategies.errors import OtherSizesError, StrategyError

if TYPE_CHECKING:
    import torch

    from selector.features import ModelFeatures
    from selector.inputs import ExampleInputs

# Axes that count items. Forward loops over items and branches on their sizes, not on their number.
COUNTS = frozenset({"batch_size", "num_images"})


def another_example(
    error: StrategyError, inputs: ExampleInputs, features: ModelFeatures | None
) -> dict[str, torch.Tensor] | None:
    """Inputs at the sizes that a file was wrong at, or at which an axis would not be frozen.

    None where others would change nothing: forward does not branch on sizes, or what is frozen
    is the number of items, which a capture at any other number would freeze as well.
    """
    sizes = _sizes(error, inputs)
    if sizes is None or not (features is None or features.size_dependent):
        return None
    return inputs.make(seed=CAPTURE_SEED, sizes=sizes)


def _sizes(error: StrategyError, inputs: ExampleInputs) -> Mapping[str, int] | None:
    if not isinstance(error, OtherSizesError):
        return inputs.other_sizes or None
    if not COUNTS.isdisjoint(error.report.frozen_axes):
        return None
    return next((case.sizes for case in error.report.cases if not case.ok), None)
