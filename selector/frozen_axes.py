"""Which axis of a file is frozen: what to say when it is wrong at other sizes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from selector.cases import SIZES_SEED
from selector.eager import to_array
from selector.runtime import RuntimeRefusalError, Session

if TYPE_CHECKING:
    import torch

    from selector.reference import Reference


def frozen_axes(session: Session, reference: Reference) -> Iterator[str]:
    """Axes that fail when they alone take their other size."""
    recipe = reference.recipe
    for axis, size in recipe.other_sizes.items():
        sizes = {**recipe.sizes, axis: size}
        # Axes can depend on each other, so not every one can be changed alone.
        with contextlib.suppress(Exception):
            tensors = recipe.make(seed=SIZES_SEED, sizes=sizes)
            if not _follows(session, reference, axis, size, tensors):
                yield axis


def _follows(
    session: Session,
    reference: Reference,
    axis: str,
    size: int,
    tensors: Mapping[str, torch.Tensor],
) -> bool:
    try:
        outputs = session.run({name: to_array(item) for name, item in tensors.items()})
    except RuntimeRefusalError:
        return False
    return all(
        outputs[name].shape[index] == size
        for name, axes in reference.output_axes.items()
        for index, named in axes.items()
        if named == axis
    )
