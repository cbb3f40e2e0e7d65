"""`ModelFeatures`: what the ranking knows about a model, as plain data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from selector.control_flow import KINDS, Finding
from selector.errors import AnalysisError

FAMILIES = (
    "encoder",
    "decoder",
    "encoder-decoder",
    "cnn",
    "vision-transformer",
    "detection",
    "audio",
    "multimodal",
    "state-space",
    "moe",
    "rnn",
    "plain",
)
# Of `ControlFlow.counts`.
SIZE_KINDS = ("shape_branch", "shape_loop")
# Of the places that depend on values, those that read them; computed indices do not.
READING = frozenset(KINDS) - {"index"}
# How the note begins that names classes without source.
UNREAD = "no source could be read for"
MODALITIES = ("text", "vision", "audio", "video", "layout", "time-series")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFeatures:
    """What a model is, what its forward does, and which lowerings know its operators.

    Reading source and config is cheap; recording a forward costs several times that. So what
    only a recorded forward tells may be missing: `weight_dependent`, `operators`, `unknown_to`,
    and whether a branch on values that the source shows is ever reached.

    Attributes:
        model_type: The config's name for it, or None for a plain module.
        architecture: Name of the class.
        config_digest: SHA-256 of the config, which identifies it in baselines.
        family: One of `FAMILIES`.
        modalities: Of the inputs, some of `MODALITIES`.
        depth: Number of repeated layers.
        width: Size of the hidden state.
        axes: Names of the inputs' axes that may vary, sorted.
        modules: Number of modules in the tree, the root included.
        parameters: Number of parameters, shared ones counted once.
        parameter_bytes: Their size.
        varying: At which other sizes forward calls another number of torch functions than on
            the example, labels of `plans`: a loop over pieces, a branch on a size. None where
            it was not run at any.
        value_dependent: Whether the forward branches or loops on tensor values on the way
            that the example inputs take (without inputs: on any way).
        weight_dependent: Whether forward needs values that depend on the weights' to get on.
        control_flow: Places in the forwards' source by kind, see `control_flow.ControlFlow`.
        findings: The worst of the places that depend on values.
        operators: How often each aten operator ran in one forward, by name.
        unknown_to: For each lowering the operators that it has nothing for.
        notes: What could not be found out, and why.
    """

    model_type: str | None
    architecture: str
    config_digest: str | None = None
    family: str
    modalities: tuple[str, ...] = ()
    axes: tuple[str, ...] = ()
    depth: int = 0
    width: int = 0
    modules: int = 0
    parameters: int = 0
    parameter_bytes: int = 0
    varying: tuple[str, ...] | None = None
    value_dependent: bool = False
    weight_dependent: bool = False
    control_flow: Mapping[str, int] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    operators: Mapping[str, int] = field(default_factory=dict)
    unknown_to: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def recorded(self) -> bool:
        """Whether a forward was recorded; else operators and what goes with them are not known."""
        return bool(self.operators)

    @property
    def source_suffices(self) -> bool:
        """Whether nothing in the source hints at values that decide, so that no run has to tell.

        Then recording a forward adds operators only.
        """
        unread = any(note.startswith(UNREAD) for note in self.notes)
        return not unread and not any(self.control_flow.get(kind) for kind in READING)

    def as_read(self) -> ModelFeatures:
        """The same without what only a recorded forward tells, where the source suffices."""
        return replace(
            self, value_dependent=False, weight_dependent=False, operators={}, unknown_to={},
            notes=(),
        )  # fmt: skip

    @property
    def size_dependent(self) -> bool:
        """Whether some forward branches or loops on sizes."""
        return any(self.control_flow.get(kind) for kind in SIZE_KINDS)

    def to_json(self) -> dict[str, Any]:
        """The features as JSON values; `from_json` reads them back."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ModelFeatures:
        """Reads what `to_json` wrote; a field that is missing keeps its default.

        Raises:
            AnalysisError: A field is unknown, required and missing, or of another type.
        """
        unknown = values.keys() - {item.name for item in fields(cls)}
        if unknown:
            raise AnalysisError(
                f"these are not model features: unknown {', '.join(sorted(unknown))}"
            )
        try:
            lists = ("modalities", "axes", "varying", "notes")
            return cls(
                **{
                    **values,
                    **{name: tuple(values[name]) for name in lists if values.get(name) is not None},
                    "findings": tuple(Finding(**item) for item in values.get("findings", ())),
                    "unknown_to": {
                        name: tuple(names) for name, names in values.get("unknown_to", {}).items()
                    },
                }
            )
        except (TypeError, AttributeError) as error:
            raise AnalysisError(f"these are not model features: {error}") from error
