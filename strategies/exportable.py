"""A transformers model in the form that exporters can lower, for the time of a capture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from strategies.compositions import COMPOSITIONS
from strategies.compositions.complex_pairs import Pair
from strategies.routing import Routing
from strategies.step_numbers import in_key

Replacement = Callable[..., Any]

# Where a transformers config keeps the two choices. The public setters cannot put a model
# back: they refuse to give a submodel the default that it came with.
CHOICES = ("_attn_implementation_internal", "_experts_implementation_internal")


@contextmanager
def exportable(
    model: Any, *, plain_attention: bool, replacements: Mapping[Any, Replacement] | None = None
) -> Iterator[None]:
    """Chooses implementations that consist of operators which every lowering knows.

    Grouped expert products have no ONNX counterpart, and what as_strided reads depends on
    a layout in memory that ONNX does not have. The alternatives compute the same;
    verification compares with the model as it was. Modules that offer no choice are left
    alone.

    Args:
        model: Is put back as it was.
        plain_attention: Whether to replace fused attention too, which has branches that
            depend on the mask.
        replacements: Further functions of torch and what is called in their place.
    """
    before = [
        (config, {name: vars(config)[name] for name in CHOICES if name in vars(config)})
        for config in _configs(model)
    ]
    try:
        if plain_attention and any(chosen.get(CHOICES[0]) != "eager" for _, chosen in before):
            model.set_attn_implementation("eager")
        if any(chosen.get(CHOICES[1]) not in (None, "batched_mm") for _, chosen in before):
            model.set_experts_implementation("batched_mm")
        routing = Routing()
        every = {**_REPLACEMENTS, **routing.replacements, **(replacements or {})}
        with _Lowerable(every), routing.opened():
            yield
    finally:
        for config, chosen in before:
            vars(config).update(chosen)


class _Lowerable(TorchFunctionMode):
    """Replaces calls that are lowered wrongly, or not at all, by others that give the same."""

    def __init__(self, replacements: Mapping[Any, Replacement]) -> None:
        super().__init__()
        self._replacements = replacements
        self._standing_in: list[Replacement] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        call = self._replacements.get(func)
        if call is None and Pair in types:
            with self:
                return Pair.__torch_function__(func, types, args, kwargs)
        if func is torch.Tensor.__getitem__:
            args = (args[0], in_key(args[1]))
        if call is None or call in self._standing_in:
            return func(*args, **kwargs) if kwargs else func(*args)
        self._standing_in.append(call)
        try:
            # Replacements may call functions that are themselves replaced.
            with self:
                return call(*args, **(kwargs or {}))
        finally:
            self._standing_in.pop()


def _as_strided(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Lets as_strided see its tensor in the order in which it lies in memory.

    It reads memory, whatever the shape of the tensor it is called on; its lowerings read
    the flattened tensor. The two agree once the axes stand in order of their strides.
    """
    if not tensor.is_contiguous():
        strides = tensor.stride()
        order = sorted(range(len(strides)), key=lambda axis: strides[axis], reverse=True)
        tensor = tensor.permute(order)
    return torch.as_strided(tensor, *args, **kwargs)


def _diff(
    tensor: torch.Tensor,
    n: int = 1,
    dim: int = -1,
    prepend: torch.Tensor | None = None,
    append: torch.Tensor | None = None,
) -> torch.Tensor:
    """The differences of neighbours as torch defines them, for TorchScript has no lowering."""
    if prepend is not None or append is not None:
        tensor = torch.cat([part for part in (prepend, tensor, append) if part is not None], dim)
    subtract = torch.logical_xor if tensor.dtype is torch.bool else torch.sub
    for _ in range(min(n, tensor.shape[dim])):
        size = tensor.shape[dim] - 1
        tensor = subtract(tensor.narrow(dim, 1, size), tensor.narrow(dim, 0, size))
    return tensor


