"""Tiny random-weight transformers models for tests and measurements; nothing is downloaded."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    MODEL_MAPPING,
    AutoModel,
    PretrainedConfig,
)

TEXT = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
DECODER = TEXT | {"num_key_value_heads": 2, "head_dim": 8}
VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
SEQ2SEQ = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
}
STAGES = {"hidden_sizes": [16, 32], "depths": [1, 1]}
RESNET: dict[str, Any] = {"embedding_size": 16, **STAGES}
AUDIO = {
    "hidden_size": 32,
    "conv_dim": (16, 16, 16),
    "conv_stride": (5, 2, 2),
    "conv_kernel": (10, 3, 3),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}

SIZES: dict[str, dict[str, Any]] = {
    "bert": TEXT,
    "roberta": TEXT,
    "gpt2": {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    | {"bos_token_id": 98, "eos_token_id": 98},
    "llama": DECODER,
    "mistral": DECODER,
    "mixtral": DECODER | {"num_local_experts": 4},
    "gemma3": {
        "text_config": DECODER | {"layer_types": ["sliding_attention", "full_attention"]},
        "vision_config": VISION,
        "mm_tokens_per_image": 4,
        "boi_token_index": 95,
        "eoi_token_index": 96,
        "image_token_index": 97,
    },
    "qwen3": DECODER,
    "mamba": {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
    "t5": {
        "vocab_size": 99,
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 64,
        "num_layers": 2,
        "num_heads": 4,
    },
    "bart": SEQ2SEQ | {"vocab_size": 99, "max_position_embeddings": 64},
    "whisper": SEQ2SEQ
    | {
        "vocab_size": 99,
        "num_mel_bins": 16,
        "max_source_positions": 30,
        "max_target_positions": 40,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 3,
    },
    "wav2vec2": TEXT | AUDIO,
    "vit": VISION,
    "swin": {
        "image_size": 32,
        "patch_size": 4,
        "embed_dim": 16,
        "depths": [1, 2],
        "num_heads": [2, 4],
        "window_size": 4,
    },
    "convnext": STAGES | {"num_stages": 2, "image_size": 32},
    "resnet": RESNET,
    "detr": SEQ2SEQ | {"num_queries": 12},
    "segformer": {
        "num_encoder_blocks": 2,
        "depths": [1, 1],
        "sr_ratios": [4, 2],
        "hidden_sizes": [16, 32],
        "patch_sizes": [7, 3],
        "strides": [4, 2],
        "num_attention_heads": [1, 2],
        "mlp_ratios": [2, 2],
        "decoder_hidden_size": 32,
    },
    "clip": {
        "text_config": TEXT | {"bos_token_id": 97, "eos_token_id": 98},
        "vision_config": VISION,
    }
    | {"projection_dim": 24},
    "siglip": {
        "text_config": TEXT | {"projection_size": 32, "bos_token_id": 97, "eos_token_id": 98},
        "vision_config": VISION,
    },
    "blip": {
        "text_config": TEXT | {"encoder_hidden_size": 32, "bos_token_id": 1, "sep_token_id": 2},
        "vision_config": VISION,
        "projection_dim": 24,
    },
    "layoutlmv3": TEXT
    | {
        "max_2d_position_embeddings": 1024,
        "coordinate_size": 5,
        "shape_size": 6,
        "input_size": 32,
        "patch_size": 8,
    },
    "sam": {
        "vision_config": {
            "hidden_size": 32,
            "output_channels": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 64,
            "patch_size": 8,
            "mlp_dim": 64,
            "window_size": 4,
            "global_attn_indexes": [1],
            "num_pos_feats": 8,
        },
        "prompt_encoder_config": {"hidden_size": 16, "image_size": 64, "patch_size": 8},
        "mask_decoder_config": {
            "hidden_size": 16,
            "mlp_dim": 32,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 16,
        },
    },
    "deberta-v2": TEXT | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "electra": TEXT | {"embedding_size": 16},
    "longformer": TEXT | {"attention_window": [4, 4]},
    "perceiver": {
        "num_latents": 8,
        "d_latents": 16,
        "d_model": 24,
        "num_blocks": 1,
        "num_self_attends_per_block": 2,
        "num_self_attention_heads": 4,
        "num_cross_attention_heads": 4,
    },
    "patchtsmixer": {
        "context_length": 32,
        "patch_length": 8,
        "patch_stride": 8,
        "num_input_channels": 3,
        "d_model": 8,
        "num_layers": 2,
        "prediction_length": 4,
    },
    "speecht5": SEQ2SEQ
    | {key: value for key, value in AUDIO.items() if key != "conv_dim"}
    | {
        "conv_dim": (16, 16, 16),
        "vocab_size": 99,
        "hidden_size": 32,
        "num_mel_bins": 20,
        "speech_decoder_prenet_units": 16,
        "speech_decoder_postnet_units": 16,
        "speaker_embedding_dim": 8,
        "max_speech_positions": 64,
        "max_text_positions": 64,
    },
    "encodec": {
        "num_filters": 4,
        "hidden_size": 16,
        "codebook_size": 32,
        "codebook_dim": 16,
        "num_lstm_layers": 1,
        "upsampling_ratios": [4, 2],
        "sampling_rate": 800,
    },
}

TINY: tuple[str, ...] = tuple(SIZES)


def tiny_config(name: str) -> PretrainedConfig:
    """The config of a tiny model of that type; `name` is one of `TINY`."""
    sizes = dict(SIZES[name])
    if name == "detr":
        # The default backbone is a timm model, which is not installed and would be downloaded.
        sizes["backbone_config"] = _resnet_backbone()
        sizes["use_timm_backbone"] = False
    config: PretrainedConfig = CONFIG_MAPPING[name](**sizes)
    config.architectures = [_base_class(config).__name__]
    return config


def tiny_model(name: str, *, seed: int = 0) -> nn.Module:
    """A tiny model with random weights in eval mode, the same on every call."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        build: Any = AutoModel.from_config
        model: nn.Module = build(tiny_config(name))
    return model.eval().requires_grad_(requires_grad=False)


def _resnet_backbone() -> PretrainedConfig:
    build: Any = CONFIG_MAPPING["resnet"]
    config: PretrainedConfig = build(**RESNET, out_features=["stage2"])
    return config


def _base_class(config: PretrainedConfig) -> type[nn.Module]:
    # The mapping's type says it holds no tuples; it does, where a config has several classes.
    found: Any = MODEL_MAPPING[type(config)]
    base: type[nn.Module] = found[0] if isinstance(found, tuple) else found
    return base
