"""What widens a tolerance or excuses an output: rounding that a model amplifies, and chance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from selector.cases import EXAMPLE_SEED
from selector.comparison import Array, compare, tolerance_for
from selector.eager import Eager
from strategies.calling import unique_names

if TYPE_CHECKING:
    from selector.reference import Reference

# Runs of eager on one machine differ by far less than runtimes do.
REPEAT_SHARE = 0.1
NOISE_SEED = 1
REPEAT_SEED = 2


def examine(module: nn.Module, reference: Reference) -> Reference:
    """Finds out how far rounding moves each output, and which ones eager does not reproduce.

    Up to three forwards on the example: with rounding errors added; once more without,
    where those move an output; and where that differs too, with the very random numbers of
    the reference. An output that even these do not reproduce was computed by a module that
    has changed since, so nothing excuses it.

    Args:
        module: What the reference was computed from.
        reference: Its answers.
    """
    runs = _Examination(module, reference)
    noise = runs.noise()
    bounds = {
        name: REPEAT_SHARE * tolerance_for(dtype, "float32")
        for name, dtype in reference.output_dtypes.items()
    }
    if all(noise[name] <= bound for name, bound in bounds.items()):
        return replace(reference, noise=noise, unverifiable={})
    chance = runs.differing(REPEAT_SEED, bounds)
    changed = runs.differing(EXAMPLE_SEED, bounds) if chance else {}
    return replace(
        reference,
        noise={name: 0.0 if name in changed else moved for name, moved in noise.items()},
        unverifiable={
            name: f"eager PyTorch does not reproduce it: {reason}"
            for name, reason in chance.items()
            if name not in changed
        },
    )


class _Examination:
    """Runs the module on the example again, in several ways."""

    def __init__(self, module: nn.Module, reference: Reference) -> None:
        self.eager = Eager(module)
        self.reference = reference

    def noise(self) -> dict[str, float]:
        """How far each output moves when every layer's result is off by its dtype's epsilon."""
        generator = torch.Generator().manual_seed(0)

        def disturbed(tensor: torch.Tensor) -> torch.Tensor:
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float32)
            return tensor * (1 + torch.finfo(tensor.dtype).eps * noise.to(tensor))

        def hook(layer: nn.Module, _: object, output: object) -> torch.Tensor | None:
            leaf = next(layer.children(), None) is None
            if leaf and isinstance(output, torch.Tensor) and output.is_floating_point():
                return disturbed(output)
            return None

        # torch annotates no result, and documents that one replaces the output.
        handle = register_module_forward_hook(hook)  # type: ignore[arg-type]
        try:
            moved = self._outputs(NOISE_SEED)
        except Exception:  # noqa: BLE001 - a module may refuse disturbed values in any way it likes
            return dict.fromkeys(self.reference.output_names, math.inf)
        finally:
            handle.remove()
        return {
            name: compare(moved[name], expected, 0.0).max_rel_error
            for name, expected in self.reference.example.outputs.items()
        }

    def differing(self, seed: int, bounds: Mapping[str, float]) -> dict[str, str]:
        """Outputs that differ from the reference's with these random numbers, and how."""
        again = self._outputs(seed)
        found = {}
        for name, expected in self.reference.example.outputs.items():
            difference = compare(again[name], expected, bounds[name])
            if not difference.right:
                found[name] = difference.reason
        return found

    def _outputs(self, seed: int) -> dict[str, Array]:
        recipe = self.reference.recipe
        answer = self.eager.again(recipe.make(), recipe.constants, seed=seed)
        names = unique_names([name for name, _, _ in answer.outputs], taken=answer.inputs)
        return {name: array for name, (_, _, array) in zip(names, answer.outputs, strict=True)}
