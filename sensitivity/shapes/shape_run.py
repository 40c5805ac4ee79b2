"""What does a run without weights give?

`ShapeRun` is what `run.run_shapes` returns: the shapes of Linears, the denoisers' calls, and what
the pipeline is made of. Whoever only reads it need not import what makes it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sensitivity.shapes.experts import WeightBeside
from sensitivity.shapes.table import ShapeTable


@dataclass(frozen=True, kw_only=True)
class DenoiserCall:
    """Calls of a denoiser's forward with one signature.

    Attributes:
        args: positional arguments, real on the CPU where their values are known, else meta.
        kwargs: keyword arguments, likewise.
        calls: how often the run made it.
        component: the denoiser's name in the pipeline.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    calls: int
    component: str


@dataclass(frozen=True, kw_only=True)
class ShapeRun:
    """What a run without weights gives.

    Attributes:
        table: the Linears of the denoisers, or of the component, with the census of the whole run.
        calls: their calls.
        repeated_blocks: class names of their repeated blocks.
        other_denoisers: names of denoisers of the same class whose Linears are not in the table.
        text_encoders: names of the components that are given nothing but token ids.
        coders: names of those that decode.
        other_weights: weights of matrix products in the denoisers that are no Linears'.
        weight_values: how many values all weights of these denoisers hold.
        pipeline_class: the pipeline's class.
        classes: {component: class} of the components whose Linears are in the table.
    """

    table: ShapeTable
    calls: tuple[DenoiserCall, ...]
    repeated_blocks: tuple[str, ...]
    other_denoisers: tuple[str, ...] = ()
    text_encoders: tuple[str, ...] = ()
    coders: tuple[str, ...] = ()
    other_weights: tuple[WeightBeside, ...] = ()
    weight_values: int = 0
    pipeline_class: str = ""
    classes: Mapping[str, str] = field(default_factory=dict)
