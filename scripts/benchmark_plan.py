"""What the benchmark measures: sections, their models and sides, and the order of the runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

OURS = "autoexport"
LINKED = "autoexport-link"
VERIFIED = "autoexport-verified"
UNVERIFIED = "autoexport-unverified"
PARTS = "parts"
COMMAND = "command"
BARE = "bare"

# Exporters in one process each; ours first, as the others are held against it.
EXPORTERS = (
    OURS,
    LINKED,
    "dynamo",
    "dynamo-static",
    "torchscript",
    "transformers",
    "transformers-static",
)
TITLES = {
    OURS: "autoexport",
    LINKED: 'autoexport, `weights="link"`',
    VERIFIED: "`auto_export`, verified",
    UNVERIFIED: '`auto_export`, `verify="off"`',
    "dynamo": "`dynamo=True`",
    "dynamo-static": "`dynamo=True`, static",
    "torchscript": "`dynamo=False`",
    "transformers": "`transformers.exporters`, `dynamic=True`",
    "transformers-static": "`transformers.exporters`, static",
}

REAL = (
    "resnet-50",
    "bert-base",
    "vit-base",
    "clip",
    "t5-base",
    "whisper-small",
    "llama-0.85b",
    "sam-vit-base",
)
LAYERS = (2, 4, 8, 16, 32, 64)
WIDTHS = (256, 512, 1024, 2048, 4096)
SEVEN_B = ("llama-7b-float32", "llama-7b-float16")
MINILM = "minilm"
# Whatever side runs first in a process of its own tells here which modules it imports.
REHEARSAL = "tiny-bert"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One run of one side on one model, in a fresh process.

    Attributes:
        section: Key of `SECTIONS`, or `rehearsal`.
        model: A name that `benchmark_models` knows.
        side: What runs.
        round: From 1; the runs of one round are pairs.
    """

    section: str
    model: str
    side: str
    round: int

    def __str__(self) -> str:
        return f"{self.section} {self.model} {self.side} {self.round}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the benchmark that can run alone.

    Attributes:
        models: Their names.
        sides: In the order in which they take turns.
        once: Sides that run in the first round only, as nothing but a picture hangs on them.
        one_thread: Whether the runs get one thread each, so that CPU seconds hold no spinning.
        forked: Whether a run's process is forked from one that has imported what its side
            imports, and has done nothing else; else it is started anew.
    """

    models: tuple[str, ...]
    sides: tuple[str, ...]
    once: frozenset[str] = frozenset()
    one_thread: bool = True
    forked: bool = False


def sections(tiny: Sequence[str]) -> dict[str, Section]:
    """All sections in the order in which they run; `tiny` names the models of the zoo."""
    return {
        "export": Section(models=REAL, sides=EXPORTERS),
        "7b": Section(models=SEVEN_B, sides=(OURS, LINKED)),
        "scaling": Section(
            models=(
                *(f"layers-{count}" for count in LAYERS),
                *(f"width-{width}" for width in WIDTHS),
            ),
            sides=(OURS, "dynamo", "torchscript"),
            once=frozenset({"dynamo", "torchscript"}),
        ),
        "verified": Section(models=REAL, sides=(UNVERIFIED, VERIFIED, PARTS), one_thread=False),
        "command": Section(models=(MINILM,), sides=(COMMAND, BARE), one_thread=False),
        "tiny": Section(
            models=tuple(f"tiny-{name}" for name in tiny),
            sides=tuple(side for side in EXPORTERS if side != LINKED),
            forked=True,
        ),
    }


def tasks(name: str, section: Section, rounds: int) -> Iterator[Task]:
    """Round by round over all models, the sides taking turns on each."""
    for number in range(1, rounds + 1):
        for model in section.models:
            for side in section.sides:
                if number == 1 or side not in section.once:
                    yield Task(section=name, model=model, side=side, round=number)
