"""Attention masks that transformers makes with `torch.vmap`, which no trace can look into."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from strategies.patching import attribute

_MASKS, _EXPANSION = "transformers.masking_utils", "_vmap_expansion_sdpa"
_PATCH = "_patch_broadcast_mask_expansion"


@contextmanager
def broadcast() -> Iterator[None]:
    """Within it they are made by broadcasting, as transformers' own exporters have it."""
    masks = sys.modules.get(_MASKS)
    if masks is None or not hasattr(masks, _EXPANSION):
        yield
        return
    try:
        from transformers.exporters import utils  # noqa: PLC0415 - not every transformers has it

        patch = getattr(utils, _PATCH)(getattr(masks, _EXPANSION))
    except (ImportError, AttributeError):
        yield
        return
    with attribute(masks, _EXPANSION, patch):
        yield
