"""What an eager error says about how a proposal should have been; tried before giving up."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from selector import input_rules, placeholders, sizing
from selector.cases import ExampleInputs, InputSpec
from selector.complaints import Complaint, Place, complaints, places
from selector.facts import Facts
from selector.proposing import COMPUTED, IMAGES, NEVER, agree, insisting

UNEXPECTED = re.compile(r"(?:unexpected|multiple values for) keyword argument '(\w+)'")
UNLIKE = re.compile(r"size \((\d+)\*(\d+)\) doesn't match model \((\d+)\*(\d+)\)")
MULTIPLE = re.compile(r"multiple of .{0,40}?(\d+)\)?,? but got (\d+)")
# An inner size that comes straight from one of ours, as no two of ours are alike.
INNER = re.compile(
    r"tensor a \((\d+)\) must match the size of tensor b \((\d+)\)"
    r"|Expected (?:size )?(\d+) (?:in dimension \d+ )?but got (?:size )?(\d+)"
)
SPLIT = re.compile(r"size at dimension 0\), but got split_sizes=\[([\d, ]+)\]")
# Without a token for padding, the end of a row cannot be told.
ALONE = re.compile(r"batch sizes? ?> ?1\b")
# What is made for one row is viewed as as many as there are.
ONE = re.compile(r"shape '\[(\d+), ([\d, ]+)\]' is invalid for input of size (\d+)")
ROWS = re.compile(r"shape '\[-1, (\d+), (\d+)\]' is invalid for input of size (\d+)")
TOO_SMALL = re.compile(r"image\b.*\btoo small", re.IGNORECASE)
WORD = re.compile(r"\w+")
ASSIGNED = re.compile(r"^\s*(\w+(?:, \w+)*) = ")
SIDES = ("height", "width")
MOST_SIZES = 3


def sure(proposal: ExampleInputs, error: Exception, facts: Facts) -> Iterator[ExampleInputs]:
    """Proposals that answer a complaint which says what is missing or too much."""
    text = str(error)
    yield from _without_constant(proposal, text)
    yield from placeholders.placed(proposal, error, facts)
    yield from _other_rows(proposal, text)
    yield from _rescaled(proposal, text)
    yield from _with_missing(proposal, _mentioned(text, error, facts), facts)
    yield from _reshaped(proposal, error, facts)
    yield from _split(proposal, text, facts)
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
    fitting = _fitting(complaint, proposal, facts)
    yield from fitting
    if complaint.shape is not None:
        yield from input_rules.as_documented(complaint.name, complaint.shape, facts)
        return
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


def _other_rows(proposal: ExampleInputs, text: str) -> Iterator[ExampleInputs]:
    """The same with as many rows as the model can take: one, or a multiple of a number."""
    rows = proposal.sizes.get("batch_size", 1)
    one = ONE.search(text)
    single = one and int(one[1]) == rows and math.prod(map(int, one[2].split(", "))) == int(one[3])
    if (ALONE.search(text) or single) and rows > 1:
        others = {axis: size for axis, size in proposal.other_sizes.items() if axis != "batch_size"}
        yield replace(proposal, sizes={**proposal.sizes, "batch_size": 1}, other_sizes=others)
    elif found := ROWS.search(text):
        step, length, given = (int(number) for number in found.groups())
        if rows * length == given and rows % step and "batch_size" in proposal.other_sizes:
            sizes = {**proposal.sizes, "batch_size": step}
            others = {**proposal.other_sizes, "batch_size": 2 * step}
            yield replace(proposal, sizes=sizes, other_sizes=others)


def _rescaled(proposal: ExampleInputs, text: str) -> Iterator[ExampleInputs]:
    """The same with sizes that the message asks for, of images or by a factor of any axis."""
    if found := UNLIKE.search(text):
        height, width, *wanted = (int(number) for number in found.groups())
        sizes = {**proposal.sizes}
        for axis, size, want in (("height", height, wanted[0]), ("width", width, wanted[1])):
            if axis in sizes:
                sizes[axis] = sizes[axis] * want // size
        others = {axis: size for axis, size in proposal.other_sizes.items() if axis not in SIDES}
        yield replace(proposal, sizes=sizes, other_sizes=others)
    elif TOO_SMALL.search(text) and "height" in proposal.sizes:
        yield _multiplied(proposal, SIDES, 2)
    elif found := MULTIPLE.search(text):
        step, size = int(found[1]), int(found[2])
        sizes, others = {**proposal.sizes}, {**proposal.other_sizes}
        for axis in (axis for axis, known in proposal.sizes.items() if known == size):
            sizes[axis] = -(-size // step) * step
            if axis in others:
                others[axis] = sizes[axis] + step
            yield replace(proposal, sizes=sizes, other_sizes=others)


def _split(proposal: ExampleInputs, text: str, facts: Facts) -> Iterator[ExampleInputs]:
    """The same with as many pieces of each row's image as its size makes."""
    found = SPLIT.search(text)
    counts = {int(count) for count in re.findall(r"\d+", found[1])} if found else set()
    for own in proposal.specs if len(counts) == 1 else ():
        for spec in input_rules.alternatives(own.name, facts):
            if own.name in IMAGES and "num_images" in spec.axes:
                specs = tuple(spec if one is own else one for one in proposal.specs)
                better = _resized(proposal, specs, facts)
                others = {k: v for k, v in better.other_sizes.items() if k != "num_images"}
                sizes = {**better.sizes, "num_images": counts.copy().pop()}
                yield replace(better, sizes=sizes, other_sizes=others)


