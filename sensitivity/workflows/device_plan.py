"""What is measured on a GPU, and in which order? Stages of jobs: `first_stages`, `study_stages`.

Method. The shapes come from the shipped studies, run without weights, and from a grid. A study's
shape is worth its part of the study's bf16 Linears by a rough bound (arithmetic or traffic), and
what is worth most is measured first. The grid is what a fit needs beside them: M from 1 to 16384
and K, N from 1024 to 18432, so that it holds rows that are bound by memory, by few tiles, by whole
waves and by arithmetic.

A stage may take its part of the time; what it leaves undone is done at the end if time remains.

    for stage in study_stages(study_runs(), (FormatName.FP8,), quick=True):
        stage.name, len(stage.jobs), stage.part

What it does not do: run a job (`latency.timing.device_jobs`), or decide when to stop.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from sensitivity.core.format_name import FormatName
from sensitivity.formats.native_check import SHAPES
from sensitivity.formats.registry import get_format
from sensitivity.latency.kernel_shapes import GemmShape, QuantizerShape
from sensitivity.latency.shape_times import LinearShape, attention_key, attentions_of, shapes_of
from sensitivity.latency.timing.device_jobs import Job
from sensitivity.shapes.census import AttentionShape
from sensitivity.workflows.study_shapes import StudyRun

_RATE, _BANDWIDTH, _FIXED_US = 600e12, 3e12, 4.0
"""FLOP/s, bytes/s and microseconds of the rough bound that says what a shape is worth."""
_GRID_M = (1, 16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_GRID_KN = (
    (3072, 3072),
    (1024, 1024),
    (3072, 12288),
    (12288, 3072),
    (1024, 4096),
    (6144, 18432),
    (18432, 6144),
    (2048, 8192),
    (5120, 5120),
    (9216, 1536),
)
_QUANTIZED_MK = (
    (512, 3072),
    (4096, 3072),
    (4096, 12288),
    (8192, 8192),
    (1, 3072),
    (16384, 3072),
    (2048, 6144),
    (16384, 16384),
    (256, 18432),
    (1024, 1024),
    (32768, 5120),
    (64, 12288),
)
_PROBED_M = (1, 2, 6, 8, 14, 16, 17, 24, 32, 33, 64, 77, 128, 154, 256, 512)
"""Small and odd M, and those of text, with which every weight is tried."""
_MOST_PROBED_M = 16384
_LARGEST = 2**41
"""M x K x N of the largest GEMM of the grid."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """Jobs of one kind, most valuable first.

    Attributes:
        name: What it is called.
        part: The part of the whole time that it may take in the first pass.
        jobs: Its jobs.
    """

    name: str
    part: float
    jobs: tuple[Job, ...]


def first_stages(formats: tuple[FormatName, ...]) -> tuple[Stage, ...]:
    """What can be measured before the studies' shapes are known; the last stage is the grid, which
    goes on as long as they are not.
    """
    plain = _with_own_kernels(formats)
    quantizers = [
        tuple(QuantizerShape(m=m, k=k, format=name) for name in plain) for m, k in _QUANTIZED_MK
    ]
    grid = [
        _gemms(m, k, n, bias=True, formats=plain)
        for (k, n), m in _diagonally(_GRID_KN, _GRID_M)
        if m * k * n <= _LARGEST
    ]
    return (
        Stage(name="limits", part=0.1, jobs=(Job(kind="limits", name="bandwidth and peak"),)),
        Stage(name="launches", part=0.1, jobs=(Job(kind="launches", name="launch costs"),)),
        Stage(name="quantizers", part=0.1, jobs=_jobs("quantizers", quantizers)),
        Stage(name="kernels of the grid", part=0.15, jobs=_jobs("gemms", grid)),
    )


def study_stages(
    runs: Iterable[StudyRun], formats: tuple[FormatName, ...], *, quick: bool
) -> tuple[Stage, ...]:
    """The shapes of the studies, and how far native kernels are from emulation.

    Args:
        runs: The studies.
        formats: The quantized formats that the GPU has.
        quick: Whether there are a few minutes only: GEMMs then get more of the time, and compiled
            Linears, which take longest, less.
    """
    runs = list(runs)
    linears = _valued_linears(runs, formats)
    gemms = list(dict.fromkeys(_gemms_of(group, _with_own_kernels(formats)) for group in linears))
    compared = [
        tuple(GemmShape(m=m, k=k, n=n, bias=bias, format=name) for name in formats)
        for m, k, n, bias in SHAPES
    ]
    return (
        Stage(
            name="kernels of the studies", part=0.25 if quick else 0.15, jobs=_jobs("gemms", gemms)
        ),
        Stage(
            name="Linears of the studies",
            part=0.45 if quick else 0.6,
            jobs=_jobs("linears", linears),
        ),
        Stage(name="attention", part=0.07, jobs=_jobs("attention", _attentions(runs))),
        Stage(name="agreement with emulation", part=0.07, jobs=_jobs("ulps", compared)),
    )


def _with_own_kernels(formats: tuple[FormatName, ...]) -> tuple[FormatName, ...]:
    """The plain formats whose quantizers and GEMMs these run, for measuring each once."""
    return tuple(dict.fromkeys(name.plain for name in formats if not name.is_weight_only))


def _jobs(kind: str, groups: Iterable[tuple[object, ...]]) -> tuple[Job, ...]:
    return tuple(
        Job(kind=kind, shapes=group, name=str(group[0]))  # type: ignore[arg-type]
        for group in groups
        if group
    )


def _valued_linears(
    runs: Iterable[StudyRun], formats: tuple[FormatName, ...]
) -> list[tuple[LinearShape, ...]]:
    """Shapes that are timed together, most valuable first; each in bf16 and all formats."""
    worth: dict[tuple[int, int, int, bool, bool], float] = {}
    members: dict[tuple[int, int, int, bool, bool], dict[LinearShape, None]] = {}
    for run in runs:
        times: dict[tuple[int, int, int, bool, bool], float] = {}
        for linear in run.table.linears:
            for m, calls in linear.m_values:
                key = (m, linear.k, linear.n, linear.bias, not linear.block)
                times[key] = times.get(key, 0.0) + calls * _bound_us(m, linear.k, linear.n)
        total = sum(times.values())
        for key, us in times.items():
            worth[key] = max(worth.get(key, 0.0), us / total)
        for shape in shapes_of(run.table, formats):
            key = (shape.m, shape.k, shape.n, shape.bias, shape.eager)
            members.setdefault(key, {})[shape] = None
    ordered = sorted(members, key=lambda key: (-worth.get(key, 0.0), key))
    return [tuple(members[key]) for key in ordered]


def _bound_us(m: int, k: int, n: int) -> float:
    """A rough bound of a bf16 Linear's microseconds; only its proportions matter."""
    return _FIXED_US + max(
        2 * m * k * n / _RATE * 1e6, 2 * (m * k + k * n + m * n) / _BANDWIDTH * 1e6
    )


