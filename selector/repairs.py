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
    for complaint, own in _complaints(proposal, error):
        for spec in _answers(own, complaint, proposal, facts):
            specs = tuple(spec if one is own else one for one in proposal.specs)
            yield _resized(proposal, specs, facts)


def _answers(
    own: InputSpec, complaint: Complaint, proposal: ExampleInputs, facts: Facts
) -> Iterator[InputSpec]:
    """Other ways to make the input up that the complaint asks for."""
    if complaint.shape is not None:
        yield from input_rules.as_documented(complaint.name, complaint.shape, facts)
        return
    fitting = _fitting(complaint, proposal, facts)
    yield from fitting
    fixed = complaint.sizes and all(isinstance(own.axes[index], int) for index in complaint.sizes)
    if not fitting and fixed and len(own.axes) == (complaint.rank or len(own.axes)):
        axes = list(own.axes)
        for index, size in complaint.sizes.items():
            axes[index] = size
        yield replace(own, axes=tuple(axes))


def _fitting(complaint: Complaint, proposal: ExampleInputs, facts: Facts) -> list[InputSpec]:
    like = next((spec.axes for spec in proposal.specs if spec.name == complaint.like), ())
    return [
        spec
        for spec in input_rules.alternatives(complaint.name, facts)
        if (complaint.rank is None or len(spec.axes) == complaint.rank)
        and spec.axes[: len(like)] == like
        and all(spec.axes[index] == size for index, size in complaint.sizes.items())
    ]


def guessed_axes(
    proposal: ExampleInputs, error: Exception, facts: Facts
) -> Iterator[ExampleInputs]:
    """The same with the wanted sizes of axes that have a name, which then are fixed."""
    for complaint, own in _complaints(proposal, error):
        if len(own.axes) != (complaint.rank or len(own.axes)):
            continue
        wanted = {own.axes[index]: size for index, size in complaint.sizes.items()}
        named = {axis: size for axis, size in wanted.items() if isinstance(axis, str)}
        if named and named.keys() == wanted.keys() and not _fitting(complaint, proposal, facts):
            others = {key: size for key, size in proposal.other_sizes.items() if key not in named}
            yield replace(proposal, sizes={**proposal.sizes, **named}, other_sizes=others)


def _complaints(proposal: ExampleInputs, error: Exception) -> Iterator[tuple[Complaint, InputSpec]]:
    specs = {spec.name: spec for spec in proposal.specs if spec.example is None}
    shapes = {name: proposal.shape_of(spec) for name, spec in specs.items()}
    for complaint in complaints(error, shapes):
        yield complaint, specs[complaint.name]


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
