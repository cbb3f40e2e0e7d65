"""Verification against real ONNX files and real ONNX Runtime."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper, parser
from torch import nn

from selector.comparison import compare, settle_ties, tolerance_for
from selector.errors import InvalidRequestError, VerificationError
from selector.reference import Reference, compute_reference
from selector.structure import read_facts
from selector.verification import VerificationReport, verify_file

HEADER = '<ir_version: 10, opset_import: ["" : 18]>\n'
SIZES = {"batch_size": 2, "width": 5}
OTHER = {"batch_size": 3, "width": 7}


def normal(generator: torch.Generator, style: str, sizes: Mapping[str, int]) -> torch.Tensor:
    values = torch.randn(sizes["batch_size"], sizes["width"], generator=generator)
    if style == "positive":
        return values.abs()
    return -values.abs() if style == "negative" else values


def rows(
    generator: torch.Generator, style: str, sizes: Mapping[str, int]
) -> torch.Tensor:
    return torch.randn(sizes["batch_size"], 4, generator=generator)


@dataclass(frozen=True)
class Recipe:
    """Inputs under full control of the test, drawn as `ExampleInputs` draws them."""

    draw: Mapping[str, Callable[..., torch.Tensor]]
    axes: Mapping[str, Mapping[int, str]]
    sizes: Mapping[str, int] = field(default_factory=lambda: SIZES)
    other_sizes: Mapping[str, int] = field(default_factory=lambda: OTHER)
    constants: Mapping[str, object] = field(default_factory=dict)

    @property
    def dynamic_axes(self) -> Mapping[str, Mapping[int, str]]:
        return self.axes

    def make(
        self, *, seed: int = 0, sizes: Mapping[str, int] | None = None, style: str = "example"
    ) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return {
            name: draw(generator, style, sizes or self.sizes) for name, draw in self.draw.items()
        }


def recipe(**changes: Any) -> Any:
    given = {"draw": {"x": normal}, "axes": {"x": {0: "batch_size", 1: "width"}}} | changes
    return Recipe(**given)


def fixed_recipe(draw: Callable[..., torch.Tensor] = normal) -> Any:
    return recipe(draw={"x": draw}, axes={}, other_sizes={})


class Function(nn.Module):
    """A module around a function of its inputs."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x)


def reference_of(
    function: Callable[..., Any], inputs: Any = None, **options: bool
) -> Reference:
    return compute_reference(Function(function), inputs or recipe(), **options)


def tag(graph: onnx.GraphProto, prefix: str = "") -> None:
    for index, node in enumerate(graph.node):
        node.name = f"{prefix}/{node.op_type}_{index}"
        onnx.helper.set_model_props  # noqa: B018
        for key, value in (
            ("autoexport.module", ""),
            ("autoexport.call", "0"),
            ("autoexport.attribution", "traced"),
        ):
            node.metadata_props.add(key=key, value=value)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                tag(attribute.g, f"{node.name}/{attribute.name}")
