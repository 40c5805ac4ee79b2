"""Which FP8 shapes does this GPU's GEMM refuse, and what is it about?

    python benchmarks/probe_refusals.py --out probe.json          # on a GPU, 150 s at most

It calls `torch._scaled_mm` with a scale for each row (torchao's row-wise FP8) and, for comparison,
with one scale a tensor, on a grid of M, K and N, with and without a bias. Where a call is refused
it looks for the edges in M, K and N. Then it repeats some refused shapes under other conditions:
without fast accumulation, with fp32 output, with other workspaces of cuBLASLt (each in a process of
its own, since the variable is read once), and as torchao's own Linears, eager and compiled.

Each line that is printed is one finding; the last one is the JSON object, which `--out` keeps as it
grows. Nothing here times anything.
"""

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

M_VALUES = (
    1,
    2,
    4,
    8,
    14,
    16,
    17,
    32,
    33,
    48,
    64,
    77,
    127,
    128,
    129,
    154,
    256,
    257,
    333,
    512,
    1024,
)
STUDY_PAIRS = (
    (64, 3072), (64, 3840), (128, 2048), (128, 4096), (128, 6144), (256, 1024), (256, 2048),
    (256, 2432), (256, 3072), (256, 3840), (256, 4096), (256, 5120), (256, 6144), (256, 15360),
    (320, 1280), (640, 640), (640, 5120), (768, 3072), (1024, 256), (1280, 320), (1280, 640),
    (1280, 1280), (1280, 10240), (2048, 128), (2048, 640), (2048, 1280), (2048, 2048),
    (2048, 2432), (2048, 4096), (2048, 8192), (2048, 12288), (2432, 64), (2432, 2432),
    (2432, 4864), (2432, 9728), (2432, 14592), (2560, 640), (2560, 3840), (2816, 1280),
    (3072, 64), (3072, 3072), (3072, 6144), (3072, 9216), (3072, 12288), (3072, 18432),
    (3584, 3072), (3840, 64), (3840, 2048), (3840, 3840), (3840, 4096), (3840, 10240),
    (4096, 128), (4096, 2048), (4096, 2432), (4096, 3072), (4096, 4096), (4096, 5120),
    (4096, 16384), (4096, 24576), (5120, 64), (5120, 1280), (5120, 5120), (5120, 13824),
    (5120, 30720), (6144, 128), (6144, 6144), (6144, 12288), (6144, 18432), (6144, 36864),
    (6144, 55296), (8192, 2048), (9728, 2432), (10240, 3840), (12288, 3072), (13824, 5120),
    (15360, 3072), (15360, 6144), (16384, 4096), (18432, 6144), (24576, 6144),
)  # fmt: skip
"""(K, N) of the Linears of the studies that ship, by `sensitivity profile`."""
SIZES = (
    1024, 1280, 1536, 2048, 2560, 3072, 3584, 3840, 4096, 5120, 6144, 7168, 8192, 9216, 10240,
    12288, 13824, 14336, 15360, 16384, 18432, 20480, 24576,
)  # fmt: skip
SMALL_N = (16, 32, 64, 128, 256, 512, 768)
WORKSPACES_KIB = (0, 1024, 4096, 32768, 131072)
ERROR = re.compile(r"CUBLAS_STATUS_\w+|CUDA error: [^\n.]*|[^\n]*")

Shape = tuple[int, int, int, bool]  # M, K, N, bias


class Gemm:
    """FP8 products on operands that are views of a few large buffers."""

    def __init__(self, device: str, *, most: int, rows: int) -> None:
        self.device = torch.device(device)
        self.codes = torch.zeros(most * most, device=device, dtype=torch.uint8)
        self.codes.random_(0, 120)  # e4m3 codes of finite positive numbers
        self.inputs = self.codes[: rows * most]
        self.ones = torch.ones(max(most, rows), device=device)
        self.bias = torch.ones(most, device=device, dtype=torch.bfloat16)

    def error(
        self, shape: Shape, *, rowwise: bool = True, fast: bool = True, out: Any = torch.bfloat16
    ) -> str | None:
        """What the kernel says against a shape; None if it runs."""
        m, k, n, bias = shape
        a = self.inputs[: m * k].view(torch.float8_e4m3fn).view(m, k)
        b = self.codes[: n * k].view(torch.float8_e4m3fn).view(n, k)
        scales = (
            (self.ones[:m].view(m, 1), self.ones[:n].view(1, n))
            if rowwise
            else (self.ones[0], self.ones[0])
        )
        try:
            torch._scaled_mm(
                a,
                b.t(),
                scale_a=scales[0],
                scale_b=scales[1],
                bias=self.bias[:n].to(torch.bfloat16 if out is torch.bfloat16 else out)
                if bias
                else None,
                out_dtype=out,
                use_fast_accum=fast,
            )
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
        except Exception as error:
            found = ERROR.search(str(error))
            return f"{type(error).__name__}: {found.group(0) if found else error}"[:200]
        return None


