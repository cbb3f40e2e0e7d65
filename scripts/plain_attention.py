"""Plain attention: written out, torch's own, masked, rotated, windowed, cached, routed."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from scripts.plain_inputs import Plain, floats, truths, whole

WIDTH, HEADS, HEAD = 16, 4, 4


def heads(x: Tensor, number: int = HEADS) -> Tensor:
    """(batch, steps, width) to (batch, heads, steps, head)."""
    return x.view(x.shape[0], x.shape[1], number, -1).transpose(1, 2)


def joined(x: Tensor) -> Tensor:
    """(batch, heads, steps, head) to (batch, steps, width)."""
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], -1)


class Projecting(nn.Module):
    """Queries, keys and values from one projection, and the one at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Three of (batch, heads, steps, head)."""
        query, key, value = self.project(x).chunk(3, dim=-1)
        return heads(query), heads(key), heads(value)

    def finish(self, mixed: Tensor) -> Tensor:
        """(batch, heads, steps, head) to (batch, steps, width)."""
        out: Tensor = self.out(joined(mixed))
        return out


class WrittenOut(Projecting):
    """Softmax attention in plain matrix products, its weights returned as well."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, steps, 16) to the same and (batch, 4, steps, steps)."""
        query, key, value = self.split(x)
        scores = query @ key.transpose(-2, -1) / math.sqrt(query.size(-1))
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(x.dtype)
        return self.finish(weights @ value), weights


class Causal(Projecting):
    """nanoGPT's way: a triangle kept as a buffer and cut to the sequence."""

    triangle: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("triangle", torch.tril(torch.ones(1, 1, 64, 64)))

    def forward(self, x: Tensor) -> Tensor:
        """Keeps (batch, steps, 16)."""
        steps = x.size(1)
        query, key, value = self.split(x)
        scores = (query @ key.transpose(-2, -1)) * HEAD**-0.5
        scores = scores.masked_fill(self.triangle[:, :, :steps, :steps] == 0, float("-inf"))
        return self.finish(functional.softmax(scores, dim=-1) @ value)


