"""Example inputs for any model, from its forward signature and config; the axes that may vary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from selector.cases import FILLS, STYLES, ExampleInputs, InputSpec, ShapeDtype, TokenRules
from selector.errors import InvalidRequestError
from selector.input_options import load_npz, parse_input_option
from strategies.base import first_line

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig

    from selector.eager import Eager
    from selector.facts import Facts
    from selector.probing import Repair

__all__ = [
    "FILLS",
    "STYLES",
    "ExampleInputs",
    "InputSpec",
    "ShapeDtype",
    "TokenRules",
    "load_npz",
    "make_inputs",
    "parse_input_option",
]


def make_inputs(  # noqa: PLR0913 - one keyword per thing that a user may say about inputs
    module: nn.Module,
    config: PretrainedConfig | None,
    *,
    task: str | None = None,
    given: object = None,
    dynamic: bool = True,
    processor_names: Sequence[str] = (),
    eager: Eager | None = None,
) -> ExampleInputs:
    """Makes up inputs that eager accepts, and finds the axes that may vary.

    Args:
        module: In eval mode; runs a few times, usually two.
        config: Where sizes and vocabularies come from; None for a plain module.
        task: What the model is for; a text task leaves images and sounds out.
        given: The user's own inputs, which come before made-up ones: forward's names to
            tensors, arrays, `ShapeDtype`s, Python scalars, or None to leave an input out;
            a single tensor or a sequence is taken positionally.
        dynamic: Whether to look for axes that may vary.
        processor_names: The inputs that the model's tokenizer or processor makes.
        eager: Runs the module, and remembers what it answered; by default with real weights.

    Raises:
        InvalidRequestError: An input cannot be made up, or a given one does not fit;
            the message names it and shows how to pass it.
    """
    # These import torch, which asking for --help must not.
    from torch import nn as torch_nn  # noqa: PLC0415

    from selector import given as users  # noqa: PLC0415
    from selector import input_rules, placeholders, probing, proposing, repairs  # noqa: PLC0415
    from selector.eager import Eager  # noqa: PLC0415
    from selector.facts import gather  # noqa: PLC0415

    if type(module).forward is torch_nn.Module.forward and "forward" not in vars(module):
        raise InvalidRequestError(_without_forward(module))
    eager = eager or Eager(module)
    facts = gather(module, config)
    asked = users.normalise(given, facts)
    wanted, droppable = proposing.wanted_names(
        facts, task=task, processor_names=processor_names, given=asked
    )
    ruled = {name: input_rules.alternatives(name, facts) for name in wanted}
    own, own_sizes = users.specs_of_given(asked, facts, ruled)
    specs_of = {**(ruled if config is not None else {}), **{k: [v] for k, v in own.items()}}
    names = _known(wanted, specs_of, facts)
    settled, notes, error = None, [], None
    for kept in proposing.without_droppable(names, droppable):
        settled, refused = probing.settle(
            eager,
            proposing.proposals(
                kept,
                facts,
                specs_of=specs_of,
                given_sizes=own_sizes,
                bound=proposing.constants(facts, asked),
            ),
            [
                partial(_sparing, own, repair)
                for repair in (
                    partial(repairs.sure, facts=facts),
                    repairs.guessed_sizes,
                    partial(repairs.guessed_axes, facts=facts),
                )
            ],
        )
        error = error or refused
        if settled is not None:
            notes = [_left_out(name) for name in names if name not in settled.names]
            break
    if settled is None:
        raise _refused(names, specs_of, facts, error, own) from error
    for better in placeholders.unplaced(settled, facts):
        if eager.refusal(better) is None:
            settled = better
    if own:
        settled = probing.without_refused_draws(eager, settled)
    settled = replace(settled, notes=tuple(notes))
    if not dynamic:
        return replace(settled, other_sizes={})
    return probing.widen_ones(eager, probing.confirm(eager, settled))


def _sparing(
    own: Mapping[str, InputSpec],
    repair: Repair,
    refused: ExampleInputs,
    error: Exception,
) -> Iterator[ExampleInputs]:
    """The better proposals that leave the shapes alone which the user gave."""
    shapes = {spec.name: refused.shape_of(spec) for spec in refused.specs if spec.name in own}
    for better in repair(refused, error):
        kept = {spec.name: better.shape_of(spec) for spec in better.specs if spec.name in own}
        if kept == shapes:
            yield better


def _known(
    wanted: Sequence[str], specs_of: Mapping[str, Sequence[InputSpec]], facts: Facts
) -> tuple[str, ...]:
    for name in wanted:
        if not specs_of.get(name) and name in facts.required:
            raise InvalidRequestError(_how_to_pass(facts.class_name, name, "2x8", "float32"))
    names = tuple(name for name in wanted if specs_of.get(name))
    if not names:
        name = next(iter(facts.parameters), "x")
        raise InvalidRequestError(_how_to_pass(facts.class_name, name, "2x8", "float32"))
    return names


def _without_forward(module: nn.Module) -> str:
    parts = ", ".join(name for name, _ in module.named_children()) or "none"
    return f"{type(module).__name__} has no forward; export one of its parts instead: {parts}"


def _how_to_pass(class_name: str, name: str, shape: str, dtype: str) -> str:
    return (
        f"cannot make up input {name!r} of {class_name}; pass it: "
        f'inputs={{"{name}": tensor}} or --input {name}={shape}:{dtype}'
    )


def _left_out(name: str) -> str:
    return f"input {name} left out: the model refused made-up values for it; pass it to include it"


def _refused(
    names: Sequence[str],
    specs_of: Mapping[str, Sequence[InputSpec]],
    facts: Facts,
    error: Exception | None,
    own: Mapping[str, InputSpec],
) -> InvalidRequestError:
    reason = first_line(error) if error else "nothing to try"
    if own:
        told = ", ".join(
            f"{name} {spec.dtype} {'x'.join(map(str, spec.example.shape))}"
            if spec.example is not None
            else f"{name} {spec.dtype}"
            for name, spec in own.items()
        )
        return InvalidRequestError(
            f"{facts.class_name} refused the given inputs ({told}): {reason}"
        )
    # These import torch, which asking for --help must not.
    from selector import input_rules, sizing  # noqa: PLC0415

    main = next((name for name in facts.main_inputs if name in names), names[0])
    spec = specs_of[main][0]
    sizes, _ = sizing.choose([spec], facts, imposed=input_rules.anchors(facts), given={})
    shape = "x".join(str(sizes.get(str(axis), axis)) for axis in spec.axes)
    return InvalidRequestError(
        f"{_how_to_pass(facts.class_name, main, shape, spec.dtype)} ({reason})"
    )
