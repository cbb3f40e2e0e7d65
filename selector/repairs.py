"""What an eager error says about how a proposal should have been; tried before giving up."""

from __future__ import annotations

import linecache
import re
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import replace

from selector import input_rules, sizing
from selector.cases import ExampleInputs, InputSpec
from selector.config_lookup import find_int
from selector.facts import Facts
from selector.proposing import NEVER, agree

PLACEHOLDERS = re.compile(r"tokens:?\s*(\d+)\D{1,40}?features:?\s*(\d+)", re.IGNORECASE)
PLACEHOLDER_NAMES = {
    "image": ("image_token_id", "image_token_index"),
    "audio": ("audio_token_id", "audio_token_index"),
    "video": ("video_token_id", "video_token_index"),
}
UNEXPECTED = re.compile(r"unexpected keyword argument '(\w+)'")
MOST_SIZES = 3


def sure(proposal: ExampleInputs, error: Exception, facts: Facts) -> Iterator[ExampleInputs]:
    """Proposals that answer a complaint which says what is missing or too much."""
    text = str(error)
    yield from _without_constant(proposal, text)
    yield from _with_placeholders(proposal, text, facts)
    yield from _with_missing(proposal, _mentioned(text, error, facts), facts)


def _without_constant(proposal: ExampleInputs, text: str) -> Iterator[ExampleInputs]:
    found = UNEXPECTED.search(text)
    if found and found[1] in proposal.constants:
        kept = {key: value for key, value in proposal.constants.items() if key != found[1]}
        yield replace(proposal, constants=kept)


def _with_placeholders(proposal: ExampleInputs, text: str, facts: Facts) -> Iterator[ExampleInputs]:
    found = PLACEHOLDERS.search(text)
    rows = proposal.sizes.get("batch_size", 0)
    if not found or not rows or int(found[2]) % rows:
        return
    names = next((names for kind, names in PLACEHOLDER_NAMES.items() if kind in text.lower()), ())
    token = find_int(facts.config, *names)
    if token is None:
        return
    count = int(found[2]) // rows
    specs = tuple(_placed(spec, token, count) for spec in proposal.specs)
    length = sizing.USUAL["sequence_length"]
    yield replace(
        proposal,
        specs=agree(specs),
        sizes={**proposal.sizes, "sequence_length": length[0] + count},
        other_sizes={**proposal.other_sizes, "sequence_length": length[1] + count},
    )


def _placed(spec: InputSpec, token: int, count: int) -> InputSpec:
    if spec.name != "input_ids" or spec.tokens is None or spec.example is not None:
        return spec
    return replace(spec, tokens=replace(spec.tokens, placeholder=token, placeholders=count))


def _mentioned(text: str, error: Exception, facts: Facts) -> list[str]:
    """Parameters of forward that the message names, or that were None where it failed."""
    if isinstance(error, AttributeError | TypeError) and "None" in text:
        return _none_where_it_failed(error, facts)
    return [name for name in facts.parameters if re.search(rf"\b{name}\b", text)]


def _none_where_it_failed(error: Exception, facts: Facts) -> list[str]:
    found: list[str] = []
    for frame, number in traceback.walk_tb(error.__traceback__):
        line = linecache.getline(frame.f_code.co_filename, number)
        words = set(re.findall(r"\w+", line))
        found += [
            name
            for name in facts.parameters
            if name in words and frame.f_locals.get(name, name) is None
        ]
    return list(dict.fromkeys(found))


def _with_missing(
    proposal: ExampleInputs, names: Iterable[str], facts: Facts
) -> Iterator[ExampleInputs]:
    passed = set(proposal.names)
    for name in names:
        if name in passed or name in NEVER or name.endswith("_embeds"):
            continue
        for spec in input_rules.alternatives(name, facts):
            specs = sorted(
                [*proposal.specs, spec], key=lambda item: list(facts.parameters).index(item.name)
            )
            sizes, others = sizing.choose(
                specs, facts, imposed=input_rules.anchors(facts), given=proposal.sizes
            )
            kept = {
                axis: size
                for axis, size in others.items()
                if axis in proposal.other_sizes or axis not in proposal.sizes
            }
            yield replace(
                proposal,
                specs=agree(specs),
                sizes=sizes,
                other_sizes={**kept, **proposal.other_sizes},
            )


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
