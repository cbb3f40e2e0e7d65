"""Which inputs a user would pass, put together into whole proposals, the likeliest first."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from selector import input_rules, patch_rules, sizing
from selector.cases import ExampleInputs, InputSpec
from selector.config_lookup import TEXT, find, find_int
from selector.facts import Facts

IMAGES = ("pixel_values", "image")
SOUNDS = ("input_features", "input_values")
DECODER = ("decoder_input_ids", "decoder_input_values")
PROMPTS = ("input_points", "input_labels")

# Results of the model, answers, and what it can do without.
NEVER = frozenset(
    {"labels", "pixel_mask", "past_key_values", "use_cache", "return_dict", "inputs_embeds"}
)
# What forward computes from values one by one, unless it gets the result.
COMPUTED = {"mm_token_type_ids": "position_ids"}
TEXT_TASKS = ("text", "fill-mask", "token-classification", "question-answering", "causal")

MOST_COMBINATIONS = 16
# Axes whose size many models insist on.
RIGID = ("height", "width")
# Detectors choose the best few hundred of an image's cells.
LARGE_IMAGE = {"height": 320, "width": 416}


def wanted_names(
    facts: Facts, *, task: str | None, processor_names: Sequence[str], given: Mapping[str, object]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the inputs to pass, and those of them that may be dropped, in forward's order."""
    needed = {*facts.required, *facts.main_inputs, *_declared(given)}
    optional: set[str] = set()
    if facts.config is not None:
        needed |= _companions(facts, needed)
        optional = set(processor_names) | _other_modalities(facts, needed, task)
        optional |= _companions(facts, needed | optional) | _decoder_input(facts)
    if "input_ids" in processor_names:
        unseen = {"attention_mask"} - set(processor_names) - set(facts.required)
        needed, optional = needed - unseen, optional - unseen
    refused = {name for name, value in given.items() if value is None}
    usable = set(facts.parameters) - NEVER | set(facts.required) | set(_declared(given))
    names = ((needed | optional) & usable) - refused - _constants(given)
    ordered = [name for name in facts.parameters if name in names]
    ordered += [name for name in given if name in names and name not in ordered]
    return tuple(ordered), tuple(name for name in ordered if name not in needed)


def _declared(given: Mapping[str, object]) -> list[str]:
    return [name for name, value in given.items() if hasattr(value, "shape")]


def _constants(given: Mapping[str, object]) -> set[str]:
    return {name for name, value in given.items() if not hasattr(value, "shape")}


def _companions(facts: Facts, names: set[str]) -> set[str]:
    found: set[str] = set()
    if "input_ids" in names:
        found.add("attention_mask")
        if (find_int(facts.config, "type_vocab_size", near=TEXT) or 0) > 1:
            found.add("token_type_ids")
        if "bbox" in facts.parameters:
            found.add("bbox")
    if any(name in names for name in IMAGES):
        found.update(PROMPTS, patch_rules.GRIDS, patch_rules.PLACES)
        if set(patch_rules.PADDED_GRIDS) & set(facts.parameters):
            found.add("pixel_attention_mask")
    return found & set(facts.parameters)


def _decoder_input(facts: Facts) -> set[str]:
    if not find(facts.config, "is_encoder_decoder"):
        return set()
    return set([name for name in DECODER if name in facts.parameters][:1])


def _other_modalities(facts: Facts, names: set[str], task: str | None) -> set[str]:
    if task is not None and task.startswith(TEXT_TASKS) and "input_ids" in names:
        return set()
    if "inputs" in names:
        # Takes any modality; the named ones are other words for it.
        return set()
    if facts.config is None:
        return {"input_ids"} & set(facts.parameters)
    # Not by its properties, which may build a config anew and change what it shares.
    stored = vars(facts.config)
    named = {
        *(IMAGES if stored.get("vision_config", ...) is not None else ()),
        *(SOUNDS if stored.get("audio_config", ...) is not None else ()),
        "input_ids",
    }
    return named & set(facts.parameters)


