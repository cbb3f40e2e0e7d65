"""Plain recurrent networks and decoders: torch's own, hand-written loops, ragged sequences."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import (
    pack_padded_sequence,
    pad_packed_sequence,
    pad_sequence,
)

from scripts.plain_inputs import Plain, count, floats, whole


class Lstm(nn.Module):
    """A bidirectional LSTM that returns every step and the last state."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 10, num_layers=2, batch_first=True, bidirectional=True)

    def forward(self, sequence: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, steps, 6) to (batch, steps, 20) and (4, batch, 10)."""
        steps, (last, _) = self.lstm(sequence)
        return steps, last


class Gru(nn.Module):
    """A GRU over embedded tokens, classified from its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, 8, padding_idx=0)
        self.gru = nn.GRU(8, 12, num_layers=2, batch_first=True, dropout=0.1)
        self.head = nn.Linear(12, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, steps) to (batch, 3)."""
        _, last = self.gru(self.embedding(tokens))
        return functional.log_softmax(self.head(last[-1]), dim=-1)


class Elman(nn.Module):
    """torch's plain RNN, time first, with the state passed in and out."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(5, 9, nonlinearity="relu")

    def forward(self, sequence: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """(steps, batch, 5) and (1, batch, 9) to (steps, batch, 9) and (1, batch, 9)."""
        steps, state = self.rnn(sequence, state)
        return steps, state


class Packed(nn.Module):
    """Packs sequences of unequal length, as tutorials do, and pads them again."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 8, batch_first=True)

    def forward(self, sequence: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, steps, 6) and (batch,) to (batch, steps, 8) and (batch, 8)."""
        packed = pack_padded_sequence(sequence, lengths, batch_first=True, enforce_sorted=False)
        steps, (last, _) = self.lstm(packed)
        padded, _ = pad_packed_sequence(steps, batch_first=True, total_length=sequence.shape[1])
        return padded, last[0]


class Projected(nn.Module):
    """An LSTM whose output is projected to fewer features."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 12, proj_size=4, batch_first=True)

    def forward(self, sequence: Tensor) -> Tensor:
        """(batch, steps, 6) to (batch, steps, 4)."""
        steps, _ = self.lstm(sequence)
        return torch.tanh(steps)


class CellLoop(nn.Module):
    """Steps an `LSTMCell` over time by hand and stacks what it says."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(6, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, sequence: Tensor) -> Tensor:
        """(batch, steps, 6) to (batch, steps, 2)."""
        hidden = sequence.new_zeros(sequence.shape[0], 8)
        cell = torch.zeros_like(hidden)
        said = []
        for step in range(sequence.shape[1]):
            hidden, cell = self.cell(sequence[:, step], (hidden, cell))
            said.append(self.head(hidden))
        return torch.stack(said, dim=1)


class Gates(nn.Module):
    """A recurrent cell written out gate by gate, its steps from iterating over a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.gates = nn.Linear(4 + 6, 12)
        self.new = nn.Linear(4 + 6, 6)

    def forward(self, sequence: Tensor) -> Tensor:
        """(steps, batch, 4) to (batch, 6)."""
        state = torch.zeros(sequence.shape[1], 6, dtype=sequence.dtype)
        for x in sequence:
            update, reset = torch.sigmoid(self.gates(torch.cat([x, state], -1))).chunk(2, dim=-1)
            new = torch.tanh(self.new(torch.cat([x, reset * state], -1)))
            state = torch.lerp(state, new, update)
        return state


class Cells(nn.Module):
    """Two cells and a layer, a given number of times over the same input."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRUCell(5, 7)
        self.rnn = nn.RNNCell(7, 7)

    def forward(self, x: Tensor, rounds: int = 2) -> Tensor:
        """(batch, 5) to (batch, 7)."""
        state = torch.zeros(x.size(0), 7)
        for _ in range(rounds):
            state = self.rnn(self.gru(x, state), state)
        return state


class Greedy(nn.Module):
    """Encodes with a GRU and decodes token by token, each from the last one's argmax."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(24, 8)
        self.encoder = nn.GRU(8, 8, batch_first=True)
        self.decoder = nn.GRUCell(8, 8)
        self.query = nn.Linear(8, 8)
        self.head = nn.Linear(16, 24)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, steps) to (batch, 4) tokens and (batch, 4, 24) scores."""
        memory, last = self.encoder(self.embedding(tokens))
        state = last.squeeze(0)
        token = torch.full((tokens.size(0),), 1, dtype=torch.long)
        said, scores = [], []
        for _ in range(4):
            state = self.decoder(self.embedding(token), state)
            energy = torch.bmm(memory, self.query(state).unsqueeze(2)).squeeze(2)
            seen = torch.bmm(energy.softmax(dim=1).unsqueeze(1), memory).squeeze(1)
            score = self.head(torch.cat([state, seen], dim=1))
            token = score.argmax(dim=1)
            said.append(token)
            scores.append(score)
        return torch.stack(said, 1), torch.stack(scores, 1)


class Scan(nn.Module):
    """A selective state space, stepped by a loop that writes into its result."""

    def __init__(self) -> None:
        super().__init__()
        self.decay = nn.Parameter(torch.rand(8, 4))
        self.project = nn.Linear(8, 8 + 4 + 4)

    def forward(self, sequence: Tensor) -> Tensor:
        """Keeps (batch, steps, 8)."""
        delta, inward, outward = self.project(sequence).split([8, 4, 4], dim=-1)
        delta = functional.softplus(delta)
        keep = torch.exp(-delta.unsqueeze(-1) * self.decay)
        add = delta.unsqueeze(-1) * inward.unsqueeze(2) * sequence.unsqueeze(-1)
        state = torch.zeros_like(add[:, 0])
        out = torch.empty_like(sequence)
        for step in range(sequence.size(1)):
            state = keep[:, step] * state + add[:, step]
            out[:, step] = torch.einsum("bds,bs->bd", state, outward[:, step])
        return out


class LastStep(nn.Module):
    """Takes each sequence's last real step, and turns the real part round."""

    def __init__(self) -> None:
        super().__init__()
        self.forwards = nn.GRU(4, 6, batch_first=True)
        self.backwards = nn.GRU(4, 6, batch_first=True)

    def forward(self, sequence: Tensor, lengths: Tensor) -> Tensor:
        """(batch, steps, 4) and (batch,) to (batch, 12)."""
        place = torch.arange(sequence.shape[1]).unsqueeze(0)
        turned = torch.where(place < lengths.unsqueeze(1), lengths.unsqueeze(1) - 1 - place, place)
        flipped = sequence.gather(1, turned.unsqueeze(-1).expand_as(sequence))
        last = (lengths - 1).view(-1, 1, 1).expand(-1, 1, 6)
        ends = [
            layer(x)[0].gather(1, last).squeeze(1)
            for layer, x in ((self.forwards, sequence), (self.backwards, flipped))
        ]
        return torch.cat(ends, dim=-1)


class Ragged(nn.Module):
    """Works on each sequence's real part alone, and pads the results."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 6)

    def forward(self, sequence: Tensor, lengths: Tensor) -> Tensor:
        """(batch, steps, 4) and (batch,) to (batch, longest, 6)."""
        parts = [
            torch.cumsum(self.layer(row[:length]), dim=0)
            for row, length in zip(sequence, lengths.tolist(), strict=True)
        ]
        return pad_sequence(parts, batch_first=True)


class Splitting(nn.Module):
    """Splits one flat run of items into documents of given sizes and pools each."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 6)

    def forward(self, items: Tensor, first: Tensor) -> Tensor:
        """(items, 4) and the size of the first document to (2, 6)."""
        hidden = self.layer(items)
        head, tail = torch.split(hidden, [int(first), hidden.shape[0] - int(first)])
        return torch.stack([head.amax(dim=0), tail.mean(dim=0)])


class Loop(nn.Module):
    """Applies a layer as often as a tensor says."""

    def __init__(self) -> None:
        super().__init__()
        self.step = nn.Linear(5, 5)

    def forward(self, x: Tensor, n: Tensor) -> Tensor:
        """(batch, 5) and a count to (batch, 5)."""
        for _ in range(int(n)):
            x = torch.tanh(self.step(x)) + x
        return x


class CtcGreedy(nn.Module):
    """Reads out the best token of each step, repeats and blanks removed."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 5)

    def forward(self, steps: Tensor) -> Tensor:
        """(steps, 6) to (tokens,)."""
        best = torch.unique_consecutive(self.head(steps).argmax(dim=-1))
        kept: Tensor = best[best != 0]
        return kept


SEQUENCE = {"sequence": floats("batch steps 6")}
LENGTHS = whole("batch", 7, low=1)

MODULES = {
    "lstm": Plain(build=Lstm, inputs=SEQUENCE),
    "gru": Plain(build=Gru, inputs={"tokens": whole("batch steps", 30)}),
    "elman": Plain(
        build=Elman, inputs={"sequence": floats("steps batch 5"), "state": floats("1 batch 9")}
    ),
    "packed": Plain(build=Packed, inputs={**SEQUENCE, "lengths": LENGTHS}),
    "projected": Plain(build=Projected, inputs=SEQUENCE),
    "cell_loop": Plain(build=CellLoop, inputs=SEQUENCE),
    "gates": Plain(build=Gates, inputs={"sequence": floats("steps batch 4")}),
    "cells": Plain(build=Cells, inputs={"x": floats("batch 5"), "rounds": 3}),
    "greedy": Plain(build=Greedy, inputs={"tokens": whole("batch steps", 24)}),
    "scan": Plain(build=Scan, inputs={"sequence": floats("batch steps 8")}),
    "last_step": Plain(
        build=LastStep, inputs={"sequence": floats("batch steps 4"), "lengths": LENGTHS}
    ),
    "ragged": Plain(build=Ragged, inputs={"sequence": floats("batch steps 4"), "lengths": LENGTHS}),
    "splitting": Plain(build=Splitting, inputs={"items": floats("items 4"), "first": count(3)}),
    "loop": Plain(build=Loop, inputs={"x": floats("batch 5"), "n": count(3)}),
    "ctc_greedy": Plain(build=CtcGreedy, inputs={"steps": floats("steps 6")}),
}
