"""Reads the baselines of the seed document: its summary, and its detailed per-model form.

The summary:

    {"overall_success_rate": "66.7%",
     "strategy_performance": {"htp": {"success_rate": "100%", "avg_time": "22.34s"}, …},
     "model_compatibility": {"microsoft/resnet-50": ["htp", "usage_based"], …}}

The detailed form, at the top level or under `models`, `results` or `detailed_results`, as an
object by model or as a list whose items name their model:

    {"microsoft/resnet-50": {"strategies": {
        "htp": {"success": true, "export_time": 4.08, "file_size": 98520000},
        "fx": {"success": false, "export_time": 0.0, "error": "…"}}}, …}

where `strategies` may be left out. Both may stand in one file; the details then count. Times
and sizes may be numbers or text with a unit. A failure at 0 seconds, and `N/A`, is a time that
is not known. The seed wrote nothing but static files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selector.baseline import Baseline, CandidateRecord, Record, new_baseline
from selector.errors import AnalysisError, InvalidRequestError
from selector.features import ModelFeatures

if TYPE_CHECKING:
    from transformers import PretrainedConfig

SUMMARY_KEYS = frozenset({"overall_success_rate", "strategy_performance", "model_compatibility"})
DETAIL_KEYS = ("models", "results", "detailed_results")
NAME_KEYS = ("model", "model_id", "model_name", "name")
TIME_KEYS = ("export_time", "export_seconds", "time", "duration", "avg_time")
SIZE_KEYS = ("file_size", "file_bytes", "file_size_bytes", "size")
ERROR_KEYS = ("error", "error_message", "notes")
SECONDS = {"ms": 1e-3, "s": 1.0, "sec": 1.0, "seconds": 1.0, "min": 60.0}
BYTES = {"b": 1.0, "bytes": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9}
UNITS = SECONDS | BYTES | {"": 1.0}


def read_seed(content: Mapping[str, Any], path: Path) -> Baseline:
    """Records from either of the seed's forms, joined with features from each model's config.

    A model whose type cannot be told from its id is left out, with a note.

    Raises:
        InvalidRequestError: It is neither form.
    """
    found = list(_detailed(content)) or list(_summary(content, path))
    if not found:
        forms = "schema_version and records, model_compatibility, or strategies per model"
        raise InvalidRequestError(f"{path} is no baseline that is known: it lacks {forms}")
    known: dict[str, ModelFeatures] = {}
    notes: list[str] = []
    for model in dict.fromkeys(entry["model"] for entry in found):
        features = _features_of(model)
        if isinstance(features, ModelFeatures):
            known[model] = features
        else:
            notes.append(f"{path}: {model} is left out: {features}")
    records = [_record(entry, known[entry["model"]]) for entry in found if entry["model"] in known]
    return new_baseline(records).model_copy(update={"notes": tuple(notes)})


def _record(entry: Mapping[str, Any], features: ModelFeatures) -> Record:
    return Record(
        **entry,
        model_type=features.model_type,
        architecture=features.architecture,
        config_digest=features.config_digest,
        features=features.to_json(),
    )


def _summary(content: Mapping[str, Any], path: Path) -> Iterator[dict[str, Any]]:
    compatible = content.get("model_compatibility")
    performance = content.get("strategy_performance", {})
    if compatible is None:
        return
    if not isinstance(compatible, Mapping) or not isinstance(performance, Mapping):
        msg = f"{path}: model_compatibility and strategy_performance must be objects"
        raise InvalidRequestError(msg)
    listed = [name for names in compatible.values() for name in names]
    for model, succeeded in compatible.items():
        for strategy in dict.fromkeys([*performance, *listed]):
            success = strategy in succeeded
            # The average is over successes, so it says nothing about a failure.
            seconds = _number(performance.get(strategy, {}).get("avg_time")) if success else None
            yield _entry(model, strategy, success=success, seconds=seconds)


def _detailed(content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for model, strategies in _models(content):
        for strategy, result in strategies.items():
            if not isinstance(result, Mapping) or not isinstance(result.get("success"), bool):
                continue
            success, seconds = result["success"], _number(_first(result, TIME_KEYS))
            entry = _entry(model, strategy, success=success, seconds=seconds)
            if success and (size := _number(_first(result, SIZE_KEYS))):
                entry["file_bytes"] = int(size)
            if not success and (error := _first(result, ERROR_KEYS)):
                entry["error"] = str(error).splitlines()[0]
            yield entry


def _models(content: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Model ids with their results by strategy."""
    inner = _first(content, DETAIL_KEYS)
    if isinstance(inner, list):
        named = [(_first(item, NAME_KEYS), item) for item in inner if isinstance(item, Mapping)]
    elif isinstance(inner, Mapping):
        named = list(inner.items())
    else:
        named = [(key, item) for key, item in content.items() if key not in SUMMARY_KEYS]
    for name, item in named:
        if isinstance(name, str) and isinstance(item, Mapping):
            strategies = item.get("strategies", item)
            if isinstance(strategies, Mapping):
                yield name, strategies


def _entry(model: str, strategy: str, *, success: bool, seconds: float | None) -> dict[str, Any]:
    return {
        "model": model,
        "candidate": CandidateRecord(strategy=strategy.replace("-", "_").lower(), dynamic=False),
        "success": success,
        "export_seconds": seconds if success or seconds else None,
    }


def _first(values: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((values[name] for name in names if values.get(name) is not None), None)


def _number(value: object) -> float | None:
    """A number, also from text such as `22.34s` or `93.96 MB`; None for `N/A`."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    match = re.fullmatch(r"\s*([\d.]+)\s*([a-zA-Z]*)\s*", value) if isinstance(value, str) else None
    if match is None or match[2].lower() not in UNITS:
        return None
    try:
        return float(match[1]) * UNITS[match[2].lower()]
    except ValueError:
        return None


def _features_of(model: str) -> ModelFeatures | str:
    """Features from the default config of the type that the id names, or why there are none."""
    from selector.analysis import features_from_config  # noqa: PLC0415 - imports torch

    config = config_for(model)
    if config is None:
        return "no model type that transformers knows is part of its id"
    try:
        return features_from_config(config)
    except AnalysisError as error:
        return str(error)


def config_for(model: str) -> PretrainedConfig | None:
    """The default config of the model type whose name stands in a model id, the longest one.

    `microsoft/resnet-50` names resnet and `facebook/sam-vit-base` both sam and vit: of those
    equally long the one that comes first in the id counts.
    """
    from transformers import CONFIG_MAPPING  # noqa: PLC0415 - takes seconds

    words = _words(model.rpartition("/")[2])
    spelled = {tuple(_words(name)): name for name in CONFIG_MAPPING}
    spans = [
        (-(end - start), start, spelled[words[start:end]])
        for start in range(len(words))
        for end in range(start + 1, len(words) + 1)
        if words[start:end] in spelled
    ]
    if not spans:
        return None
    config: PretrainedConfig = CONFIG_MAPPING[min(spans)[2]]()
    return config


def _words(name: str) -> tuple[str, ...]:
    return tuple(part for part in re.split(r"[-_./]+", name.lower()) if part)
