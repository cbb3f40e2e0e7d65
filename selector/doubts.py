"""What widens a tolerance or excuses an output: rounding that a model amplifies, chance, ties."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.overrides import TorchFunctionMode

from selector.cases import EXAMPLE_SEED
from selector.comparison import Array, compare, tolerance_for
from selector.draws import Noting
from selector.eager import Eager
from strategies.calling import unique_names

if TYPE_CHECKING:
    from selector.reference import Case, Reference

# Runs of eager on one machine differ by far less than runtimes do.
REPEAT_SHARE = 0.1
NOISE_SEED = 1
REPEAT_SEED = 2


def examine(module: nn.Module, reference: Reference) -> Reference:
    """Finds out how far rounding moves each output, and which ones eager does not reproduce.

    Up to four forwards on the example: with rounding errors added; once more without,
    where those move an output; and where that differs too, with the very random numbers of
    the reference, without rounding errors and with them. An output that even these do not
    reproduce was computed by a module that has changed since, so nothing excuses it.

    Args:
        module: What the reference was computed from.
        reference: Its answers.
    """
    runs = _Examination(module, reference)
    noise = runs.noise(NOISE_SEED)
    bounds = {
        name: REPEAT_SHARE * tolerance_for(dtype, "float32")
        for name, dtype in reference.output_dtypes.items()
    }
    if all(noise[name] <= bound for name, bound in bounds.items()):
        return replace(reference, noise=noise, unverifiable={})
    chance = runs.differing(REPEAT_SEED, bounds)
    changed = runs.differing(EXAMPLE_SEED, bounds) if chance else {}
    if chance:
        noise = runs.noise(EXAMPLE_SEED)
    return replace(
        reference,
        noise={name: 0.0 if name in changed else moved for name, moved in noise.items()},
        unverifiable={
            name: f"eager PyTorch does not reproduce it: {reason}"
            for name, reason in chance.items()
            if name not in changed
        },
    )


def first_of_ties(module: nn.Module, reference: Reference, case: Case) -> Case | None:
    """A case with what eager returns where every top-k takes the first of equal values.

    That is what ONNX prescribes. PyTorch leaves open which of them it takes, so this is as
    much the model's answer as the reference's is.

    Args:
        module: What the reference was computed from.
        reference: Its answers.
        case: One of the reference's.

    Returns:
        None where forward calls no top-k, or does not run so.
    """
    mode = _FirstOfTies()
    try:
        with mode:
            outputs = _outputs(Eager(module), _tensors(reference, case), reference, case.seed)
    except Exception:  # noqa: BLE001 - a module may refuse a mode in any way it likes
        return None
    return replace(case, outputs=outputs) if mode.calls else None


def with_draws(module: nn.Module, reference: Reference, case: Case) -> Case | None:
    """A case with the random numbers that forward draws, and what eager returns for those.

    Args:
        module: What the reference was computed from.
        reference: Its answers.
        case: One of the reference's.

    Returns:
        None where forward draws none.

    Raises:
        UnknownDrawError: It draws some that cannot be handed to a file.
    """
    with Noting() as noting:
        outputs = _outputs(Eager(module), _tensors(reference, case), reference, case.seed)
    return replace(case, outputs=outputs, draws=tuple(noting.draws)) if noting.draws else None


def _tensors(reference: Reference, case: Case) -> dict[str, torch.Tensor]:
    return {
        name: torch.from_numpy(case.inputs[name].copy()).to(getattr(torch, dtype))
        for name, dtype in reference.input_dtypes.items()
    }


class _FirstOfTies(TorchFunctionMode):
    """Sorts stably where forward asks for the highest or lowest values."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in (torch.topk, torch.Tensor.topk):
            return func(*args, **(kwargs or {}))
        self.calls += 1
        return _top(*args, **(kwargs or {}))


def _top(
    input: torch.Tensor,  # noqa: A002 - torch's name
    k: int,
    dim: int = -1,
    largest: bool = True,  # noqa: FBT001, FBT002 - torch's arguments
    sorted: bool = True,  # noqa: A002, ARG001, FBT001, FBT002 - as above
) -> Any:
    values, places = torch.sort(input, dim=dim, descending=largest, stable=True)
    return torch.return_types.topk((values.narrow(dim, 0, k), places.narrow(dim, 0, k)))


def _outputs(
    eager: Eager, tensors: Mapping[str, torch.Tensor], reference: Reference, seed: int
) -> dict[str, Array]:
    answer = eager.again(tensors, reference.recipe.constants, seed=seed)
    names = unique_names([name for name, _, _ in answer.outputs], taken=answer.inputs)
    return {name: array for name, (_, _, array) in zip(names, answer.outputs, strict=True)}


class _Examination:
    """Runs the module on the example again, in several ways."""

    def __init__(self, module: nn.Module, reference: Reference) -> None:
        self.eager = Eager(module)
        self.reference = reference

    def noise(self, seed: int) -> dict[str, float]:
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
            moved = self._outputs(seed)
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
        return _outputs(self.eager, self.reference.recipe.make(), self.reference, seed)
