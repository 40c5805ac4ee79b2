"""How long does a run take when each Linear has a given format?

`_base.py` holds the contract: a `LatencyModel` prices one Linear call (`linear_us`) and what is not a Linear (`rest_s`), and `estimate`
adds them up for a ShapeTable and a format for each FQN. `roofline.py` predicts from a device's limits, which `devices.py` lists with
sources. Every estimate carries the word `predicted` or `measured`.

Example:
    >>> from sensitivity.latency import RooflineLatency, get_device
    >>> RooflineLatency(get_device("b200")).target
    'b200'
"""

from sensitivity.latency._base import CompileMode, LatencyEstimate, LatencyModel, LinearCost, ShapeScale, Source, stand_for
from sensitivity.latency.devices import DEVICES, Device, get_device
from sensitivity.latency.roofline import RooflineLatency

__all__ = [
    "DEVICES",
    "CompileMode",
    "Device",
    "LatencyEstimate",
    "LatencyModel",
    "LinearCost",
    "RooflineLatency",
    "ShapeScale",
    "Source",
    "get_device",
    "stand_for",
]
