"""The process that `probing` starts: run each shape once, and say what became of it.

It may die. That is what it is for: a kernel that crashes, hangs, or breaks the CUDA context takes
this process with it, and not the search that asked.

Method. A Linear of the shape, with random weights, is quantized natively by torchao and called once
without compiling, and the GPU is waited for. A kernel that refuses a shape does so here as it does
in a compiled run, and nothing has to be compiled.

Protocol. Standard input has one JSON object, {"device": "cuda:0", "shapes": [key, ...]}. Each line
of standard output that begins with `MARK` is a JSON object: {"ready": true} once the device is
reached, then for each shape {"begin": index} and {"end": index, "outcome": ..., "reason": ...}.
After a failure that broke the context the process ends.

What it does not do: time anything, or keep anything.

    echo '{"device": "cuda:0", "shapes": [...]}' | python -m sensitivity.latency.timing.probe_child
"""

import json
import sys
from collections.abc import Callable
from typing import Literal

import torch
from torch import nn

from sensitivity.core.devices import free_bytes, free_memory
from sensitivity.core.words import first_line
from sensitivity.errors import SensitivityError
from sensitivity.formats.native import quantize_native
from sensitivity.latency.refusals import kernel_words, refused_words
from sensitivity.latency.shape_times import LinearShape, parse_linear
from sensitivity.latency.timing.shape_runs import Quantize, random_linear
from sensitivity.latency.timing.stopwatch import device_of

Outcome = Literal["ran", "refused", "untried"]
MARK = "probe: "
"""How a line of the protocol begins; libraries print other lines."""
MEMORY_PART = 0.9
"""The part of the free memory that a shape may fill; one that needs more is not tried."""


def try_shape(
    shape: LinearShape, device: torch.device, quantize: Quantize = quantize_native
) -> tuple[Outcome, str | None]:
    """Call one Linear once.

    Args:
        shape: Its M, K, N, bias and format.
        device: Where it runs.
        quantize: Quantizes the Linears of a module in place.

    Returns:
        What became of it, and the reason unless it ran. Too little memory is no refusal.
    """
    free, needed = free_bytes(str(device)), needed_bytes(shape)
    if free is not None and needed > MEMORY_PART * free:
        return "untried", f"it needs {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"
    try:
        with torch.no_grad():
            generator = torch.Generator(device).manual_seed(0)
            module = nn.ModuleList([random_linear(shape, device, generator)])
            quantize(module, {"0": shape.format})
            size = (shape.m, shape.k)
            module[0](torch.randn(size, device=device, dtype=torch.bfloat16, generator=generator))
            if device.type == "cuda":
                torch.cuda.synchronize(device)
    except torch.OutOfMemoryError:
        return "untried", "out of memory on this device"
    except SensitivityError as error:
        return "untried", first_line(error)
    except Exception as error:
        return "refused", refused_words(kernel_words(error), **shape.sizes)
    return "ran", None


def needed_bytes(shape: LinearShape) -> int:
    """Bytes that calling a shape once takes at most: the weight in bf16, what quantizing makes of
    it in fp32, input and output.
    """
    return 2 * 4 * shape.k * shape.n + 3 * 4 * shape.m * (shape.k + shape.n)


def context_error(device: torch.device) -> str | None:
    """What is wrong with the CUDA context after a failure; None if it still works."""
    if device.type != "cuda":
        return None
    try:
        torch.cuda.synchronize(device)
        torch.zeros(1, device=device).item()
    except Exception as error:
        return kernel_words(error)
    return None


def main(say: Callable[[str], object] | None = None) -> None:
    """Read the request, and answer shape by shape."""

    def tell(**said: object) -> None:
        line = MARK + json.dumps(said)
        _ = print(line, flush=True) if say is None else say(line)

    request = json.load(sys.stdin)
    device = device_of(request["device"])
    torch.zeros(1, device=device)  # a device that cannot be used is no shape's fault
    tell(ready=True)
    for index, key in enumerate(request["shapes"]):
        shape = parse_linear(key)
        assert shape is not None
        tell(begin=index)
        outcome, reason = try_shape(shape, device)
        tell(end=index, outcome=outcome, reason=reason)
        if outcome != "ran":
            if context_error(device) is not None:
                return
            free_memory(device)


if __name__ == "__main__":
    main()
