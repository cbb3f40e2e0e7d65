"""Rules by parameter name: what an input of that name may look like, the likeliest first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from selector.audio_rules import (
    AUDIO_CHANNEL_NAMES,
    AUDIO_MASKS,
    AUDIO_RULES,
    FEATURES,
    WIDTH_NAMES,
    audio_features,
    audio_mask,
    spectrum,
    waveform,
)
from selector.cases import PATCHES, TOTAL_PATCHES, InputSpec, TokenRules
from selector.config_lookup import AUDIO, TEXT, VISION, find, find_int, scopes, special_tokens
from selector.facts import Facts
from selector.patch_rules import (
    CHANNEL_NAMES,
    GRIDS,
    PLACES,
    grids,
    images_axis,
    masks,
    merge_sizes,
    patches,
    places,
)
from selector.shape_docs import DocumentedShape, evaluate
from selector.spec_kinds import Axes, floats, whole

Rule = Callable[[str, Facts], list[InputSpec]]

# How docstrings call the axes that have a name of ours.
AXIS_OF_WORD = {
    **dict.fromkeys(("batch_size", "batch", "bs", "n", "b"), "batch_size"),
    **dict.fromkeys(("height", "image_height", "h"), "height"),
    **dict.fromkeys(("width", "image_width", "w"), "width"),
    **dict.fromkeys(("audio_length", "num_samples", "time_steps"), "audio_length"),
}
CODEBOOK_NAMES = ("num_codebooks", "num_audio_codebooks", "num_quantizers")


def alternatives(name: str, facts: Facts) -> list[InputSpec]:
    """Ways to make the input up, the likeliest first; empty where nothing is known."""
    rule = RULES.get(name) or next(
        (rule for suffix, rule in SUFFIX_RULES.items() if name.endswith(suffix)), None
    )
    ruled = rule(name, facts) if rule else []
    documented = [
        spec for shape in facts.docs.get(name, ()) if (spec := _from_docs(name, shape, facts))
    ]
    new = [_as_ruled(spec, ruled) for spec in documented if _tells_more(spec, ruled)]
    # A number per row is a column of them for some models.
    new += [replace(spec, axes=(*spec.axes, 1)) for spec in new if spec.axes == ("batch_size",)]
    # Sounds come in many layouts, of which the documentation knows the model's own.
    return [*new, *ruled] if name in AUDIO_RULES else [*ruled, *new]


def as_documented(name: str, shape: DocumentedShape, facts: Facts) -> list[InputSpec]:
    """The input in a shape that the model itself wrote out, filled by the rule of its name."""
    spec = _from_docs(name, shape, facts)
    return [_as_ruled(spec, alternatives(name, facts))] if spec else []


def _tells_more(spec: InputSpec, ruled: list[InputSpec]) -> bool:
    """Whether the documented axes have a rank of their own, or more known sizes."""
    alike = [rule for rule in ruled if len(rule.axes) == len(spec.axes)]
    return all(_known_sizes(spec) > _known_sizes(rule) for rule in alike)


def _known_sizes(spec: InputSpec) -> int:
    return sum(isinstance(axis, int) for axis in spec.axes)


def _as_ruled(spec: InputSpec, ruled: list[InputSpec]) -> InputSpec:
    if not ruled:
        return spec
    like = ruled[0]
    return InputSpec(
        name=spec.name,
        axes=spec.axes,
        dtype=like.dtype,
        fill=like.fill,
        low=like.low,
        high=like.high,
        tokens=like.tokens,
    )


def sequence_axis(prefix: str) -> str:
    """Name of the length of `{prefix}input_ids`."""
    return f"{prefix}sequence_length"


def _tokens(name: str, facts: Facts) -> list[InputSpec]:
    prefix = name.removesuffix("input_ids")
    near = (prefix.rstrip("_"), *TEXT) if prefix else TEXT
    books = find_int(facts.config, *CODEBOOK_NAMES, near=near)
    if books is None and prefix == "decoder_":
        books = find_int(facts.config, "num_channels", near=("decoder",))
    rows: Axes = ("batch_size", sequence_axis(prefix))
    # Some have a column for text beside those for the codebooks.
    shapes = [rows, (*rows, books), (*rows, books + 1)] if books else [rows]
    return [
        InputSpec(
            name=name,
            axes=axes,
            dtype="int64",
            fill="tokens",
            high=vocabulary(facts, near),
            tokens=_token_rules(prefix, facts, near),
        )
        for axes in shapes
    ]


def vocabulary(facts: Facts, near: tuple[str, ...] = TEXT) -> int:
    """Number of ids, at most the rows of the input embedding."""
    sizes = [find_int(facts.config, "vocab_size", near=near), facts.embeddings]
    return min((size for size in sizes if size), default=1000)


def _token_rules(prefix: str, facts: Facts, near: tuple[str, ...]) -> TokenRules:
    ids = {
        role: find_int(facts.config, f"{role}_token_id", near=near)
        for role in ("pad", "eos", "decoder_start")
    }
    size = vocabulary(facts, near)
    known = {role: value for role, value in ids.items() if value is not None and 0 <= value < size}
    decoding = prefix == "decoder_"
    end = None if decoding else known.get("eos")
    pad = known.get("pad")
    return TokenRules(
        avoid=special_tokens(facts.config),
        start=known.get("decoder_start") if decoding else None,
        end=end,
        # Padding with the end's id would put several ends into a row.
        pad=None if pad == end else pad,
    )


def _attention_mask(name: str, facts: Facts) -> list[InputSpec]:
    prefix = name.removesuffix("attention_mask")
    own = f"{prefix}input_ids" in facts.parameters or prefix == "decoder_"
    length = sequence_axis(prefix if own else "")
    if not own and "input_ids" not in facts.parameters:
        features = any(name in facts.parameters for name in FEATURES)
        length = "feature_length" if features else sequence_axis("")
        length = "audio_length" if "input_values" in facts.parameters else length
    return [
        InputSpec(
            name=name,
            axes=("batch_size", length),
            dtype="int64",
            fill="mask",
            tokens=TokenRules(padded=True),
        )
    ]


def _token_types(name: str, facts: Facts) -> list[InputSpec]:
    kinds = find_int(facts.config, "type_vocab_size", near=TEXT) or 1
    return whole(name, ("batch_size", "sequence_length"), high=max(kinds, 1))


def _image_sizes(name: str, facts: Facts) -> list[InputSpec]:
    axes: Axes = (images_axis(facts), 2)
    return [InputSpec(name=name, axes=axes, dtype="int64", fill="sides")]


def _image_places(name: str, facts: Facts) -> list[InputSpec]:
    del facts
    axes: Axes = ("batch_size", "sequence_length")
    return [InputSpec(name=name, axes=axes, dtype="int64", fill="span")]


def _images_of_tokens(name: str, facts: Facts) -> list[InputSpec]:
    del facts
    axes: Axes = ("batch_size", "sequence_length", "num_images")
    return [InputSpec(name=name, axes=axes, dtype="int64", fill="constant", low=1)]


def _embeddings(name: str, facts: Facts) -> list[InputSpec]:
    """What stands in for tokens or patches; as wide as any part of the model."""
    widths = [find_int(scope, *WIDTH_NAMES) for _, scope in scopes(facts.config)]
    length = f"{name.removesuffix('_embeds').removesuffix('_hidden_states')}_length"
    if name.endswith("_embeds") and "input_ids" not in facts.parameters:
        length = sequence_axis("")
    axes: list[Axes] = [("batch_size", length, width) for width in widths if width]
    channels = find_int(facts.config, "channels", "audio_channels")
    if channels and name == "hidden_states":
        # Of a codec: samples for its encoder, or what they became for its decoder.
        axes = [("batch_size", channels, "audio_length")]
        axes += [("batch_size", width, length) for width in widths if width]
    return [*patches(name, facts), *floats(name, facts, *axes)]


def _positions(name: str, facts: Facts) -> list[InputSpec]:
    del facts
    axes: list[Axes] = [(3, "batch_size", "sequence_length"), ("batch_size", "sequence_length")]
    return [InputSpec(name=name, axes=item, dtype="int64", fill="positions") for item in axes]


def _layout(name: str, facts: Facts) -> list[InputSpec]:
    axes = ("batch_size", "sequence_length", 4)
    # Layout models count in thousandths of the page.
    limit = min(1001, find_int(facts.config, "max_2d_position_embeddings") or 1001)
    return [
        InputSpec(name=name, axes=axes, dtype="int64", fill="boxes", high=limit),
        InputSpec(name=name, axes=axes, dtype=facts.float_dtype, fill="boxes", high=1),
    ]


def _image(name: str, facts: Facts) -> list[InputSpec]:
    channels = find_int(facts.config, *CHANNEL_NAMES, near=VISION) or 3
    batch = "batch_size"
    if "return_loss" in facts.parameters and "input_ids" in facts.parameters:
        # A contrastive pair compares any number of texts with any number of images.
        batch = "image_batch_size"
    image: Axes = (batch, channels, "height", "width")
    together: Axes = ("batch_size", channels, "height", "width")
    clip: Axes = ("batch_size", "num_frames", channels, "height", "width")
    pair: Axes = ("batch_size", "num_images", channels, "height", "width")
    if find_int(facts.config, "num_frames", near=VISION):
        return floats(name, facts, clip, image, together)
    return [*patches(name, facts), *floats(name, facts, image, together, pair)]


def _video(name: str, facts: Facts) -> list[InputSpec]:
    channels = find_int(facts.config, *CHANNEL_NAMES, near=VISION) or 3
    return floats(name, facts, ("batch_size", "num_frames", channels, "height", "width"))


def _anything(name: str, facts: Facts) -> list[InputSpec]:
    width = find_int(facts.config, *reversed(WIDTH_NAMES))
    tokens = _tokens("input_ids", facts)[0]
    return [
        InputSpec(name=name, axes=tokens.axes, dtype="int64", fill="tokens", high=tokens.high),
        *_image(name, facts),
        *floats(name, facts, ("batch_size", "sequence_length", width) if width else None),
    ]


def _series(name: str, facts: Facts) -> list[InputSpec]:
    length = "context_length" if name.startswith("past_") else "prediction_length"
    channels = find_int(facts.config, "num_input_channels", "input_size") or 1
    flat: Axes = ("batch_size", length)
    specs = floats(name, facts, *([flat] if channels == 1 else []), (*flat, channels), flat)
    if not name.endswith("mask"):
        return specs
    return [
        InputSpec(name=name, axes=spec.axes, dtype=facts.float_dtype, fill="observed")
        for spec in specs
    ]


def _time_features(name: str, facts: Facts) -> list[InputSpec]:
    length = "context_length" if name.startswith("past_") else "prediction_length"
    size = find_int(facts.config, "num_time_features")
    return floats(name, facts, None if size is None else ("batch_size", length, size))


def _points(name: str, facts: Facts) -> list[InputSpec]:
    grouped: Axes = ("batch_size", "point_batch_size", "num_points")
    plain: Axes = ("batch_size", "num_points")
    if name.endswith("labels"):
        return whole(name, grouped) + whole(name, plain)
    side = min(facts.image_size or (64, 64))
    return [
        InputSpec(
            name=name, axes=(*axes, 2), dtype=facts.float_dtype, fill="uniform", low=0, high=side
        )
        for axes in (grouped, plain)
    ]


def _prompt_boxes(name: str, facts: Facts) -> list[InputSpec]:
    side = min(facts.image_size or (64, 64))
    axes = ("batch_size", "num_boxes", 4)
    return [InputSpec(name=name, axes=axes, dtype=facts.float_dtype, fill="boxes", high=side)]


def _from_docs(name: str, shape: DocumentedShape, facts: Facts) -> InputSpec | None:
    axes: list[int | str] = []
    for symbol in shape.symbols:
        axis = _documented_axis(name, symbol, facts)
        if axis is None:
            return None
        axes.append(axis)
    if axes[:1] == [PATCHES]:
        # Not a row for each image, so those of all images.
        axes[0] = TOTAL_PATCHES
    kind = shape.kind
    if kind is None and name.endswith(("_ids", "_lengths", "_labels", "_sizes")):
        kind = "int"
    if kind == "bool" or name.endswith("mask"):
        dtype = "bool" if kind == "bool" else "int64"
        if "input_ids" in facts.parameters:
            # As many placeholders stand in the text as there are unmasked pieces.
            return InputSpec(name=name, axes=tuple(axes), dtype=dtype, fill="constant", low=1)
        return InputSpec(name=name, axes=tuple(axes), dtype=dtype, fill="observed")
    if kind == "int":
        return whole(name, tuple(axes))[0]
    return floats(name, facts, tuple(axes))[0]


def _documented_axis(name: str, symbol: str, facts: Facts) -> int | str | None:
    if symbol.lower() in AXIS_OF_WORD:
        return AXIS_OF_WORD[symbol.lower()]
    if symbol.lower() in ("channels", "num_channels", "channel", "c"):
        channels = AUDIO_CHANNEL_NAMES if name in AUDIO_RULES else CHANNEL_NAMES
        return find_int(facts.config, *channels) or (1 if name in AUDIO_RULES else 3)
    if symbol.isidentifier() and symbol.endswith(("sequence_length", "seq_len", "seq_length")):
        return _length_axis(name)
    size = evaluate(symbol, lambda word: find_int(facts.config, word))
    if size is None and symbol.startswith("num_"):
        size = find_int(facts.config, f"max_{symbol}")
    return symbol if size is None and symbol.isidentifier() else size


def _length_axis(name: str) -> str:
    if name.startswith("decoder_"):
        return "decoder_sequence_length"
    if name.startswith("past_"):
        return "context_length"
    if name in AUDIO_RULES:
        return "audio_length" if name == "input_values" else "feature_length"
    return "sequence_length"


RULES: dict[str, Rule] = {
    "token_type_ids": _token_types,
    "bbox": _layout,
    "image": _image,
    "pixel_values_videos": _video,
    "input_features": audio_features,
    "audio_mel": audio_features,
    "input_values": waveform,
    "decoder_input_values": spectrum,
    "inputs": _anything,
    "position_ids": _positions,
    "image_sizes": _image_sizes,
    **dict.fromkeys(("merge_sizes", "image_merge_sizes"), merge_sizes),
    "image_embeds_position_mask": _image_places,
    "image_attention_mask": _images_of_tokens,
    "pixel_attention_mask": masks,
    **dict.fromkeys(GRIDS, grids),
    **dict.fromkeys(PLACES, places),
    **dict.fromkeys(AUDIO_MASKS, audio_mask),
    "past_values": _series,
    "past_observed_mask": _series,
    "observed_mask": _series,
    "future_values": _series,
    "past_time_features": _time_features,
    "future_time_features": _time_features,
    "input_points": _points,
    "input_labels": _points,
    "input_boxes": _prompt_boxes,
}

SUFFIX_RULES: dict[str, Rule] = {
    "input_ids": _tokens,
    "attention_mask": _attention_mask,
    "pixel_values": _image,
    "hidden_states": _embeddings,
    "_embeds": _embeddings,
}


def insisted(facts: Facts) -> dict[str, int]:
    """Sizes of images and sounds that the config names, and no others do for many models."""
    found: dict[str, int] = {}
    if facts.image_size:
        found["height"], found["width"] = facts.image_size
    steps = find_int(facts.config, "max_source_positions", near=AUDIO)
    if steps:
        # Speech encoders after Whisper halve the length before they add positions.
        found["feature_length"] = 2 * steps
    return found


def anchors(facts: Facts) -> dict[str, int]:
    """Sizes that the config names for axes which models may insist on."""
    found: dict[str, int] = {}
    if facts.image_size:
        found["height"], found["width"] = facts.image_size
    frames = find_int(facts.config, "num_frames", near=VISION)
    context = find_int(facts.config, "context_length", "seq_length", "sequence_length")
    lags = find(facts.config, "lags_sequence") or [0]
    future = find_int(facts.config, "prediction_length", "horizon_length")
    if frames:
        found["num_frames"] = frames
    if context:
        found["context_length"] = context + max(lags)
    if future:
        found["prediction_length"] = future
    return found
