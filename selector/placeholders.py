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
from selector.proposing import agree

COMPLAINT = re.compile(r"tokens:?\s*(\d+)\D{1,40}?features:?\s*(\d+)", re.IGNORECASE)
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
    ids = next((spec for spec in proposal.specs if spec.name == "input_ids"), None)
    rows = proposal.sizes.get("batch_size", 0)
    if ids is None or ids.tokens is None or ids.example is not None or not rows:
        return
    found = COMPLAINT.search(str(error))
    if found:
        wanted = _wanted(error) or int(found[2])
        kinds = [kind for kind in NAMES if kind in str(error).lower()] or list(NAMES)
    elif _sought_in_vain(error, proposal.shape_of(ids)):
        # Two of them, as some models take a single one for an old way to say how many.
        wanted = 2 * rows
        kinds = [kind for kind, names in OF_KIND.items() if names & set(proposal.names)]
    else:
        return
    for kind in kinds[:1]:
        token = find_int(facts.config, *NAMES[kind])
        if token is not None and wanted % rows == 0:
            known = [own for own in ids.tokens.placeholders if own.token != token]
            new = _placeholder(token, wanted // rows, proposal, image=kind == "image")
            yield _with(proposal, ids, (*known, new))


def _with(proposal: ExampleInputs, ids: InputSpec, kinds: tuple[Placeholder, ...]) -> ExampleInputs:
    ruled = replace(ids, tokens=replace(ids.tokens or TokenRules(), placeholders=kinds))
    first, second = (
        sum(kind.in_row(sizes["batch_size"], sizes) + 1 for kind in kinds) - 1
        for sizes in (proposal.sizes, {**proposal.sizes, **proposal.other_sizes})
    )
    usual = sizing.USUAL["sequence_length"]
    return replace(
        proposal,
        specs=agree([ruled if spec is ids else spec for spec in proposal.specs]),
        sizes={**proposal.sizes, "sequence_length": usual[0] + first},
        other_sizes={**proposal.other_sizes, "sequence_length": usual[1] + second},
    )


def _sought_in_vain(error: Exception, shape: tuple[int, ...]) -> bool:
    """Whether a comparison of the ids with something found it nowhere."""
    return any(
        isinstance(value, torch.Tensor)
        and value.dtype is torch.bool
        and tuple(value.shape) == shape
        and not value.any()
        for place in places(error)
        for value in place.values.values()
    )


def _wanted(error: Exception) -> int | None:
    """How many rows of embeddings the features fill, from where the error came up."""
    for place in places(error):
        embeddings = place.values.get("inputs_embeds")
        features = [
            value
            for name, value in place.values.items()
            if name.endswith("features") and isinstance(value, torch.Tensor)
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
