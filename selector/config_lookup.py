"""Looks sizes up in a config by any of the names they go by, sub-configs included."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PretrainedConfig

TEXT = ("text", "language", "llm", "decoder", "thinker")
VISION = ("vision", "image", "visual", "backbone", "encoder")
AUDIO = ("audio", "speech", "encoder")

SPECIAL_SUFFIXES = ("_token_id", "_token_index", "_token_ids")


def scopes(config: PretrainedConfig | None) -> Iterator[tuple[str, PretrainedConfig]]:
    """The config and every config inside it, breadth first, with the dotted path to each."""
    queue = [("", config)] if config is not None else []
    while queue:
        path, scope = queue.pop(0)
        yield path, scope
        queue += [
            (f"{path}.{name}".lstrip("."), value)
            for name, value in vars(scope).items()
            if hasattr(value, "to_diff_dict") and hasattr(value, "model_type")
        ]


def find(config: PretrainedConfig | None, *names: str, near: tuple[str, ...] = ()) -> Any:
    """The value of the first of these attributes that is set, or None.

    Args:
        config: Where to look; attributes that the config maps to others are followed.
        names: Attribute names, the likeliest first.
        near: Sub-configs whose path contains one of these words come before the rest.
    """
    found = list(scopes(config))
    preferred = [scope for word in near for path, scope in found if word in path]
    for scope in [*preferred, *(scope for _, scope in found)]:
        for name in names:
            value = getattr(scope, name, None)
            if value is not None:
                return value
    return None


def find_int(
    config: PretrainedConfig | None, *names: str, near: tuple[str, ...] = ()
) -> int | None:
    """As `find`, for whole numbers only; of a list, its first."""
    value = find(config, *names, near=near)
    if isinstance(value, list | tuple) and value:
        value = value[0]
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def special_tokens(config: PretrainedConfig | None) -> tuple[int, ...]:
    """Every id that a config gives a meaning of its own, sorted."""
    found: set[int] = set()
    for _, scope in scopes(config):
        for name, value in vars(scope).items():
            if name.endswith(SPECIAL_SUFFIXES):
                ids = value if isinstance(value, list | tuple) else [value]
                found.update(item for item in ids if isinstance(item, int))
    return tuple(sorted(found))
