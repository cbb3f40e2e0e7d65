"""Functions of torch that TorchScript's exporter cannot lower, composed of ones that it can.

Each composition gives what torch gives and follows traced sizes. What one calls is not
replaced in turn, so those that need each other call each other.
"""

from __future__ import annotations

from strategies.compositions import (
    chance,
    complex_pairs,
    counting,
    decompositions,
    elementwise,
    fourier,
    images,
    learning,
    moving,
    pieces,
    products,
    resizing,
    sizes,
    special,
    strides,
    tables,
    writing,
)

_MODULES = (
    tables,
    elementwise,
    special,
    counting,
    moving,
    pieces,
    products,
    decompositions,
    resizing,
    images,
    sizes,
    strides,
    complex_pairs,
    fourier,
    writing,
    learning,
    chance,
)
# What to call in place of each function while a trace is recorded.
COMPOSITIONS = {
    function: composition for module in _MODULES for function, composition in module.TABLE.items()
}