def grid(quick: bool) -> Iterator[tuple[int, int]]:
    """(K, N), those of the studies first."""
    if quick:
        yield from ((64, 128), (256, 128))
        return
    yield from dict.fromkeys((*STUDY_PAIRS, *itertools.product(SIZES, (*SIZES, *SMALL_N))))


def edge(refuses: Callable[[int], bool], low: int, high: int, step: int) -> int:
    """The largest multiple of `step` from `low` (refused) to `high` (not) that is still refused."""
    while high - low > step:
        middle = (low + high) // 2 // step * step
        if middle <= low:
            break
        low, high = (middle, high) if refuses(middle) else (low, middle)
    return low


def sweep(
    gemm: Gemm, pairs: Iterable[tuple[int, int]], until: float, rowwise: bool
) -> dict[str, Any]:
    """Try the grid.

    Returns:
        {"tried", "stopped", "errors": {message: count}, "refused": [[K, N, bias, [M, ...]], ...]}.
    """
    refused: list[list[Any]] = []
    errors: dict[str, int] = {}
    tried = 0
    for k, n in pairs:
        for bias in (False, True):
            if time.monotonic() > until:
                return {"tried": tried, "stopped": [k, n], "errors": errors, "refused": refused}
            bad = []
            for m in M_VALUES:
                error = gemm.error((m, k, n, bias), rowwise=rowwise)
                tried += 1
                if error is not None:
                    bad.append(m)
                    errors[error] = errors.get(error, 0) + 1
            if bad:
                refused.append([k, n, bias, bad])
                print(f"{'row' if rowwise else 'tensor'}-wise K={k} N={n} bias={int(bias)}"
                      f" refuses M in {bad}", flush=True)  # fmt: skip
    return {"tried": tried, "stopped": None, "errors": errors, "refused": refused}


def edges(gemm: Gemm, refused: list[list[Any]], until: float) -> list[dict[str, Any]]:
    """For each refused (K, N, bias): the largest M, and how far K and N may move at a small M."""
    found = []
    for k, n, bias, ms in refused:
        if time.monotonic() > until:
            break
        row = edges_of(gemm, k, n, bias, ms)
        found.append(row)
        print(json.dumps(row), flush=True)
    return found


def edges_of(gemm: Gemm, k: int, n: int, bias: bool, ms: list[int]) -> dict[str, Any]:
    """The edges of one (K, N, bias) that is refused at the rows `ms`."""

    def refuses(m: int, k: int = k, n: int = n, bias: bool = bias) -> bool:
        return gemm.error((m, k, n, bias)) is not None

    most = max(ms)
    beyond = next((m for m in M_VALUES if m > most), None)
    if beyond is not None:
        most = edge(refuses, most, beyond, 1)
    at = min(ms, key=lambda m: abs(m - 14))
    moves = (-512, -128, -64, -16, 16, 64, 128, 512)
    return {
        "k": k,
        "n": n,
        "bias": bias,
        "m": ms,
        "most_m": most,
        "runs_below_most_m": ranges([m for m in range(1, most + 1) if not refuses(m)], 1),
        "k_neighbours": {by: refuses(at, k=k + by) for by in moves if k + by > 0},
        "n_neighbours": {by: refuses(at, n=n + by) for by in moves if n + by > 0},
        "other_bias": refuses(at, bias=not bias),
    }


def lines(gemm: Gemm, until: float) -> dict[str, Any]:
    """K at fixed (M, N) in steps of 256, and N at fixed (M, K) in steps of 128."""
    found: dict[str, Any] = {}
    for bias, m in itertools.product((False, True), (1, 14, 64, 127, 256)):
        for n in (1536, 3072, 4096, 5120):
            if time.monotonic() > until:
                return found
            bad = [k for k in range(256, 24576 + 1, 256) if gemm.error((m, k, n, bias))]
            found[f"K refused at M={m} N={n} bias={int(bias)}"] = ranges(bad, 256)
        for k in (9216, 12288):
            if time.monotonic() > until:
                return found
            bad = [n for n in range(128, 16384 + 1, 128) if gemm.error((m, k, n, bias))]
            found[f"N refused at M={m} K={k} bias={int(bias)}"] = ranges(bad, 128)
    for name, value in found.items():
        if value:
            print(name, value, flush=True)
    return found


def ranges(values: list[int], step: int) -> list[list[int]]:
    """[[first, last], ...] of values that lie `step` apart."""
    found: list[list[int]] = []
    for value in values:
        if found and value - found[-1][1] == step:
            found[-1][1] = value
        else:
            found.append([value, value])
    return found


def variants(gemm: Gemm, shapes: list[Shape]) -> dict[str, list[str | None]]:
    """The refused shapes under other conditions."""
    ways: dict[str, dict[str, Any]] = {
        "row-wise": {},
        "row-wise, no fast accumulation": {"fast": False},
        "row-wise, fp32 output": {"out": torch.float32},
        "tensor-wise": {"rowwise": False},
    }
    return {name: [gemm.error(shape, **way) for shape in shapes] for name, way in ways.items()}


