"""Iterations that stay whole while they are captured, each one ONNX Scan.

Unrolled, they would fix the number of their steps: of rows of a matrix, or of a sequence.
Modules reach them by way of compositions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir import tape as tapes
from torch import Tensor

Value = ir.Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Iteration:
    """An operator that becomes a Scan.

    Attributes:
        operator: Takes the states, what is scanned, and what every step reads, in this order;
            gives the last states, and what the steps give, put together.
        states: Number of states.
        scanned: The axis of each tensor that is scanned; those of numbers go by axis 0.
        numbers: How many of these, the last, hold whole numbers.
        kept: The axis along which what the steps give is put together, of each.
        body: Writes a step.
    """

    operator: Any
    states: int
    scanned: tuple[int, ...]
    numbers: int
    kept: tuple[int, ...]
    body: Callable[..., Sequence[Value]]

    def node(self, inputs: Sequence[Value | None], dtype: ir.DataType) -> ir.Node:
        """The Scan, in ONNX.

        Args:
            inputs: The operator's arguments.
            dtype: Of the states, and of all that is no whole number.
        """
        count = self.states + len(self.scanned)
        numbers_from = count - self.numbers
        taken = [
            Value(
                name=f"step_{index}",
                type=ir.TensorType(ir.DataType.INT64 if index >= numbers_from else dtype),
            )
            for index in range(count)
        ]
        step = tapes.Tape()
        given = self.body(_Writer(step, dtype), *taken, *inputs[count:])
        for index, value in enumerate(given):
            value.name, value.type = f"given_{index}", ir.TensorType(dtype)
        body = ir.Graph(taken, list(given), nodes=step.nodes, name="step")
        return ir.node(
            "Scan",
            list(inputs[:count]),
            {
                "body": body,
                "num_scan_inputs": len(self.scanned),
                "scan_input_axes": list(self.scanned),
                "scan_output_axes": list(self.kept),
            },
            num_outputs=self.states + len(self.kept),
        )


class _Writer:
    """Writes the nodes of a step; operators are its methods."""

    def __init__(self, tape: tapes.Tape, dtype: ir.DataType) -> None:
        self._tape = tape
        self._dtype = dtype

    def __getattr__(self, name: str) -> Callable[..., Value]:
        return lambda *inputs, **attributes: self._tape.op(name, inputs, attributes)

    def split(self, value: Value, count: int) -> Sequence[Value]:
        return self._tape.op_multi_out(
            "Split", [value], {"axis": -1, "num_outputs": count}, num_outputs=count
        )

    def number(self, number: float) -> Value:
        """Of the states' type."""
        return self._tape.op("Constant", [], {"value": ir.tensor(number, dtype=self._dtype)})

    def whole(self, number: int | list[int]) -> Value:
        tensor = ir.tensor(number, dtype=ir.DataType.INT64)
        return self._tape.op("Constant", [], {"value": tensor})

    def as_column(self, value: Value) -> Value:
        return self.Unsqueeze(value, self.whole([-1]))

    def as_row(self, value: Value) -> Value:
        return self.Unsqueeze(value, self.whole([-2]))

    def places(self, matrix: Value) -> Value:
        """0, 1, … of the rows of a square matrix."""
        return self.Range(self.whole(0), self._rows(matrix), self.whole(1))

    def _rows(self, matrix: Value) -> Value:
        return self.Squeeze(self.Shape(matrix, start=-2, end=-1))


# Cholesky's factor of a matrix, column by column; what each explains is taken off the rest.


