"""How long does a run take when each Linear has a given format?

`_base.py` holds the contract: a `LatencyModel` prices one Linear call (`linear_us`) and what is not
a Linear (`rest_s`), and `estimate` adds them up for a ShapeTable and a format for each FQN.
`predicted.py` predicts from a device's limits (`devices.py`) and from what kernels reach of them
(`constants.py`); `table.py` measures each shape on the GPU at hand, `end_to_end.py` a whole run.
Every estimate carries the word `predicted` or `measured`.

Example:
    >>> from sensitivity.latency import PredictedLatency, get_device
    >>> PredictedLatency(get_device("b200")).target
    'b200'
"""

from sensitivity.core.format_name import CompileMode, Source
from sensitivity.latency._base import (
    LatencyEstimate,
    LatencyModel,
    LinearCost,
    ShapeScale,
    batch_rows,
    stand_for,
)
from sensitivity.latency.devices import DEVICES, Device, find_device, get_device
from sensitivity.latency.predicted import PredictedLatency

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