def other_workspaces(shapes: list[Shape], device: str) -> dict[str, Any]:
    """The same shapes with other workspaces of cuBLASLt, each in a process of its own."""
    found: dict[str, Any] = {}
    for kib in WORKSPACES_KIB:
        environment = os.environ | {
            "CUBLASLT_WORKSPACE_SIZE": str(kib),
            "TORCH_CUBLASLT_UNIFIED_WORKSPACE": "0",
        }
        answer = subprocess.run(
            [sys.executable, __file__, "--device", device, "--only", json.dumps(shapes)],
            env=environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        last = (answer.stdout.strip().splitlines() or ["null"])[-1]
        found[f"{kib} KiB"] = json.loads(last) if answer.returncode == 0 else answer.stderr[-300:]
    return found


def torchao_linears(shapes: list[Shape], device: str) -> dict[str, Any]:
    """torchao's own row-wise Linears of these shapes, eager and compiled."""
    from torch import nn
    from torchao.quantization import (
        Float8DynamicActivationFloat8WeightConfig,
        PerRow,
        quantize_,
    )

    found: dict[str, Any] = {}
    for m, k, n, bias in shapes:
        linear = nn.Linear(k, n, bias=bias, device=device, dtype=torch.bfloat16)
        linear.requires_grad_(False)
        config = Float8DynamicActivationFloat8WeightConfig(
            granularity=PerRow(), set_inductor_config=False
        )
        quantize_(linear, config)
        x = torch.randn(m, k, device=device, dtype=torch.bfloat16)
        for how, call in (("eager", linear), ("compiled", torch.compile(linear))):
            try:
                with torch.no_grad():
                    call(x)
                    torch.cuda.synchronize()
                said = None
            except Exception as error:
                match = ERROR.search(str(error))
                said = match.group(0)[:200] if match else type(error).__name__
            found[f"M={m} K={k} N={n} bias={int(bias)} {how}"] = said
    return found


def machine(device: str) -> dict[str, str]:
    """GPU and versions."""
    stamp = {"torch": torch.__version__, "cuda": str(torch.version.cuda), "device": device}
    if torch.cuda.is_available():
        stamp |= {
            "gpu": torch.cuda.get_device_name(),
            "capability": ".".join(map(str, torch.cuda.get_device_capability())),
        }
    import importlib.metadata

    for package in importlib.metadata.distributions():
        name = (package.metadata["Name"] or "").lower()
        if "cublas" in name or name == "torchao":
            stamp[name] = package.version
    return stamp


def main() -> None:
    """Sweep, look for edges, try other conditions; keep what is found as it comes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=140.0)
    parser.add_argument("--out", type=Path, default=Path("probe.json"))
    parser.add_argument("--quick", action="store_true", help="a few shapes, for a look")
    parser.add_argument("--only", help="JSON list of [M, K, N, bias]: try these and print errors")
    asked = parser.parse_args()
    if asked.only:
        shapes = [tuple(x) for x in json.loads(asked.only)]
        most = max(max(k, n) for _, k, n, _ in shapes)
        gemm = Gemm(asked.device, most=most, rows=max(m for m, *_ in shapes))
        print(json.dumps([gemm.error(shape) for shape in shapes]))
        return
    begun = time.monotonic()
    found: dict[str, Any] = {"machine": machine(asked.device)}

    def keep(name: str, value: Any) -> Any:
        found[name] = value
        asked.out.write_text(json.dumps(found, indent=1))
        print(f"# {name}: {time.monotonic() - begun:.0f} s", flush=True)
        return value

    def until(part: float) -> float:
        return begun + part * asked.seconds

    most = 4096 if asked.quick else max(map(max, STUDY_PAIRS)) + 1024
    gemm = Gemm(asked.device, most=most, rows=max(M_VALUES))
    known = [(m, 12288, 3072, b) for b in (True, False) for m in (1, 14, 32, 33)]
    known += [(m, 9216, 3072, b) for b in (True, False) for m in (1, 127, 256, 257)]
    if not asked.quick:
        keep("known", [[*shape, gemm.error(shape)] for shape in known])
    row = keep("row_wise", sweep(gemm, grid(asked.quick), until(0.45), True))
    keep("edges", edges(gemm, row["refused"], until(0.6)))
    if not asked.quick:
        keep("lines", lines(gemm, until(0.75)))
    shapes = [(ms[len(ms) // 2], k, n, b) for k, n, b, ms in row["refused"]][:24]
    keep("shapes", shapes)
    keep("variants", variants(gemm, shapes))
    keep("tensor_wise", sweep(gemm, grid(asked.quick), until(0.8), False))
    del gemm
    if shapes and asked.device != "cpu":
        torch.cuda.empty_cache()
        keep("workspaces", other_workspaces(shapes[:12], asked.device))
        try:
            keep("torchao", torchao_linears(shapes[:3], asked.device))
        except Exception as error:
            keep("torchao", f"{type(error).__name__}: {error}"[:300])
    keep("seconds", round(time.monotonic() - begun, 1))
    print(json.dumps({"refused": len(row["refused"]), "tried": row["tried"]}))


if __name__ == "__main__":
    main()
