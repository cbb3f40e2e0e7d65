"""Places the ids that stand for pieces of images and sounds, as many as the model asks for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import torch

from selector import sizing
from selector.cases import ExampleInputs, InputSpec, Placeholder, TokenRules, patches_of_a_row
from selector.complaints import places
from selector.config_lookup import find_int
from selector.facts import Facts
from selector.patch_rules import patch_block
from selector.proposing import agree
from strategies.void import is_void

TOLD = re.compile(
    r"tokens:?\s*\d+\D{1,40}?features:?\s*(\d+)|Got (\d+) \w+ \w+ for \d+ \w+ placeholder",
    re.IGNORECASE,
)
SCATTERED = re.compile(r"value tensor of shape \[(\d+), \d+\] cannot be broadcast to")
NAMES = {
    "image": (
        "image_token_id",
        "image_token_index",
        "img_context_token_id",
        "image_context_token_id",
    ),
    "audio": ("audio_token_id", "audio_token_index", "sound_context_token_id", "speech_token_id"),
    "video": ("video_token_id", "video_token_index", "video_context_token_id"),
}
# Inputs that bring such features.
OF_KIND = {
    "image": {"pixel_values"},
    "audio": {"input_features", "input_values"},
    "video": {"pixel_values_videos"},
}


def placed(proposal: ExampleInputs, error: Exception, facts: Facts) -> Iterator[ExampleInputs]:
    """The same with the ids for the kind of feature that the model finds too few of."""
    rows = proposal.sizes.get("batch_size", 0)
    specs = {spec.name: spec for spec in proposal.specs if spec.example is None}
    span = next((spec for spec in specs.values() if spec.fill == "span"), None)
    ids = specs.get("input_ids")
    scattered, told = SCATTERED.search(str(error)), TOLD.search(str(error))
    if not rows or ids is None or ids.tokens is None:
        return
    brought = [kind for kind, names in OF_KIND.items() if names & specs.keys()]
    if scattered and span is not None:
        yield _with(proposal, span, (Placeholder(token=1, count=int(scattered[1]) // rows),))
        return
    if told:
        counts = [_wanted(error, facts), int(told[1] or told[2])]
        kinds = [kind for kind in NAMES if kind in str(error).lower()] or brought
    elif scattered:
        counts, kinds = [int(scattered[1])], brought
    else:
        return
    for wanted in dict.fromkeys(count for count in counts if count):
        yield from _more(proposal, ids, kinds[:1], wanted, facts)


def sought(proposal: ExampleInputs, error: Exception, facts: Facts) -> Iterator[ExampleInputs]:
    """The same with ids that a comparison found nowhere, so that the model says how many."""
    rows = proposal.sizes.get("batch_size", 0)
    ids = next((spec for spec in proposal.specs if spec.name == "input_ids"), None)
    if ids is None or ids.tokens is None or ids.tokens.placeholders or ids.example is not None:
        return
    if _sought_in_vain(error, proposal.shape_of(ids)):
        brought = [kind for kind, names in OF_KIND.items() if names & set(proposal.names)]
        # Two of them, as some models take a single one for an old way to say how many.
        yield from _more(proposal, ids, brought[:1], 2 * rows, facts)


def unplaced(inputs: ExampleInputs, facts: Facts) -> Iterator[ExampleInputs]:
    """The same with ids for features that the model took without looking for their place.

    Without a place in the text they would count for nothing.
    """
    rows = inputs.sizes.get("batch_size", 0)
    ids = next((spec for spec in inputs.specs if spec.name == "input_ids"), None)
    if ids is None or ids.tokens is None or ids.example is not None or not rows:
        return
    patches = patches_of_a_row(rows, inputs.sizes) // patch_block(facts) ** 2
    better = inputs
    for kind in (kind for kind, names in OF_KIND.items() if names & set(inputs.names)):
        ids = next(spec for spec in better.specs if spec.name == "input_ids")
        token = find_int(facts.config, *NAMES[kind])
        placed = {own.token for own in ids.tokens.placeholders} if ids.tokens else set()
        if token is not None and token not in placed and 0 <= token < ids.high:
            better = next(_more(better, ids, [kind], max(patches, 2) * rows, facts))
    if better is not inputs:
        yield better


def _more(
    proposal: ExampleInputs, ids: InputSpec, kinds: list[str], wanted: int, facts: Facts
) -> Iterator[ExampleInputs]:
    rows = proposal.sizes["batch_size"]
    for kind in kinds:
        token = find_int(facts.config, *NAMES[kind])
        if token is not None and wanted % rows == 0:
            known = ids.tokens.placeholders if ids.tokens else ()
            new = _placeholder(token, wanted // rows, proposal, image=kind == "image")
            yield _with(proposal, ids, (*(own for own in known if own.token != token), new))


def _with(
    proposal: ExampleInputs, holder: InputSpec, kinds: tuple[Placeholder, ...]
) -> ExampleInputs:
    ruled = replace(holder, tokens=replace(holder.tokens or TokenRules(), placeholders=kinds))
    first, second = (
        sum(kind.in_row(sizes["batch_size"], sizes) + 1 for kind in kinds) - 1
        for sizes in (proposal.sizes, {**proposal.sizes, **proposal.other_sizes})
    )
    usual = sizing.USUAL["sequence_length"]
    return replace(
        proposal,
        specs=agree([ruled if spec is holder else spec for spec in proposal.specs]),
        sizes={**proposal.sizes, "sequence_length": usual[0] + first},
        other_sizes={**proposal.other_sizes, "sequence_length": usual[1] + second},
    )


def _sought_in_vain(error: Exception, shape: tuple[int, ...]) -> bool:
    """Whether a comparison of the ids with something found it nowhere."""
    return any(
        isinstance(value, torch.Tensor)
        and value.dtype is torch.bool
        and not is_void(value)
        and tuple(value.shape) == shape
        and not value.any()
        for place in places(error)
        for value in place.values.values()
    )


def _wanted(error: Exception, facts: Facts) -> int | None:
    """How many rows of embeddings the features fill, from where the error came up."""
    for place in places(error):
        embeddings = place.values.get("inputs_embeds")
        features = [
            value
            for name, value in place.values.items()
            if name.endswith("features")
            and name not in facts.parameters
            and isinstance(value, torch.Tensor)
        ]
        if isinstance(embeddings, torch.Tensor) and len(features) == 1:
            return features[0].numel() // int(embeddings.shape[-1])
    return None


def _placeholder(token: int, count: int, proposal: ExampleInputs, *, image: bool) -> Placeholder:
    """A count that follows the patches where there are any, else a fixed one."""
    patches = patches_of_a_row(proposal.sizes["batch_size"], proposal.sizes)
    if image and count and patches and patches % count == 0:
        return Placeholder(token=token, patches=patches // count)
    return Placeholder(token=token, count=count)