def _cumsum(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Counts in whole numbers as torch does, where TorchScript would add up booleans."""
    return torch.cumsum(tensor.long() if tensor.dtype is torch.bool else tensor, *args, **kwargs)


def _one_hot(tensor: torch.Tensor, num_classes: Any = -1) -> torch.Tensor:
    """Takes a symbol for the number of classes, which torch's own makes a plain number."""
    if not isinstance(num_classes, torch.SymInt):
        return functional.one_hot(tensor, num_classes)
    count: Any = num_classes
    return torch.eq(tensor.unsqueeze(-1), torch.arange(count, device=tensor.device)).long()


def _attention(  # noqa: PLR0913, PLR0917 - torch's arguments
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,  # noqa: FBT001, FBT002 - as above
    *,
    enable_gqa: bool = False,
    **options: Any,
) -> torch.Tensor:
    """Of heads, and each with keys and values of its own: lowerings know nothing else."""
    headless = query.dim() == 3
    if headless:
        query, key, value = query.unsqueeze(1), key.unsqueeze(1), value.unsqueeze(1)
        if attn_mask is not None and attn_mask.dim() == 3:
            attn_mask = attn_mask.unsqueeze(1)
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
    attended = functional.scaled_dot_product_attention(
        query, key, value, attn_mask, dropout_p, is_causal, **options
    )
    return attended.squeeze(1) if headless else attended


def _where_open(function: Replacement, composition: Replacement) -> Replacement:
    """The composition where a size is a symbol, else the function as it is."""

    def call(*args: Any, **kwargs: Any) -> Any:
        chosen = composition if _is_open([*args, *kwargs.values()]) else function
        return chosen(*args, **kwargs)

    return call


def _is_open(given: object) -> bool:
    if isinstance(given, torch.Tensor):
        given = given.shape
    if isinstance(given, list | tuple):
        return any(map(_is_open, given))
    return isinstance(given, torch.SymInt | torch.SymFloat)


# Compositions of what torchlib lacks too, or lowers so that results differ.
_COMPOSED = frozenset(
    {
        "_affine_grid",
        "_as_tensor",
        "_bilinear",
        "_bincount",
        "_bucketize",
        "_cdist",
        "_cholesky",
        "_cholesky_solve",
        "_copysign",
        "_cummax",
        "_cummin",
        "_cumprod",
        "_digamma",
        "_eigh",
        "_eigvalsh",
        "_embedding_bag",
        "_erfinv",
        "_exponential",
        "_fill_diagonal",
        "_fmax",
        "_fmin",
        "_histc",
        "_hypot",
        "_i0",
        "_interpolate",
        "_isin",
        "_kthvalue",
        "_lgamma",
        "_lstm",
        "_masked_fill",
        "_matrix_exp",
        "_median",
        "_multinomial",
        "_new_tensor",
        "_quantile",
        "_rrelu",
        "_rand",
        "_randn",
        "_randperm",
        "_ravel",
        "_scatter_reduce",
        "_searchsorted",
        "_signbit",
        "_solve_triangular",
        "_sort",
        "_svdvals",
        "_argsort",
        "_tensor",
        "_trunc",
        "_unique_consecutive",
        "_vander",
        "_where",
    }
)
# Compositions of what torch makes plain numbers of sizes for.
_OPEN = frozenset(
    {
        "_adaptive_avg_pool1d",
        "_adaptive_avg_pool2d",
        "_adaptive_avg_pool3d",
        "_kron",
        "_linspace",
        "_max_pool1d",
        "_multi_dot",
        "_roll",
        "_take_along_dim",
        "_tril_indices",
        "_triu_indices",
    }
)
_REPLACEMENTS: dict[Any, Replacement] = {
    **{
        function: composition
        for function, composition in COMPOSITIONS.items()
        if composition.__name__ in _COMPOSED
    },
    **{
        function: _where_open(function, composition)
        for function, composition in COMPOSITIONS.items()
        if composition.__name__ in _OPEN
    },
    torch.as_strided: _as_strided,
    torch.Tensor.as_strided: _as_strided,
    torch.cumsum: _cumsum,
    torch.Tensor.cumsum: _cumsum,
    functional.one_hot: _one_hot,
    functional.scaled_dot_product_attention: _attention,
    torch.diff: _diff,
    torch.Tensor.diff: _diff,
}
# What a TorchScript trace has none of left: those, and what is composed for it alone.
REPLACED = frozenset(function.__name__ for function in (*_REPLACEMENTS, *COMPOSITIONS))


def _configs(model: Any) -> list[Any]:
    """Every distinct config in a transformers model, those of submodels included."""
    if not hasattr(model, "set_attn_implementation"):
        return []
    found: dict[int, Any] = {}
    waiting = [module.config for module in model.modules() if hasattr(module, "config")]
    while waiting:
        config = waiting.pop()
        if id(config) in found or not hasattr(config, "sub_configs"):
            continue
        found[id(config)] = config
        waiting += [getattr(config, name, None) for name in config.sub_configs]
    return list(found.values())
