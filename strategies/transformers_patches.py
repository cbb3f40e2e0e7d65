"""What `transformers.exporters` knows about exporting its models, for the time of a capture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from strategies.errors import StrategyUnavailableError

Translations = Mapping[Callable[..., Any], Callable[..., Any]]


@contextmanager
def patched_for_export(model: nn.Module) -> Iterator[Translations]:
    """Applies the patches of transformers to its own models; yields its ONNX translations.

    Other modules are left alone: some of the patches change what general torch functions
    accept. Its preparation of inputs is not used, as it adds inputs that forward lacks.

    Raises:
        StrategyUnavailableError: The installed transformers has no such exporters.
    """
    if not any(_is_from_transformers(module) for module in model.modules()):
        yield {}
        return
    try:
        from transformers.exporters import exporter_dynamo, exporter_onnx, utils  # noqa: PLC0415 - slow, and plain modules do not need it

        # There is no public name for the table.
        translations: Translations = exporter_onnx._ONNX_TRANSLATION_TABLE  # noqa: SLF001
    except (ImportError, AttributeError) as error:
        msg = f"this transformers lacks the exporters that fx builds on: {error}"
        raise StrategyUnavailableError(
            msg, hint="install the version constraints.txt names"
        ) from error
    with (
        utils.apply_patches("onnx"),
        utils.apply_patches("dynamo"),
        exporter_dynamo.reset_model_state(model),
        _lowerable_experts(model),
    ):
        yield translations


def _is_from_transformers(module: nn.Module) -> bool:
    return any(base.__module__.startswith("transformers.") for base in type(module).__mro__)


@contextmanager
def _lowerable_experts(model: nn.Module) -> Iterator[None]:
    """Computes mixtures of experts by batched products, as grouped ones have no ONNX form."""
    choose = getattr(model, "set_experts_implementation", None)
    current = getattr(getattr(model, "config", None), "_experts_implementation", None)
    if choose is None or current in (None, "batched_mm"):
        yield
        return
    choose("batched_mm")
    try:
        yield
    finally:
        choose(current)