def _cholesky(x: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    del places
    return torch.zeros_like(x), torch.linalg.cholesky(x)


def _cholesky_step(write: _Writer, rest: Value, place: Value) -> Sequence[Value]:
    column = write.Gather(rest, place, axis=-1)
    pivot = write.Gather(column, place, axis=-1)
    scaled = write.Div(column, write.as_column(write.Sqrt(pivot)))
    below = write.GreaterOrEqual(write.places(rest), place)
    found = write.Where(below, scaled, write.number(0))
    explained = write.Mul(write.as_column(found), write.as_row(found))
    return write.Sub(rest, explained), found


# A lower triangular system, row by row.


def _substitute(start: Tensor, lower: Tensor, right: Tensor, places: Tensor) -> Tensor:
    del start, places
    solved: Tensor = torch.linalg.solve_triangular(lower, right, upper=False)
    return solved


def _substitute_step(
    write: _Writer, found: Value, lower: Value, right: Value, place: Value
) -> Sequence[Value]:
    known = write.MatMul(write.as_row(lower), found)
    pivot = write.as_column(write.Gather(lower, place, axis=-1))
    row = write.Div(write.Sub(right, write.Squeeze(known, write.whole([-2]))), pivot)
    here = write.as_column(write.Equal(write.places(found), place))
    return (write.Where(here, write.as_row(row), found),)


# Eigenvalues and vectors of a symmetric matrix, by rotations of pairs of rows (Jacobi). A
# round turns as many pairs as there are, by the circle method of tournaments.


def _rotate(x: Tensor, vectors: Tensor, rounds: Tensor) -> tuple[Tensor, Tensor]:
    del vectors, rounds
    values, found = torch.linalg.eigh(x)
    return torch.diag_embed(values), found


def _rotate_step(write: _Writer, x: Value, vectors: Value, number: Value) -> Sequence[Value]:
    places = write.places(x)
    rows = write.Size(places)
    last = write.Sub(write.Add(rows, write.Mod(rows, write.whole(2))), write.whole(1))
    # Of a number of players made even, the last one meets the one who would meet himself.
    met = write.Mod(write.Sub(number, places), last)
    half = write.Div(write.Add(last, write.whole(1)), write.whole(2))
    alone = write.Mod(write.Mul(number, half), last)
    partner = write.Where(write.Equal(met, places), last, met)
    partner = write.Where(write.Equal(places, last), alone, partner)
    partner = write.Where(write.Less(partner, rows), partner, places)
    paired = write.Equal(write.as_column(partner), write.as_row(places))
    paired = write.CastLike(paired, x)
    one = write.CastLike(write.Equal(write.as_column(places), write.as_row(places)), x)
    last_axis = write.whole([-1])
    own = write.ReduceSum(write.Mul(x, one), last_axis, keepdims=0)
    gap = write.Sub(write.Gather(own, partner, axis=-1), own)
    between = write.ReduceSum(write.Mul(x, paired), last_axis, keepdims=0)
    zero = write.number(0)
    twice = write.Where(write.Equal(partner, places), zero, write.Mul(between, write.number(2)))
    squares = write.Add(write.Mul(gap, gap), write.Mul(twice, twice))
    length = write.Add(write.Abs(gap), write.Sqrt(squares))
    length = write.Where(write.Equal(length, zero), write.number(1), length)
    second = write.And(write.Equal(gap, zero), write.Greater(places, partner))
    turned = write.Or(write.Less(gap, zero), second)
    tangent = write.Div(write.Where(turned, write.Neg(twice), twice), length)
    squared = write.Add(write.Mul(tangent, tangent), write.number(1))
    cosine = write.Div(write.number(1), write.Sqrt(squared))
    sine = write.Mul(tangent, cosine)
    turn = write.Add(
        write.Mul(one, write.as_column(cosine)), write.Mul(paired, write.as_column(sine))
    )
    # Turned back, a pair's sines have the other sign; a row without a partner has none.
    back = write.Sub(
        write.Mul(one, write.as_column(cosine)), write.Mul(paired, write.as_column(sine))
    )
    return write.MatMul(write.MatMul(back, x), turn), write.MatMul(vectors, turn)


# An LSTM whose output is projected, of one layer and direction; all that its gates take of
# the sequence is computed before, and what each step says is projected afterwards.


def _projected_lstm(
    hidden: Tensor, cell: Tensor, gates: Tensor, weight: Tensor, projection: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    said = []
    for step in gates:
        taken, forgotten, new, shown = (step + hidden @ weight).chunk(4, -1)
        cell = forgotten.sigmoid() * cell + taken.sigmoid() * new.tanh()
        said.append(shown.sigmoid() * cell.tanh())
        hidden = said[-1] @ projection
    return hidden, cell, torch.stack(said)


def _projected_lstm_step(  # noqa: PLR0913, PLR0917 - as many tensors as it has
    write: _Writer, hidden: Value, cell: Value, gates: Value, weight: Value, projection: Value
) -> Sequence[Value]:
    whole = write.Add(gates, write.MatMul(hidden, weight))
    taken, forgotten, new, shown = write.split(whole, 4)
    kept = write.Mul(write.Sigmoid(forgotten), cell)
    cell = write.Add(kept, write.Mul(write.Sigmoid(taken), write.Tanh(new)))
    said = write.Mul(write.Sigmoid(shown), write.Tanh(cell))
    return write.MatMul(said, projection), cell, said


def _operator(name: str, schema: str, function: Callable[..., Any], fake: Any) -> Any:
    operator: Any = torch.library.custom_op(
        f"autoexport::{name}", function, mutates_args=(), schema=schema
    )
    operator.register_fake(fake)
    return operator


def _fake_lstm(
    hidden: Tensor, cell: Tensor, gates: Tensor, weight: Tensor, projection: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    del weight, projection
    said = gates.new_empty([*gates.shape[:-1], cell.shape[-1]])
    return torch.empty_like(hidden), torch.empty_like(cell), said


_TWO = "-> (Tensor, Tensor)"
ITERATIONS = {
    "cholesky": Iteration(
        operator=_operator(
            "cholesky",
            f"(Tensor x, Tensor places) {_TWO}",
            _cholesky,
            lambda x, _: (torch.empty_like(x), torch.empty_like(x)),
        ),
        states=1,
        scanned=(0,),
        numbers=1,
        kept=(-1,),
        body=_cholesky_step,
    ),
    "substitute": Iteration(
        operator=_operator(
            "substitute",
            "(Tensor start, Tensor lower, Tensor right, Tensor places) -> Tensor",
            _substitute,
            lambda *given: torch.empty_like(given[0]),
        ),
        states=1,
        scanned=(-2, -2, 0),
        numbers=1,
        kept=(),
        body=_substitute_step,
    ),
    "rotate": Iteration(
        operator=_operator(
            "rotate",
            f"(Tensor x, Tensor vectors, Tensor rounds) {_TWO}",
            _rotate,
            lambda *given: (torch.empty_like(given[0]), torch.empty_like(given[1])),
        ),
        states=2,
        scanned=(0,),
        numbers=1,
        kept=(),
        body=_rotate_step,
    ),
    "projected_lstm": Iteration(
        operator=_operator(
            "projected_lstm",
            "(Tensor hidden, Tensor cell, Tensor gates, Tensor weight, Tensor projection)"
            " -> (Tensor, Tensor, Tensor)",
            _projected_lstm,
            _fake_lstm,
        ),
        states=2,
        scanned=(0,),
        numbers=0,
        kept=(0,),
        body=_projected_lstm_step,
    ),
}
