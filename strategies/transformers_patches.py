"""What `transformers.exporters` knows about exporting its models, for the time of a capture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from strategies.compositions import complex_pairs
from strategies.errors import StrategyUnavailableError
from strategies.exportable import exportable
from strategies.packed_vision import PackedVision

Translations = Mapping[Callable[..., Any], Callable[..., Any]]


@contextmanager
def patched_for_export(model: nn.Module, *, open_loops: bool = False) -> Iterator[Translations]:
    """Applies the patches of transformers to its own models; yields its ONNX translations.

    To other modules only ours apply: some of those change what general torch functions
    accept. Its preparation of inputs is not used, as it adds inputs that forward lacks.

    Args:
        model: Is put back as it was.
        open_loops: Whether subscripts may have symbols in them that are loops' numbers.

    Raises:
        StrategyUnavailableError: The installed transformers has no such exporters.
    """
    from strategies import loop_keys  # noqa: PLC0415 - it imports private parts of torch

    keys = loop_keys.SUBSCRIPTS if open_loops else {}
    if not any(_is_from_transformers(module) for module in model.modules()):
        with exportable(model, plain_attention=False, replacements=keys):
            yield {}
        return
    try:
        from transformers.exporters import exporter_dynamo, utils  # noqa: PLC0415 - slow, and plain modules do not need it

        translations = load_translations()
    except (ImportError, AttributeError) as error:
        msg = f"this transformers lacks the exporters that fx builds on: {error}"
        raise StrategyUnavailableError(
            msg, stage="prepare", hint="install the version that constraints.txt names"
        ) from error
    from strategies import noted_values, pieces, scans  # noqa: PLC0415 - they import private parts of torch

    packed = PackedVision(model)
    with (
        utils.apply_patches("onnx"),
        utils.apply_patches("dynamo"),
        noted_values.complete(),
        exporter_dynamo.reset_model_state(model),
        # torch.onnx takes no lowerings of ours for operators on complex numbers.
        exportable(model, plain_attention=False, replacements={**keys, **complex_pairs.TABLE}),
        packed.applied(),
        scans.kept_whole(model),
        scans.solved_at_once(model),
        pieces.kept_together(),
    ):
        yield translations


def translations_for(model: nn.Module) -> Translations:
    """The operators that transformers lowers otherwise, where the model is made of its parts."""
    if not any(_is_from_transformers(module) for module in model.modules()):
        return {}
    try:
        return load_translations()
    except (ImportError, AttributeError):
        return {}


def load_translations() -> Translations:
    """The operators that transformers lowers otherwise than torchlib; importing them is slow.

    Raises:
        ImportError, AttributeError: The installed transformers does not have them.
    """
    from transformers.exporters import exporter_onnx  # noqa: PLC0415 - slow, as above

    # There is no public name for the table.
    table: Translations = exporter_onnx._ONNX_TRANSLATION_TABLE  # noqa: SLF001
    return table


def _is_from_transformers(module: nn.Module) -> bool:
    return any(base.__module__.startswith("transformers.") for base in type(module).__mro__)
