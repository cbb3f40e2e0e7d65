"""The baseline JSON format: read, validate, write, merge; the seed's own format is read as well."""

from __future__ import annotations

import gzip
import json
import math
import os
import platform
import re
import tempfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from selector.errors import AnalysisError, InvalidRequestError
from selector.features import ModelFeatures
from strategies.base import Candidate

if TYPE_CHECKING:
    from selector.chain import Attempt
    from selector.verification import VerificationReport
    from strategies.base import ExportArtifact

SCHEMA_VERSION = 1
GZIP_MAGIC = b"\x1f\x8b"
FOLDERS = re.compile(r"(?<![\w./:])/(?:[\w.+@-]+/)+")
LONGEST_ERROR = 300
RUNS = "runs"
PACKAGES = ("torch", "transformers", "onnx", "onnxscript", "onnxruntime", "scikit-learn")


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class CandidateRecord(_Strict):
    """A candidate as JSON, see `strategies.base.Candidate`."""

    strategy: str = Field(min_length=1)
    dynamic: bool = True
    scripted: bool = False
    # Files from before there was a choice do not name it: they were made with real weights.
    weights: Literal["real", "void"] = "real"

    @classmethod
    def of(cls, candidate: Candidate) -> Self:
        """The record of a candidate."""
        return cls.model_validate(asdict(candidate))

    def candidate(self) -> Candidate:
        """The candidate itself."""
        return Candidate(**self.model_dump())


class Record(_Strict):
    """One candidate on one model.

    Attributes:
        model: Name or id, as the user would say it.
        model_type: The config's name for it.
        architecture: Name of the class.
        config_digest: SHA-256 of the config, see `architecture.config_digest`.
        features: `ModelFeatures.to_json`, or None where they are not known.
        candidate: What was tried.
        success: Whether a verified file came out.
        stage: Where it failed: prepare, capture, lower, save, verify, or attempt where its
            process was ended.
        error_type: Class of the error.
        error: Its message, on one line.
        export_seconds: Wall seconds up to the saved file, or to the failure.
        verify_seconds: Wall seconds of the verification.
        peak_rss_bytes: Largest resident memory of the attempt's process.
        file_bytes: Size of the file and its external data.
        nodes: Number of nodes in the file.
        traced_share: Share of nodes whose module the capture itself named, 0 to 1.
        max_abs_error: Largest absolute difference from eager PyTorch.
        dynamic_axes_ok: Whether every axis that may vary does; None for static candidates.
        ort_latency_seconds: Median seconds of one run of the example in ONNX Runtime.
        seed: Of the random weights, None for trained ones.
        run: Index of the run that measured it in the environment's `runs`.
    """

    model: str = Field(min_length=1)
    model_type: str | None = None
    architecture: str | None = None
    config_digest: str | None = None
    features: dict[str, Any] | None = None
    candidate: CandidateRecord
    success: bool
    stage: str | None = None
    error_type: str | None = None
    error: str | None = None
    export_seconds: float | None = Field(default=None, ge=0)
    verify_seconds: float | None = Field(default=None, ge=0)
    peak_rss_bytes: int | None = Field(default=None, ge=0)
    file_bytes: int | None = Field(default=None, ge=0)
    nodes: int | None = Field(default=None, ge=0)
    traced_share: float | None = Field(default=None, ge=0, le=1)
    max_abs_error: float | None = Field(default=None, ge=0)
    dynamic_axes_ok: bool | None = None
    ort_latency_seconds: float | None = Field(default=None, ge=0)
    seed: int | None = None
    run: int | None = Field(default=None, ge=0)

    @field_validator("features")
    @classmethod
    def _are_features(cls, values: dict[str, Any] | None) -> dict[str, Any] | None:
        if values is not None:
            try:
                ModelFeatures.from_json(values)
            except AnalysisError as error:
                raise ValueError(str(error)) from error
        return values

    def model_features(self) -> ModelFeatures | None:
        """The features, if the record has them."""
        return None if self.features is None else ModelFeatures.from_json(self.features)


class Unmeasured(_Strict):
    """A model that no candidate could be tried on.

    Attributes:
        model: Its name.
        stage: What failed: `load` (building or loading it), `study` (inputs, eager PyTorch),
            or `attempt`.
        error_type: Class of the error.
        error: Its message, on one line.
        run: See `Record`.
    """

    model: str = Field(min_length=1)
    stage: str
    error_type: str
    error: str | None = None
    run: int | None = Field(default=None, ge=0)

    @classmethod
    def of(cls, model: str, stage: str, error: BaseException) -> Self:
        """That a model failed at a stage."""
        return cls(model=model, stage=stage, error_type=type(error).__name__, error=one_line(error))