def constants(facts: Facts, given: Mapping[str, object]) -> dict[str, object]:
    """Python values for further parameters: no cache, results by name, and the user's own."""
    bound: dict[str, object] = {}
    if "use_cache" in facts.parameters or (facts.open_ended and find(facts.config, "use_cache")):
        bound["use_cache"] = False
    if "return_dict" in facts.parameters and facts.config is not None:
        bound["return_dict"] = True
    own = {name: given[name] for name in _constants(given) if given[name] is not None}
    return bound | own


def proposals(
    names: Sequence[str],
    facts: Facts,
    *,
    specs_of: Mapping[str, Sequence[InputSpec]],
    given_sizes: Mapping[str, int],
    bound: Mapping[str, object],
) -> Iterator[ExampleInputs]:
    """Whole sets of inputs, the likeliest first; `other_sizes` are hopes, not yet tried.

    Image sizes are of our choice, and where the config names none, larger ones come second.
    """
    anchors = input_rules.anchors(facts)
    free = {axis: size for axis, size in anchors.items() if axis not in RIGID}
    rungs = [free] if "height" in anchors else [free, free | LARGE_IMAGE]
    combinations = itertools.product(*(specs_of[name] for name in names))
    for combination in itertools.islice(combinations, MOST_COMBINATIONS):
        specs = agree(_same_rows(combination))
        for imposed in rungs:
            sizes, others = sizing.choose(specs, facts, imposed=imposed, given=given_sizes)
            yield ExampleInputs(specs=specs, sizes=sizes, other_sizes=others, constants=dict(bound))


def insisting(proposal: ExampleInputs, facts: Facts) -> Iterator[ExampleInputs]:
    """The proposal with the config's own sizes of images and sounds, which then are fixed."""
    insisted = {
        axis: size
        for axis, size in input_rules.insisted(facts).items()
        if axis in proposal.other_sizes
    }
    if insisted:
        others = {k: v for k, v in proposal.other_sizes.items() if k not in insisted}
        yield replace(proposal, sizes={**proposal.sizes, **insisted}, other_sizes=others)


def _same_rows(specs: Sequence[InputSpec]) -> tuple[InputSpec, ...]:
    """Gives what accompanies the ids their axes, several choices per row for instance."""
    usual = ("batch_size", "sequence_length")
    ids = next((spec.axes for spec in specs if spec.name == "input_ids"), usual)
    if ids[-1] != "sequence_length":
        return tuple(specs)
    return tuple(replace(spec, axes=ids) if spec.axes == usual else spec for spec in specs)


def without_droppable(
    names: Sequence[str], droppable: Sequence[str]
) -> tuple[tuple[str, ...], ...]:
    """The names, the same without the decoder's, and without everything droppable."""
    decoder = tuple(name for name in names if name not in droppable or name not in DECODER)
    least = tuple(name for name in names if name not in droppable)
    return tuple(dict.fromkeys((tuple(names), decoder, least)))


def agree(specs: Sequence[InputSpec]) -> tuple[InputSpec, ...]:
    """Lets ids know of the mask over them, and the mask of what rows must hold."""
    masked = {spec.axes for spec in specs if spec.fill == "mask"}
    rules = {
        spec.axes: spec.tokens
        for spec in specs
        if spec.fill == "tokens" and spec.tokens is not None
    }
    result: list[InputSpec] = []
    for spec in specs:
        if spec.fill == "tokens" and spec.tokens is not None:
            rows = str(spec.axes[-1]).endswith("sequence_length")
            known = replace(spec.tokens, padded=spec.axes in masked)
            # Axes of codebooks and the like have no beginning and no end.
            result.append(replace(spec, tokens=known if rows else None))
        elif spec.fill == "mask" and spec.axes in rules:
            tokens = rules[spec.axes]
            result.append(replace(spec, tokens=replace(tokens, padded=True)))
        else:
            result.append(spec)
    return tuple(result)
