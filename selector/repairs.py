"""What an eager error says about how a proposal should have been; tried before giving up."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from selector import input_rules, placeholders, sizing
from selector.cases import ExampleInputs, InputSpec
from selector.complaints import Complaint, complaints, places
from selector.facts import Facts
from selector.proposing import COMPUTED, NEVER, agree, insisting

UNEXPECTED = re.compile(r"unexpected keyword argument '(\w+)'")
TOO_SMALL = re.compile(r"image\b.*\btoo small", re.IGNORECASE)
IMAGE = ("height", "width")
MOST_SIZES = 3


def sure(proposal: ExampleInputs, error: Exception, facts: Facts) -> Iterator[ExampleInputs]:
    """Proposals that answer a complaint which says what is missing or too much."""
    text = str(error)
    yield from _without_constant(proposal, text)
    yield from placeholders.placed(proposal, error, facts)
    yield from _with_missing(proposal, _mentioned(text, error, facts), facts)
    yield from _reshaped(proposal, error, facts)
    yield from _enlarged(proposal, text)
    yield from insisting(proposal, facts)
    yield from placeholders.sought(proposal, error, facts)


def _without_constant(proposal: ExampleInputs, text: str) -> Iterator[ExampleInputs]:
    found = UNEXPECTED.search(text)
    if found and found[1] in proposal.constants:
        kept = {key: value for key, value in proposal.constants.items() if key != found[1]}
        yield replace(proposal, constants=kept)


def _reshaped(proposal: ExampleInputs, error: Exception, facts: Facts) -> Iterator[ExampleInputs]:
    """The same with the input that the error is about as the error wants it."""
    shapes = {spec.name: proposal.shape_of(spec) for spec in proposal.specs if spec.example is None}
    for complaint in complaints(error, shapes):
        for spec in _answers(complaint, proposal, facts):
            specs = tuple(spec if own.name == spec.name else own for own in proposal.specs)
            yield _resized(proposal, specs, facts)


def _answers(complaint: Complaint, proposal: ExampleInputs, facts: Facts) -> Iterator[InputSpec]:
    own = next(spec for spec in proposal.specs if spec.name == complaint.name)
    if complaint.shape is not None:
        yield from input_rules.as_documented(complaint.name, complaint.shape, facts)
        return
    rank = len(own.axes) if complaint.rank is None else complaint.rank
    fitting = [
        spec
        for spec in input_rules.alternatives(complaint.name, facts)
        if (complaint.rank is None or len(spec.axes) == rank)
        and all(spec.axes[index] == size for index, size in complaint.sizes.items())
    ]
    yield from fitting
    if not fitting and len(own.axes) == rank and complaint.sizes:
        axes = list(own.axes)
        for index, size in complaint.sizes.items():
            axes[index] = size
        yield replace(own, axes=tuple(axes))


def _enlarged(proposal: ExampleInputs, text: str) -> Iterator[ExampleInputs]:
    if TOO_SMALL.search(text) and "height" in proposal.sizes:
        yield replace(
            proposal,
            sizes={**proposal.sizes} | {axis: 2 * proposal.sizes[axis] for axis in IMAGE},
            other_sizes={
                axis: 2 * size if axis in IMAGE else size
                for axis, size in proposal.other_sizes.items()
            },
        )


def _mentioned(text: str, error: Exception, facts: Facts) -> list[str]:
    """Parameters of forward that the message names, or that were None where it failed."""
    if isinstance(error, AttributeError | TypeError) and "None" in text:
        return _none_where_it_failed(error, facts)
    named = [name for name in facts.parameters if re.search(rf"\b{name}\b", text)]
    missing = [name for name in named if re.search(rf"\b{name}\b\W*(is|are|was)\W+missing", text)]
    return missing or named


def _none_where_it_failed(error: Exception, facts: Facts) -> list[str]:
    found: list[str] = []
    for place in places(error):
        words = set(re.findall(r"\w+", place.source))
        found += [
            name
            for name in facts.parameters
            if name in words and place.values.get(name, name) is None
        ]
    return list(dict.fromkeys(found))


def _with_missing(
    proposal: ExampleInputs, names: Iterable[str], facts: Facts
) -> Iterator[ExampleInputs]:
    order = list(facts.parameters)
    for name in names:
        wanted = COMPUTED.get(name, name)
        if wanted in proposal.names or wanted in NEVER or wanted.endswith("_embeds"):
            continue
        for spec in input_rules.alternatives(wanted, facts):
            specs = sorted([*proposal.specs, spec], key=lambda item: order.index(item.name))
            yield _resized(proposal, specs, facts)


def _resized(proposal: ExampleInputs, specs: Sequence[InputSpec], facts: Facts) -> ExampleInputs:
    """The proposal with these specs instead, and sizes for their axes; known ones stay."""
    sizes, others = sizing.choose(
        specs, facts, imposed=input_rules.anchors(facts), given=proposal.sizes
    )
    kept = {
        axis: size
        for axis, size in others.items()
        if axis in proposal.other_sizes or axis not in proposal.sizes
    }
    known = {axis: size for axis, size in proposal.other_sizes.items() if axis in sizes}
    return replace(proposal, specs=agree(specs), sizes=sizes, other_sizes={**kept, **known})


def guessed_sizes(proposal: ExampleInputs, error: Exception) -> Iterator[ExampleInputs]:
    """Proposals where the error names one of our sizes, and perhaps the one it wants instead.

    Models check their inputs with a `ValueError`; torch's own errors name inner shapes.
    """
    text = str(error) if isinstance(error, ValueError) else ""
    numbers = list(dict.fromkeys(int(number) for number in re.findall(r"\d+", text)))
    ours = {size: axis for axis, size in proposal.sizes.items() if not axis.endswith("batch_size")}
    found = [ours[number] for number in numbers if number in ours]
    wanted = [number for number in numbers if number not in ours and number > 1]
    for axis in found[:1]:
        for size in wanted[:MOST_SIZES]:
            others = {key: value for key, value in proposal.other_sizes.items() if key != axis}
            yield replace(proposal, sizes={**proposal.sizes, axis: size}, other_sizes=others)