class Baseline(_Strict):
    """A file of records, and where they were measured.

    Attributes:
        schema_version: Of this form.
        created: Date and time, UTC.
        environment: See `environment`; collections add their `runs`, each with its settings
            and, where it is another one, its environment.
        unmeasured: Models that were wanted and have no records, with the reason.
        records: What was measured.
        notes: What was left out on reading; not in the file.
    """

    schema_version: Literal[1] = 1
    created: str
    environment: dict[str, Any] = Field(default_factory=dict)
    unmeasured: tuple[Unmeasured, ...] = ()
    records: tuple[Record, ...]
    notes: tuple[str, ...] = Field(default=(), exclude=True)


def record(  # noqa: PLR0913 - one keyword for each thing that was measured
    *,
    model: str,
    features: ModelFeatures | None,
    attempt: Attempt,
    artifact: ExportArtifact | None = None,
    report: VerificationReport | None = None,
    seed: int | None = None,
) -> Record:
    """The record of one measured attempt.

    Args:
        model: Name or id.
        features: Of the model; None where the analysis failed.
        attempt: What was tried, and how it ended.
        artifact: What the strategy wrote, if it got that far.
        report: What the verification found, if it got that far.
        seed: Of the random weights, None for trained ones.
    """
    error = attempt.error
    report = report or getattr(error, "report", None)
    verify_seconds = report.seconds if report else None
    errors = [item.max_abs_error for item in report.outputs] if report else []
    known_errors = [item for item in errors if item is not None and math.isfinite(item)]
    return Record(
        model=model,
        model_type=features.model_type if features else None,
        architecture=features.architecture if features else None,
        config_digest=features.config_digest if features else None,
        features=features.to_json() if features else None,
        candidate=CandidateRecord.of(attempt.candidate),
        success=attempt.outcome == "succeeded",
        stage=error.stage or None if error else None,
        error_type=type(error).__name__ if error else None,
        error=one_line(error) if error else None,
        export_seconds=max(attempt.seconds - (verify_seconds or 0.0), 0.0),
        verify_seconds=verify_seconds,
        peak_rss_bytes=attempt.peak_rss_bytes,
        file_bytes=artifact.file_bytes if artifact else None,
        nodes=artifact.nodes if artifact else None,
        traced_share=artifact.traced_share if artifact else None,
        max_abs_error=max(known_errors, default=None),
        dynamic_axes_ok=_dynamic_axes_ok(attempt.candidate, report),
        ort_latency_seconds=report.latency_seconds if report else None,
        seed=seed,
    )


