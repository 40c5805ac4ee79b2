"""How long does a run take if each Linear has a given format?

A `LatencyModel` prices one Linear call and what is not a Linear, and `estimate` adds them up for a
shape table and a format map. There are two models. Every estimate says which one it came from.

- `PredictedLatency` predicts from a device's limits (`devices`) and from the parts of them that
  kernels reach (`constants`): Linears in `kernels`, everything else in `rest_of_run`.
- `measured.MeasuredLatency` reads times of shapes that were measured on the GPU at hand
  (`timing.shape_timing`, `shape_times`).

`timing` measures whole runs instead. `pricer` prices skip-lists of a study, memory included.

Example:
    >>> from sensitivity.latency import PredictedLatency, get_device
    >>> PredictedLatency(get_device("b200")).target
    'b200'
"""

from sensitivity.core.format_name import CompileMode, Source
from sensitivity.latency._base import LatencyModel
from sensitivity.latency.devices import DEVICES, Device, find_device, get_device
from sensitivity.latency.estimate import LatencyEstimate, LinearCost
from sensitivity.latency.predicted import PredictedLatency
from sensitivity.latency.scale import ShapeScale, batch_rows, stand_for

__all__ = [
    "DEVICES",
    "CompileMode",
    "Device",
    "LatencyEstimate",
    "LatencyModel",
    "LinearCost",
    "PredictedLatency",
    "ShapeScale",
    "Source",
    "batch_rows",
    "find_device",
    "get_device",
    "stand_for",
]
