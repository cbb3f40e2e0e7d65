"""The generic shrinker, on a handful of default configs."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import CONFIG_MAPPING, PretrainedConfig

from scripts.shrinking import LADDER, shrink


def tiny(kind: str) -> Any:
    return shrink(CONFIG_MAPPING[kind](), LADDER[0])


def test_special_tokens_are_in_the_vocabulary_and_distinct_ones_stay_distinct() -> None:
    default: Any = CONFIG_MAPPING["qwen2_vl"]()
    config = tiny("qwen2_vl")
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    assert min(getattr(default, name) for name in names) >= config.text_config.vocab_size
    ids = {getattr(config, name) for name in names}
    assert len(ids) == len(names)
    assert max(ids) < config.text_config.vocab_size


@pytest.mark.parametrize("kind", ["bert", "llama", "vit", "gpt2"])
def test_heads_divide_the_width(kind: str) -> None:
    config = tiny(kind)
    assert config.hidden_size == 64
    assert config.num_attention_heads == 4
    assert config.num_hidden_layers == 2


def test_stages_keep_their_ratios() -> None:
    config = tiny("swin")
    assert config.embed_dim % config.num_heads[0] == 0
    assert set(config.depths) == {1}


def test_sub_configs_are_shrunk_too() -> None:
    config = tiny("clip")
    parts: list[PretrainedConfig] = [config.text_config, config.vision_config]
    assert {part.hidden_size for part in parts} == {64}


def test_there_is_one_layer_of_each_kind() -> None:
    config = tiny("gemma3_text")
    assert sorted(config.layer_types) == ["full_attention", "sliding_attention"]


@pytest.mark.parametrize("kind", ["llama4", "blip-2"])
def test_the_same_config_on_every_call(kind: str) -> None:
    assert tiny(kind).to_dict() == tiny(kind).to_dict()