def one_line(error: BaseException) -> str | None:
    """The first line of a message that says something, without the folders of this machine."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # `Validation error:`, and on the next line which.
    parts = 2 if lines and lines[0].endswith(":") else 1
    return FOLDERS.sub("", " ".join(lines[:parts]))[:LONGEST_ERROR] or None


def _dynamic_axes_ok(candidate: Candidate, report: VerificationReport | None) -> bool | None:
    if report is None or not candidate.dynamic:
        return None
    return report.ok and not report.frozen_axes


def new_baseline(records: Iterable[Record]) -> Baseline:
    """A baseline of these records, stamped with this moment and machine."""
    return Baseline(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        environment=environment(),
        records=tuple(records),
    )


def environment() -> dict[str, Any]:
    """Versions, processor, number of cores and bytes of memory of this machine."""
    return {
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "ram_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def read(path: Path) -> Baseline:
    """Reads a baseline, in this format or in one of the seed's (see `seed_format`).

    Raises:
        InvalidRequestError: The file cannot be read or is no baseline; the message names
            the record, counted from 1, and the field.
    """
    try:
        content = json.loads(_unpacked(Path(path).read_bytes()))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InvalidRequestError(f"the baseline {path} is cut off or damaged: {error}") from error
    except OSError as error:
        msg = f"the baseline {path} cannot be read: {error.strerror}"
        raise InvalidRequestError(msg) from error
    except ValueError as error:
        raise InvalidRequestError(f"the baseline {path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise InvalidRequestError(f"the baseline {path} is not a JSON object")
    if "schema_version" not in content and "records" not in content:
        from selector import seed_format  # noqa: PLC0415 - it imports this module

        return seed_format.read_seed(content, Path(path))
    return parse(content, Path(path))


def _unpacked(stored: bytes) -> bytes:
    return gzip.decompress(stored) if stored.startswith(GZIP_MAGIC) else stored


def parse(content: Mapping[str, Any], path: Path) -> Baseline:
    """Validates a decoded baseline.

    Raises:
        InvalidRequestError: Names the record, counted from 1, and the field.
    """
    given = content.get("schema_version")
    if given != SCHEMA_VERSION:
        msg = f"{path}: schema_version is {given!r}, and this version reads {SCHEMA_VERSION}"
        raise InvalidRequestError(msg)
    try:
        found = Baseline.model_validate(content)
    except ValidationError as error:
        raise InvalidRequestError(f"{path}: {_first_problem(error)}") from error
    _require_runs(found, path)
    return found


def _require_runs(baseline: Baseline, path: Path) -> None:
    runs = baseline.environment.get(RUNS, [])
    if not isinstance(runs, list) or not all(isinstance(run, dict) for run in runs):
        raise InvalidRequestError(f"{path}: environment.{RUNS} is no list of objects")
    told = {"record": [item.run for item in baseline.records]}
    told["unmeasured"] = [item.run for item in baseline.unmeasured]
    for kind, indices in told.items():
        for number, run in enumerate(indices, 1):
            if run is not None and run >= len(runs):
                msg = f"{path}: {kind} {number}, field run: there is no run {run}"
                raise InvalidRequestError(msg)


def _first_problem(error: ValidationError) -> str:
    """Which record and field is wrong, and how; one line."""
    problem = error.errors()[0]
    place: list[str] = [str(part) for part in problem["loc"]]
    where = ".".join(place)
    if len(place) > 1 and place[0] == "records":
        field = ".".join(place[2:])
        where = f"record {int(place[1]) + 1}" + (f", field {field}" if field else "")
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{where}: {problem['msg']}{more}"


def write(baseline: Baseline, path: Path) -> None:
    """Writes a baseline beside the target and moves it there, one record a line.

    A name that ends in `.gz` has it compressed; the same records give the same bytes.

    Raises:
        InvalidRequestError: The folder cannot be written, or a record is wrong.
    """
    content = baseline.model_dump(mode="json")
    parse(content, Path(path))
    lists = {name: content.pop(name) for name in ("unmeasured", "records")}
    text = json.dumps(content, allow_nan=False).removesuffix("}")
    for name, items in lists.items():
        lines = ",\n".join(json.dumps(item, allow_nan=False) for item in items)
        text += f', "{name}": [\n{lines}\n]' if items else f', "{name}": []'
    stored = (text + "}\n").encode()
    if Path(path).suffix == ".gz":
        stored = gzip.compress(stored, mtime=0)
    replace_file(Path(path), stored)


def replace_file(path: Path, content: bytes) -> None:
    """Puts a file in place as a whole or not at all.

    Raises:
        InvalidRequestError: The folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            file.write(content)
        Path(file.name).chmod(0o644)
        Path(file.name).replace(path)
    except OSError as error:
        raise InvalidRequestError(f"{path} cannot be written: {error.strerror}") from error


def merge(baselines: Sequence[Baseline]) -> Baseline:
    """One baseline of all records; of two on the same model and candidate the later one stays."""
    kept: dict[tuple[Any, ...], Record] = {}
    failed: dict[str, Unmeasured] = {}
    runs: list[dict[str, Any]] = []
    for baseline in baselines:
        for item in baseline.records:
            key = (item.model, item.config_digest, item.candidate, item.seed)
            kept[key] = item.model_copy(update=_moved(item.run, len(runs)))
        for refused in baseline.unmeasured:
            failed[refused.model] = refused.model_copy(update=_moved(refused.run, len(runs)))
        common = {name: told for name, told in baseline.environment.items() if name != RUNS}
        runs += ({"environment": common, **run} for run in baseline.environment.get(RUNS, ()))
    merged = new_baseline(kept.values())
    models = {item.model for item in merged.records}
    update = {
        "unmeasured": tuple(item for name, item in failed.items() if name not in models),
        "notes": tuple(note for baseline in baselines for note in baseline.notes),
        "environment": merged.environment | ({RUNS: runs} if runs else {}),
    }
    return merged.model_copy(update=update)


def _moved(run: int | None, by: int) -> dict[str, int | None]:
    return {"run": None if run is None else run + by}
