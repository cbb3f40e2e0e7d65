"""Small baselines that behave like measured ones, made without exporting anything."""

from __future__ import annotations

import random
from pathlib import Path

from selector import baseline
from selector.control_flow import Finding
from selector.features import ModelFeatures
from strategies.base import VOID, Candidate
from strategies.registry import portfolio

FAMILIES = ("encoder", "decoder", "encoder-decoder", "cnn", "vision-transformer", "plain")
BRANCH = Finding(
    kind="branch", file="x/modeling_x.py", line=74, end_line=74, function="X.forward", source="if"
)
EXTRA_BYTES = {"usage_based": 5000, "htp": 6000, "fx": 9000}
SECONDS = {"usage_based": 0.5, "htp": 2.0, "fx": 6.0}
VOID_SHARE = 0.6


def model_features(
    family: str = "encoder", *, layers: int = 2, branches: bool = False, diffs: bool = False
) -> ModelFeatures:
    """Features of a model that branches on values or calls `diff`, or does neither."""
    return ModelFeatures(
        model_type=None if family == "plain" else family,
        architecture=f"{family.title()}Model",
        config_digest=f"{family}{layers}{branches}{diffs}",
        family=family,
        modalities=("text",),
        depth=layers,
        width=32,
        modules=10 * layers,
        parameters=10_000 * layers,
        parameter_bytes=40_000 * layers,
        value_dependent=branches,
        control_flow={"branch": int(branches), "config_branch": 20},
        findings=(BRANCH,) if branches else (),
        operators={"aten.addmm.default": 10 * layers, "aten.add.Tensor": 20 * layers},
        unknown_to={"torchscript": ("aten::diff",) if diffs else (), "torchlib": ()},
    )


def succeeds(features: ModelFeatures, candidate: Candidate) -> bool:
    """Tracing freezes branches, TorchScript lacks `diff`, and fx refuses branches."""
    if candidate.scripted:
        return features.value_dependent and features.family == "plain"
    if features.value_dependent:
        return False
    return candidate.strategy != "usage_based" or not features.unknown_to["torchscript"]


def records(*, families: tuple[str, ...] = FAMILIES, per_family: int = 6) -> list[baseline.Record]:
    """Every candidate on models of each family; every third branches or calls `diff`."""
    noise = random.Random(0)  # noqa: S311 - times that differ, not secrets
    made: list[baseline.Record] = []
    for family in families:
        for number in range(per_family):
            features = model_features(
                family, layers=2 + number, branches=number % 3 == 1, diffs=number % 3 == 2
            )
            made += [
                _record(f"{family}-{number}", features, candidate, noise)
                for candidate in portfolio(scripting=features.value_dependent)
            ]
    return made


def _record(
    model: str, features: ModelFeatures, candidate: Candidate, noise: random.Random
) -> baseline.Record:
    success = succeeds(features, candidate)
    seconds = SECONDS[candidate.strategy] * features.depth * noise.uniform(0.8, 1.25)
    seconds *= VOID_SHARE if candidate.weights == VOID else 1.0
    return baseline.Record(
        model=model,
        model_type=features.model_type,
        architecture=features.architecture,
        config_digest=features.config_digest,
        features=features.to_json(),
        candidate=baseline.CandidateRecord.of(candidate),
        success=success,
        stage=None if success else "verify",
        error_type=None if success else "VerificationError",
        export_seconds=seconds,
        verify_seconds=0.1,
        file_bytes=features.parameter_bytes + EXTRA_BYTES[candidate.strategy] * features.depth,
        traced_share={"usage_based": 0.9, "htp": 1.0, "fx": 0.95}[candidate.strategy],
        ort_latency_seconds=1e-3 if candidate.strategy == "fx" else 2e-3,
        seed=0,
    )


def write_baseline(path: Path, made: list[baseline.Record] | None = None) -> Path:
    """Writes them as a baseline file."""
    baseline.write(baseline.new_baseline(records() if made is None else made), path)
    return path
