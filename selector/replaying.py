"""Runs a file on random numbers that were drawn elsewhere, in place of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
from onnx import helper

from selector.draws import NORMAL, UNIFORM, Draw
from selector.runtime import Session

if TYPE_CHECKING:
    from selector.comparison import Array
    from selector.reference import Case

# What draws, and what it draws before anything is computed of it.
KINDS = {
    "RandomNormal": NORMAL,
    "RandomNormalLike": NORMAL,
    "RandomUniform": UNIFORM,
    "RandomUniformLike": UNIFORM,
    "Bernoulli": UNIFORM,
}
OTHERS = frozenset({"Multinomial"})
_PREFIX = "autoexport.draw"


class DrawsError(Exception):
    """The file does not draw the random numbers that forward draws."""


class Replay:
    """A copy of a file, in memory, whose random numbers are further inputs.

    Args:
        path: The file, its external data beside it.

    Raises:
        DrawsError: Its random numbers cannot be handed in.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        model = onnx.load(path, load_external_data=False)
        self._drawing: list[onnx.NodeProto] = []
        self._replace(model.graph)
        self._model = model.SerializeToString()

    def session(self, level: str) -> Session:
        """The copy, loaded; `level` is the optimiser's.

        Raises:
            RuntimeRefusalError: It cannot be loaded.
        """
        return Session(self.path, level, model=self._model)

    def run(self, session: Session, case: Case) -> dict[str, Array]:
        """Runs the copy on a case's inputs and random numbers.

        Raises:
            DrawsError: The file draws other ones, by their number, kinds or shapes.
            RuntimeRefusalError: It does not run.
        """
        self._require_same(case.draws)
        drawn = {
            _name(place): _scaled(node, draw.values)
            for place, (node, draw) in enumerate(zip(self._drawing, case.draws, strict=True))
        }
        outputs = session.run({**case.inputs, **drawn})
        for place, draw in enumerate(case.draws):
            shape = outputs.pop(_shape_name(place), None)
            if shape is not None:
                _require_shape(place, draw, tuple(shape.tolist()))
        return outputs

    def _require_same(self, draws: Sequence[Draw]) -> None:
        told = f"drawn tensors of random numbers: {len(draws)} in forward, "
        if not self._drawing:
            raise DrawsError(f"{told}none in the file, where they are constants")
        if len(self._drawing) != len(draws):
            raise DrawsError(f"{told}{len(self._drawing)} in the file")
        for place, (node, draw) in enumerate(zip(self._drawing, draws, strict=True)):
            if KINDS[node.op_type] != draw.kind:
                raise DrawsError(f"draw {place} is {draw.kind} in forward, {node.op_type} here")
            shape = _attribute(node, "shape")
            if shape is not None:
                _require_shape(place, draw, tuple(shape))

    def _replace(self, graph: onnx.GraphProto) -> None:
        nodes: list[onnx.NodeProto] = []
        for node in graph.node:
            if node.op_type in OTHERS:
                raise DrawsError(f"what {node.op_type} draws cannot be compared")
            if any(_draws(attribute) for attribute in node.attribute):
                raise DrawsError("what is drawn in a loop or a branch cannot be compared")
            nodes += self._handed_in(graph, node) if node.op_type in KINDS else [node]
        del graph.node[:]
        graph.node.extend(nodes)

    def _handed_in(self, graph: onnx.GraphProto, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """What computes the node's result of an input."""
        place = len(self._drawing)
        self._drawing.append(node)
        name, (result,) = _name(place), node.output
        graph.input.append(helper.make_tensor_value_info(name, onnx.TensorProto.DOUBLE, None))
        if not node.input:
            dtype = _attribute(node, "dtype", onnx.TensorProto.FLOAT)
            return [helper.make_node("Cast", [name], [result], to=dtype)]
        (like,) = node.input
        shape = helper.make_tensor_value_info(_shape_name(place), onnx.TensorProto.INT64, [None])
        graph.output.append(shape)
        nodes = [helper.make_node("Shape", [like], [shape.name])]
        if node.op_type == "Bernoulli":
            chances, chosen = f"{name}.chances", f"{name}.chosen"
            nodes += [
                helper.make_node("Cast", [like], [chances], to=onnx.TensorProto.DOUBLE),
                helper.make_node("Less", [name, chances], [chosen]),
            ]
            name = chosen
        dtype = _attribute(node, "dtype")
        if dtype is None:
            return [*nodes, helper.make_node("CastLike", [name, like], [result])]
        return [*nodes, helper.make_node("Cast", [name], [result], to=dtype)]


def _name(place: int) -> str:
    return f"{_PREFIX}.{place}"


def _shape_name(place: int) -> str:
    return f"{_PREFIX}.{place}.shape"


def _attribute(node: onnx.NodeProto, name: str, default: object = None) -> Any:
    found = (helper.get_attribute_value(item) for item in node.attribute if item.name == name)
    return next(found, default)


def _draws(attribute: onnx.AttributeProto) -> bool:
    graphs = [attribute.g] if attribute.HasField("g") else attribute.graphs
    return any(
        node.op_type in KINDS or node.op_type in OTHERS or any(map(_draws, node.attribute))
        for graph in graphs
        for node in graph.node
    )


def _scaled(node: onnx.NodeProto, values: Array) -> Array:
    """What the node makes of such numbers, by its mean and deviation or its bounds."""
    if node.op_type.startswith("RandomNormal"):
        start, width = _attribute(node, "mean", 0.0), _attribute(node, "scale", 1.0)
    else:
        start = _attribute(node, "low", 0.0)
        width = _attribute(node, "high", 1.0) - start
    scaled: Array = values * width + start
    return scaled


def _require_shape(place: int, draw: Draw, shape: tuple[int, ...]) -> None:
    if draw.values.shape != shape:
        told = f"draw {place} has the shape {draw.values.shape} in forward, {shape} in the file"
        raise DrawsError(told)