class Fused(Projecting):
    """`scaled_dot_product_attention`, causal, over a mask of real steps, and plain."""

    def forward(self, x: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, steps, 16) and (batch, steps) to two of the former."""
        query, key, value = self.split(x)
        causal = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        mask = real[:, None, None, :].expand(-1, 1, x.shape[1], -1)
        masked = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.finish(causal), self.finish(torch.nan_to_num(masked))


class Grouped(nn.Module):
    """Fewer heads of keys and values than of queries."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(WIDTH, WIDTH, bias=False)
        self.key = nn.Linear(WIDTH, 2 * HEAD, bias=False)
        self.value = nn.Linear(WIDTH, 2 * HEAD, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Keeps (batch, steps, 16)."""
        query, key, value = heads(self.query(x)), heads(self.key(x), 2), heads(self.value(x), 2)
        mixed = functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, enable_gqa=True
        )
        return joined(mixed)


class MultiHead(nn.Module):
    """`nn.MultiheadAttention` with padding left out, its weights returned."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, add_bias_kv=True)

    def forward(self, x: Tensor, padded: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, steps, 16) and (batch, steps) to the former and its weights."""
        padded = padded & (torch.arange(padded.shape[1]) > 0)
        out, weights = self.attention(x, x, x, key_padding_mask=padded)
        return out, weights


class Cross(nn.Module):
    """Few learnt latents that look at a long sequence, as in a Perceiver."""

    def __init__(self) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(5, WIDTH))
        self.look = nn.MultiheadAttention(WIDTH, HEADS, kdim=6, vdim=6, batch_first=True)
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, sequence: Tensor) -> Tensor:
        """(batch, steps, 6) to (batch, 5, 16)."""
        latents = self.latents.expand(sequence.shape[0], -1, -1)
        seen, _ = self.look(latents, sequence, sequence, need_weights=False)
        normed: Tensor = self.norm(latents + seen)
        return normed


class Encoder(nn.Module):
    """`nn.TransformerEncoder` with padding, which has a fast path of its own in eval."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 32, batch_first=True, activation="gelu")
        self.layers = nn.TransformerEncoder(layer, 2)

    def forward(self, x: Tensor, padded: Tensor) -> Tensor:
        """(batch, steps, 16) and (batch, steps) to (batch, 16)."""
        padded = padded & (torch.arange(padded.shape[1]) > 0)
        hidden = self.layers(x, src_key_padding_mask=padded)
        real = (~padded).unsqueeze(-1).to(x.dtype)
        mean: Tensor = (hidden * real).sum(dim=1) / real.sum(dim=1)
        return mean


class Translator(nn.Module):
    """`nn.Transformer` with sinusoidal positions and a causal mask made in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.source = nn.Embedding(20, WIDTH)
        self.target = nn.Embedding(22, WIDTH)
        self.transformer = nn.Transformer(WIDTH, HEADS, 1, 1, 32, batch_first=True)
        self.head = nn.Linear(WIDTH, 22)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """(batch, steps) and (batch, targets) to (batch, targets, 22)."""
        mask = nn.Transformer.generate_square_subsequent_mask(target.size(1))
        hidden = self.transformer(
            self.source(source) + _waves(source.size(1)),
            self.target(target) + _waves(target.size(1)),
            tgt_mask=mask,
        )
        logits: Tensor = self.head(hidden)
        return logits


def _waves(steps: int) -> Tensor:
    places = torch.arange(steps).unsqueeze(1)
    rates = torch.exp(torch.arange(0, WIDTH, 2) * (-math.log(10000.0) / WIDTH))
    waves = torch.zeros(steps, WIDTH)
    waves[:, 0::2] = torch.sin(places * rates)
    waves[:, 1::2] = torch.cos(places * rates)
    return waves


class Rotary(Projecting):
    """Rotates queries and keys by their place, halves swapped."""

    def forward(self, x: Tensor) -> Tensor:
        """Keeps (batch, steps, 16)."""
        query, key, value = self.split(x)
        rates = 1.0 / 10000 ** (torch.arange(0, HEAD, 2).float() / HEAD)
        angles = torch.outer(torch.arange(x.shape[1]).float(), rates)
        angles = torch.cat([angles, angles], dim=-1)
        query, key = _rotated(query, angles), _rotated(key, angles)
        return self.finish((query @ key.mT).softmax(-1) @ value)


def _rotated(x: Tensor, angles: Tensor) -> Tensor:
    first, second = x[..., : HEAD // 2], x[..., HEAD // 2 :]
    return x * angles.cos() + torch.cat((-second, first), dim=-1) * angles.sin()


class ComplexRotary(Projecting):
    """Rotates queries and keys as complex numbers, as Llama's first code does."""

    turns: Tensor

    def __init__(self) -> None:
        super().__init__()
        rates = 1.0 / 10000 ** (torch.arange(0, HEAD, 2).float() / HEAD)
        angles = torch.outer(torch.arange(64).float(), rates)
        self.register_buffer("turns", torch.polar(torch.ones_like(angles), angles))

    def forward(self, x: Tensor) -> Tensor:
        """Keeps (batch, steps, 16)."""
        query, key, value = self.split(x)
        turns = self.turns[: x.shape[1]]
        query, key = (
            torch.view_as_real(
                torch.view_as_complex(y.reshape(*y.shape[:-1], -1, 2)) * turns
            ).flatten(-2)
            for y in (query, key)
        )
        return self.finish((query @ key.mT).softmax(-1) @ value)


class Relative(Projecting):
    """A learnt bias by distance, in buckets that grow with it, as in T5."""

    bounds: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Embedding(8, HEADS)
        self.register_buffer("bounds", torch.tensor([-6, -3, -1, 1, 3, 6, 10]))

    def forward(self, x: Tensor) -> Tensor:
        """Keeps (batch, steps, 16)."""
        query, key, value = self.split(x)
        places = torch.arange(x.shape[1])
        distances = places[None, :] - places[:, None]
        bias = self.bias(torch.bucketize(distances, self.bounds)).permute(2, 0, 1)
        slopes = torch.tensor([2.0**-i for i in range(HEADS)]).view(-1, 1, 1)
        scores = query @ key.mT + bias - slopes * distances.abs()
        return self.finish(scores.softmax(-1) @ value)


class Linearised(Projecting):
    """Attention without softmax: cumulative sums of keys with values."""

    def forward(self, x: Tensor) -> Tensor:
        """Keeps (batch, steps, 16)."""
        query, key, value = self.split(x)
        query, key = functional.elu(query) + 1, functional.elu(key) + 1
        memory = torch.einsum("bhsd,bhse->bhsde", key, value).cumsum(dim=2)
        mixed = torch.einsum("bhsd,bhsde->bhse", query, memory)
        scale = torch.einsum("bhsd,bhsd->bhs", query, key.cumsum(dim=2)).clamp(min=1e-6)
        return self.finish(mixed / scale.unsqueeze(-1))


class Windows(Projecting):
    """Attention inside shifted windows of an image, as in Swin."""

    def forward(self, image: Tensor) -> Tensor:
        """Keeps (batch, height, width, 16); sizes are multiples of 8."""
        batch, height, width, channels = image.shape
        x = torch.roll(image, shifts=(-4, -4), dims=(1, 2))
        x = x.view(batch, height // 8, 8, width // 8, 8, channels).permute(0, 1, 3, 2, 4, 5)
        query, key, value = self.split(x.reshape(-1, 64, channels))
        mixed = self.finish(functional.scaled_dot_product_attention(query, key, value))
        x = mixed.view(batch, height // 8, width // 8, 8, 8, channels).permute(0, 1, 3, 2, 4, 5)
        return torch.roll(x.reshape(batch, height, width, channels), (4, 4), (1, 2))


class Cached(Projecting):
    """One step of decoding: new keys and values behind those of the steps before."""

    def forward(
        self, x: Tensor, past_key: Tensor, past_value: Tensor
    ) -> dict[str, Tensor | tuple[Tensor, Tensor]]:
        """(batch, 1, 16) and two of (batch, 4, steps, 4) to the former and longer ones."""
        query, key, value = self.split(x)
        key, value = torch.cat([past_key, key], dim=2), torch.cat([past_value, value], dim=2)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return {"hidden": self.finish(mixed), "past": (key, value)}


class LazyMask(Projecting):
    """Builds its mask on first use and keeps it until a longer one is needed."""

    def __init__(self) -> None:
        super().__init__()
        self.mask: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Keeps (batch, steps, 16)."""
        steps = x.shape[1]
        if self.mask is None or self.mask.shape[0] < steps:
            self.mask = torch.full((steps, steps), float("-inf")).triu(1)
        query, key, value = self.split(x)
        scores = query @ key.mT + self.mask[:steps, :steps]
        return self.finish(scores.softmax(-1) @ value)


class Experts(nn.Module):
    """A mixture of experts: each in turn takes the tokens that are routed to it."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, 4, bias=False)
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Keeps (batch, steps, 16)."""
        flat = x.reshape(-1, WIDTH)
        weights, chosen = self.router(flat).softmax(dim=-1).topk(2, dim=-1)
        out = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            rows, slots = torch.where(chosen == number)
            if rows.numel() == 0:
                continue
            out.index_add_(0, rows, expert(flat[rows]) * weights[rows, slots, None])
        return out.view_as(x)


class SoftExperts(nn.Module):
    """All experts at once as one batched product, weighed by a sparse gate."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, 4)
        self.inward = nn.Parameter(torch.randn(4, WIDTH, 8) * 0.2)
        self.outward = nn.Parameter(torch.randn(4, 8, WIDTH) * 0.2)

    def forward(self, x: Tensor) -> Tensor:
        """Keeps (batch, steps, 16)."""
        scores = self.gate(x)
        best, chosen = torch.topk(scores, 2, dim=-1)
        gates = torch.zeros_like(scores).scatter(-1, chosen, best.softmax(dim=-1))
        hidden = functional.gelu(torch.einsum("bsw,ewh->bseh", x, self.inward))
        return torch.einsum("bseh,ehw,bse->bsw", hidden, self.outward, gates)


STEPS = {"x": floats("batch steps 16")}
PADDED = {**STEPS, "padded": truths("batch steps")}
PAST = floats("batch 4 steps 4")

MODULES = {
    "written_out_attention": Plain(build=WrittenOut, inputs=STEPS),
    "causal_attention": Plain(build=Causal, inputs=STEPS),
    "fused_attention": Plain(build=Fused, inputs={**STEPS, "real": truths("batch steps")}),
    "grouped_attention": Plain(build=Grouped, inputs=STEPS),
    "multi_head_attention": Plain(build=MultiHead, inputs=PADDED),
    "cross_attention": Plain(build=Cross, inputs={"sequence": floats("batch steps 6")}),
    "transformer_encoder": Plain(build=Encoder, inputs=PADDED),
    "transformer": Plain(
        build=Translator,
        inputs={"source": whole("batch steps", 20), "target": whole("batch targets", 22)},
    ),
    "rotary": Plain(build=Rotary, inputs=STEPS),
    "complex_rotary": Plain(build=ComplexRotary, inputs=STEPS),
    "relative_bias": Plain(build=Relative, inputs=STEPS),
    "linear_attention": Plain(build=Linearised, inputs=STEPS),
    "window_attention": Plain(build=Windows, inputs={"image": floats("batch height width 16")}),
    "cached_attention": Plain(
        build=Cached,
        inputs={"x": floats("batch 1 16"), "past_key": PAST, "past_value": PAST},
    ),
    "lazy_mask": Plain(build=LazyMask, inputs=STEPS),
    "experts": Plain(build=Experts, inputs=STEPS),
    "soft_experts": Plain(build=SoftExperts, inputs=STEPS),
}