def _gemms_of(
    group: tuple[LinearShape, ...], formats: tuple[FormatName, ...]
) -> tuple[GemmShape, ...]:
    first = group[0]
    return _gemms(first.m, first.k, first.n, bias=first.bias, formats=formats)


def _gemms(
    m: int, k: int, n: int, *, bias: bool, formats: tuple[FormatName, ...]
) -> tuple[GemmShape, ...]:
    """A GEMM in bf16 and in the formats that take its shape."""
    one = GemmShape(m=m, k=k, n=n, bias=bias, format=FormatName.BF16)
    return (
        one,
        *(
            dataclasses.replace(one, format=name)
            for name in formats
            if get_format(name).refusal(k=k, n=n, dtype=torch.bfloat16) is None
        ),
    )


def _diagonally(
    rows: tuple[tuple[int, int], ...], columns: tuple[int, ...]
) -> Iterator[tuple[tuple[int, int], int]]:
    """All pairs, spread so that the first few hold every row and every column."""
    for shift, j in itertools.product(range(len(columns)), range(len(rows))):
        yield rows[j], columns[(5 * j + 3 * shift) % len(columns)]


def _attentions(runs: Iterable[StudyRun]) -> list[tuple[AttentionShape, ...]]:
    """Attentions of the denoisers, most FLOPs first."""
    found: dict[str, AttentionShape] = {}
    for run in runs:
        for shape in attentions_of(run.table, components=run.components):
            found.setdefault(attention_key(shape), shape)
    return [(shape,) for shape in sorted(found.values(), key=lambda shape: -shape.flops)]


def probed_shapes(
    runs: Iterable[StudyRun], formats: tuple[FormatName, ...]
) -> tuple[LinearShape, ...]:
    """Shapes that are tried once each: every weight of the studies with its own M, and with small
    and odd ones, since there kernels refuse.
    """
    weights: dict[tuple[int, int, bool], set[int]] = {}
    for group in _valued_linears(runs, formats):
        first = group[0]
        sizes = weights.setdefault((first.k, first.n, first.bias), set(_PROBED_M))
        if first.m <= _MOST_PROBED_M:
            sizes.add(first.m)
    return tuple(
        LinearShape(m=m, k=k, n=n, bias=bias, format=name)
        for (k, n, bias), sizes in weights.items()
        for name in formats
        if get_format(name).refusal(k=k, n=n, dtype=torch.bfloat16) is None
        for m in sorted(sizes)
    )
