"""What a module says about its inputs: forward's signature, docstring, config and dtype."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from selector.config_lookup import AUDIO, VISION, find, find_int
from selector.shape_docs import DocumentedShape, documented_shapes

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig

PART = re.compile(r"get_\w+_features")
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)

# Small sizes that no model minds, so that an axis of images has distinct ones even
# where the config names none; multiples of 32, the deepest usual down-sampling.
FREE_HEIGHT, FREE_WIDTH = 64, 96

# Samples per step of a speech encoder at 16 kHz and 50 steps a second.
USUAL_HOP = 320


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything that the rules for inputs look at.

    Attributes:
        class_name: Name of the module's class, for messages.
        parameters: Forward's parameters by name, variadic ones left out.
        open_ended: Whether forward takes arbitrary keywords.
        main_inputs: `main_input_name`, which transformers models declare.
        docs: Documented shapes by parameter.
        config: The model's config, or None for a plain module.
        float_dtype: dtype of the parameters, which floating inputs must share.
        embeddings: Rows of the input embedding, or None where there is none.
    """

    class_name: str
    parameters: Mapping[str, inspect.Parameter]
    open_ended: bool
    main_inputs: tuple[str, ...]
    docs: Mapping[str, tuple[DocumentedShape, ...]]
    config: PretrainedConfig | None
    float_dtype: str
    embeddings: int | None

    @property
    def required(self) -> tuple[str, ...]:
        """Parameters without a default."""
        return tuple(
            name
            for name, parameter in self.parameters.items()
            if parameter.default is inspect.Parameter.empty
        )

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Height and width that the config names, or None."""
        size = find(
            self.config, "image_size", "img_size", "max_img_size", "input_size", near=VISION
        )
        if isinstance(size, dict):
            size = (size.get("height"), size.get("width"))
        if isinstance(size, int):
            size = (size, size)
        if not isinstance(size, list | tuple) or len(size) != 2 or self.patchless(size[0]):
            return None
        return int(size[0]), int(size[1])

    @staticmethod
    def patchless(size: object) -> bool:
        """Whether a config's number is too small to be an image's (time series say 1)."""
        return not isinstance(size, int) or size < 4

    @property
    def patch_size(self) -> int:
        """Side of an image patch, 1 where the config names none."""
        return find_int(self.config, "patch_size", near=VISION) or 1

    @property
    def hop(self) -> int:
        """Audio samples that become one step of the encoder."""
        strides = find(self.config, "conv_stride", "upsampling_ratios", near=AUDIO)
        if isinstance(strides, list | tuple) and strides:
            return math.prod(int(stride) for stride in strides)
        return find_int(self.config, "hop_length", near=AUDIO) or USUAL_HOP


def gather(module: nn.Module, config: PretrainedConfig | None) -> Facts:
    """Reads the facts off a module; runs nothing."""
    parameters = inspect.signature(module.forward).parameters
    main = getattr(module, "main_input_name", None) or ()
    return Facts(
        class_name=type(module).__name__,
        parameters={
            name: parameter
            for name, parameter in parameters.items()
            if parameter.kind not in VARIADIC
        },
        open_ended=any(parameter.kind in VARIADIC for parameter in parameters.values()),
        main_inputs=(main,) if isinstance(main, str) else tuple(main),
        docs=_docs(module),
        config=config,
        float_dtype=_float_dtype(module),
        embeddings=_embeddings(module),
    )


def _docs(module: nn.Module) -> dict[str, tuple[DocumentedShape, ...]]:
    """Shapes that forward documents, and behind them those of its parts for one modality."""
    parts = [name for name in dir(type(module)) if PART.fullmatch(name)]
    found: dict[str, tuple[DocumentedShape, ...]] = {}
    for name in ("forward", *parts):
        for key, shapes in documented_shapes(inspect.getdoc(getattr(module, name))).items():
            found[key] = tuple(dict.fromkeys((*found.get(key, ()), *shapes)))
    return found


def _float_dtype(module: nn.Module) -> str:
    for parameter in module.parameters():
        if parameter.is_floating_point():
            return str(parameter.dtype).removeprefix("torch.")
    return "float32"


def _embeddings(module: nn.Module) -> int | None:
    rows = [
        size
        for child in module.modules()
        if isinstance(size := getattr(child, "num_embeddings", None), int)
    ]
    if not hasattr(module, "get_input_embeddings"):
        return min(rows, default=None)
    try:
        get = cast("Callable[[], nn.Module]", module.get_input_embeddings)
        size = getattr(get(), "num_embeddings", None)
    except (NotImplementedError, AttributeError):
        return None
    return size if isinstance(size, int) else None
