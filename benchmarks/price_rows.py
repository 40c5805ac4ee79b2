"""Which measured times are predictions fitted to, and tested on? Rows of published tables, and of
this project's own results.

`published_rows` reads `published/blackwell_hopper_shapes.csv` (527 rows of public benchmarks, each
with its source) and keeps those whose kernel is like torchao's: cuBLAS and cuBLASLt for bf16 and
tensor-wise FP8, CUTLASS or cuDNN for scaled formats. `measured_rows` reads the shapes that
`benchmarks/fp8_flux.py` and others measured on a GPU.

What is left out, and why, is `LEFT_OUT`.
"""

import csv
import json
from collections.abc import Iterable
from pathlib import Path

from sensitivity.core.format_name import FormatName
from sensitivity.latency.fitting import FitRow, fit_row
from sensitivity.latency.shape_times import ShapeTime

HERE = Path(__file__).parent
SHAPES = HERE / "published" / "blackwell_hopper_shapes.csv"
H100_FLUX = HERE / "results" / "2026-11-21-fp8-flux-h100.json"

LAUNCHED = frozenset({"openxla/xla", "sgl-project/sglang#22091"})
"""Sources whose times include a launch: XLA's smallest GEMM takes 5 us where profilers show 2.5 to
3 us more than elsewhere for equal shapes."""

LEFT_OUT = {
    "comfy-kitchen": "another kernel, with about 40 us more than CUTLASS on equal shapes",
    "trtllm": "FlashInfer's own kernels, which torchao does not use",
    "cute-dsl": "the same",
    "block128": "FP8 with block scales, which torchao's row-wise format is not",
    "5-6 TB/s": "a rate as text, no time",
    "noisy": "said to be noisy",
    "RHT": "a training recipe with a Hadamard transform",
    "vllm#20646, NVFP4 GEMM": "CUTLASS before it was tuned, 25 % slower than later",
    "mxfp4": "a format that is not priced",
    "eager, below 100 us": "launch time",
    "fewer than 256 rows, weight in the cache": "a run reads its weights from memory",
    "linear, tensor-wise FP8": "its quantizing is another",
}
EAGER_US = 100.0
"""Shorter times of eager calls are launch time."""
UNTUNED = "vllm-project/vllm#20646"
WEIGHTS = {
    "openxla/xla": 0.15,
    "vllm-project/vllm#18778": 0.5,
    "vllm-project/vllm#19566": 0.5,
    "vllm-project/vllm#46393": 0.4,
    "flashinfer-ai/flashinfer#2540": 0.5,
}
"""What a row counts, relative to others: many rows of one table err together, and kernels of
CUTLASS are not quite torch's.
"""
WARM = (
    "vllm-project/vllm#42235",
    "openxla/xla",
    "vllm-project/vllm#18778",
    "vllm-project/vllm#19566",
    "vllm-project/vllm#20646",
)
"""Sources that time one weight again and again, which then stays in the L2 cache."""
FEWEST_ROWS = 256
"""With fewer rows than this, such a source tells of the cache instead of the memory."""
_FORMATS = {
    "bf16": FormatName.BF16,
    "fp8 tensorwise": FormatName.FP8,
    "fp8 rowwise": FormatName.FP8,
    "fp8 (_scaled_mm)": FormatName.FP8,
    "mxfp8": FormatName.MXFP8,
    "nvfp4": FormatName.NVFP4,
    "mxfp8 rceil (to_mx + compile)": FormatName.MXFP8,
}
_WORDS = ("comfy-kitchen", "trtllm", "cute-dsl", "TRT-LLM", "5-6 TB/s", "noisy")


def source_of(text: str) -> str:
    """A source's short name: repository and number, without what stands behind."""
    return text.split(" ")[0].rstrip(",")


def published_rows(*chips: str) -> list[FitRow]:
    """Rows of chips ("b200") that `LEFT_OUT` does not name. GEMMs and quantizers ran alone.

    What a Linear of a static NVFP4 scale has beyond the GEMM of the same source is a quantizer.
    """
    with SHAPES.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if _chip(row["device"]) in chips]
    rows = [row for row in rows if row["format"] in _FORMATS and row["M"]]
    gemm_us = {_key(row): float(row["us"]) for row in rows if row["kind"] == "gemm"}
    found = []
    for row in rows:
        if _left_out(row):
            continue
        kind, us = row["kind"], float(row["us"])
        if kind == "linear" and row["format"] == "nvfp4":
            kind, us = "quantize", us - gemm_us[_key(row)]
        found.append(
            FitRow(
                kind=kind,  # type: ignore[arg-type]  # "gemm", "linear" or "quantize"
                m=int(row["M"]),
                k=int(row["K"]),
                n=0 if kind == "quantize" else int(row["N"]),
                format=_FORMATS[row["format"]],
                us=us,
                isolated=True,
                source=source_of(row["source"]),
                weight=WEIGHTS.get(source_of(row["source"]), 1.0),
            )
        )
    return found


def _chip(device: str) -> str:
    return device.lower().replace("rtx ", "rtx").split(" ")[0]


def _key(row: dict[str, str]) -> tuple[str, ...]:
    return row["source"], row["M"], row["K"], row["N"], row["format"]


def _left_out(row: dict[str, str]) -> bool:
    """See `LEFT_OUT`."""
    kind, format, notes = row["kind"], row["format"], row["notes"]
    return (
        any(word in notes for word in _WORDS)
        or ("eager" in notes and float(row["us"]) < EAGER_US)
        or (kind == "gemm" and format == "nvfp4" and row["source"].startswith(UNTUNED))
        or (kind == "linear" and format in ("bf16", "fp8 tensorwise"))
        or (row["source"].startswith(WARM) and int(row["M"]) < FEWEST_ROWS)
    )


def measured_rows(path: Path = H100_FLUX) -> list[FitRow]:
    """Every Linear of a result file that has times: behind its producer, in a CUDA graph."""
    stored = json.loads(path.read_text(encoding="utf-8"))["shape_times"]
    times = [ShapeTime.from_json(row) for row in stored.values()]
    return [row for time in times if (row := fit_row(time, path.stem)) is not None]


def without(rows: Iterable[FitRow], source: str) -> list[FitRow]:
    """The rows of all other sources."""
    return [row for row in rows if row.source != source]
