"""Rules for sounds: samples, spectra, and masks over them."""

from __future__ import annotations

from dataclasses import replace

from selector.cases import InputSpec, TokenRules
from selector.config_lookup import AUDIO, find_int
from selector.facts import Facts
from selector.spec_kinds import Axes, floats

AUDIO_CHANNEL_NAMES = ("audio_channels", "num_channels", "in_channels")
FEATURE_NAMES = (
    "num_mel_bins",
    "feature_size",
    "input_feat_per_channel",
    "feature_projection_input_dim",
    "input_feat_size",
    "n_mels",
    "num_mel_channels",
    "input_dim",
)
# Bands of a spectrum, where the config names no number.
USUAL_BANDS = (128, 80)
WIDTH_NAMES = ("hidden_size", "d_model", "hidden_dim")
FEATURES = ("input_features", "audio_mel")
AUDIO_MASKS = (
    "input_features_mask",
    "feature_attention_mask",
    "input_values_mask",
    "audio_mel_mask",
    "padding_mask",
)
AUDIO_RULES = frozenset({"input_values", "input_features"})


def audio_features(name: str, facts: Facts) -> list[InputSpec]:
    """Spectra, with their bands before or behind the time."""
    known = find_int(facts.config, *FEATURE_NAMES, near=AUDIO)
    shapes: list[Axes] = []
    for size in (known,) if known else USUAL_BANDS:
        shapes += [
            ("batch_size", size, "feature_length"),
            ("batch_size", "feature_length", size),
            ("batch_size", 1, "feature_length", size),
        ]
    return floats(name, facts, *shapes)


def audio_mask(name: str, facts: Facts) -> list[InputSpec]:
    """Which samples or time steps are real."""
    features = any(name in facts.parameters for name in FEATURES)
    axes = ("batch_size", "feature_length" if features else "audio_length")
    if "input_ids" in facts.parameters:
        # As many placeholders stand in the text as there are unmasked pieces.
        one = InputSpec(name=name, axes=axes, dtype="int64", fill="constant", low=1)
    else:
        tokens = TokenRules(padded=True)
        one = InputSpec(name=name, axes=axes, dtype="int64", fill="mask", tokens=tokens)
    return [one, replace(one, dtype="bool")]


def waveform(name: str, facts: Facts) -> list[InputSpec]:
    """Samples, or spectra where the name is used for those too."""
    channels = find_int(facts.config, *AUDIO_CHANNEL_NAMES, near=AUDIO) or 1
    raw: list[Axes] = [("batch_size", "audio_length"), ("batch_size", channels, "audio_length")]
    return [
        *(
            InputSpec(name=name, axes=axes, dtype=facts.float_dtype, fill="uniform", low=-1, high=1)
            for axes in raw
        ),
        *spectrum(name, facts),
    ]


def spectrum(name: str, facts: Facts) -> list[InputSpec]:
    """Spectra with their bands behind the time."""
    length = "decoder_sequence_length" if name.startswith("decoder_") else "feature_length"
    sizes = (
        find_int(facts.config, *FEATURE_NAMES, near=AUDIO),
        find_int(facts.config, *WIDTH_NAMES, near=AUDIO),
    )
    shapes: list[Axes | None] = [("batch_size", length, size) if size else None for size in sizes]
    return floats(name, facts, *shapes)