def _multiplied(proposal: ExampleInputs, axes: Sequence[str], factor: int) -> ExampleInputs:
    sizes, others = (
        {axis: size * factor if axis in axes else size for axis, size in item.items()}
        for item in (proposal.sizes, proposal.other_sizes)
    )
    return replace(proposal, sizes=sizes, other_sizes=others)


def _mentioned(text: str, error: Exception, facts: Facts) -> list[str]:
    """Parameters of forward that the message names, or that were None where it failed."""
    if isinstance(error, AttributeError | TypeError) and "None" in text:
        return _none_there(places(error), facts)
    if isinstance(error, AttributeError):
        # What a config lacks was wanted to work out something that can be passed.
        return _none_there(places(error), facts, ASSIGNED)
    named = [name for name in facts.parameters if re.search(rf"\b{name}\b", text)]
    if not named and isinstance(error, ValueError):
        named = _none_there(places(error)[:1], facts)
    missing = [name for name in named if re.search(rf"\b{name}\b\W*(is|are|was)\W+missing", text)]
    return missing or named


def _none_there(found: Sequence[Place], facts: Facts, part: re.Pattern[str] = WORD) -> list[str]:
    """Parameters of forward that this part of the statements names, and that were None."""
    names = [
        name
        for place in found
        for name in facts.parameters
        if name in WORD.findall(" ".join(part.findall(place.source)))
        and place.values.get(name, name) is None
    ]
    return list(dict.fromkeys(names))


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

    Models check their inputs with a `ValueError`; torch's own errors name inner shapes, of
    which only those that must be alike help.
    """
    inner = INNER.search(str(error))
    text = str(error) if isinstance(error, ValueError) else inner[0] if inner else ""
    numbers = list(dict.fromkeys(int(number) for number in re.findall(r"\d+", text)))
    ours = {size: axis for axis, size in proposal.sizes.items() if not axis.endswith("batch_size")}
    found = [ours[number] for number in numbers if number in ours]
    wanted = [number for number in numbers if number not in ours and number > 1]
    for axis in found[:1]:
        for size in wanted[:MOST_SIZES]:
            others = {key: value for key, value in proposal.other_sizes.items() if key != axis}
            yield replace(proposal, sizes={**proposal.sizes, axis: size}, other_sizes=others)
