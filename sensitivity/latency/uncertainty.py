"""How far can a predicted time, gain or speedup be trusted? 90 % intervals of `PredictedLatency`.

Method. Three things are not known, and each is drawn in every sample:

- the constants: samples of their fit, or of the priors where the chip has none (`posterior`);
- the kernel that a library chooses for a shape: each shape's time in a format is off by
  `shape_sd`, the same in all calls of the shape; bf16 and quantized time of one shape are off in
  part together (`SHAPE_CORRELATION`);
- what is common to a run: Linears by `linear_sd`, the rest by `rest_sd`, all savings by
  `saving_sd`.

The 5 % and 95 % quantiles of the samples are stated. The samples are the same for every skip-list,
so equal lists have equal intervals.

    model = PredictedLatency(get_device("h100"))
    model.interval90(model.savings(table, formats))
    model.row_intervals90(m=512, k=3072, n=3072, format=FormatName.FP8)[1]     # of the gain, us

What it does not do: know of a host that is too slow (`host`), or of a runtime that is another.
"""

import math
import random
from collections.abc import Iterable
from functools import lru_cache

from sensitivity.core.format_name import FormatName
from sensitivity.latency._base import LatencyModel
from sensitivity.latency.constants import SHAPE_CORRELATION, KernelConstants
from sensitivity.latency.savings import Savings

DRAWS = 200
"""Samples from which quantiles are taken."""
Interval = tuple[float, float]


def interval90(values: Iterable[float]) -> Interval:
    """The 5 % and 95 % quantiles."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return ordered[round(0.05 * last)], ordered[round(0.95 * last)]


@lru_cache(maxsize=4096)
def shape_draws(m: int, k: int, n: int) -> tuple[tuple[float, float], ...]:
    """(`DRAWS`, 2) standard normal errors of a shape, bf16 and quantized, in part together."""
    noise = random.Random(f"{m} {k} {n}")
    common, own = math.sqrt(SHAPE_CORRELATION), math.sqrt(1 - SHAPE_CORRELATION)
    found = []
    for _ in range(DRAWS):
        both, bf16, quantized = (noise.gauss(0, 1) for _ in range(3))
        found.append((common * both + own * bf16, common * both + own * quantized))
    return tuple(found)


def row_intervals90(
    constants: KernelConstants,
    models: tuple[LatencyModel, ...],
    *,
    m: int,
    k: int,
    n: int,
    format: FormatName,
    compiled: bool = True,
) -> tuple[Interval, Interval]:
    """(interval of a call's microseconds in the format, interval of the gain over bf16)."""
    noise = random.Random(0)

    def call_us(model: LatencyModel, name: FormatName) -> float:
        return model.call_us(m=m, k=k, n=n, format=name, compiled=compiled, readers=1)

    times = [(call_us(model, FormatName.BF16), call_us(model, format)) for model in models]
    totals, gains = [], []
    for i, (bf16_error, error) in enumerate(_draws(m, k, n, format)):
        bf16_us, us = times[i % len(times)]
        bf16_us *= math.exp(constants.shape_sd * bf16_error)
        us *= math.exp(constants.shape_sd * error)
        totals.append(us)
        gains.append((bf16_us - us) * (1 + constants.saving_sd * noise.gauss(0, 1)))
    return interval90(totals), interval90(gains)


def speedup_interval90(
    constants: KernelConstants, models: tuple[LatencyModel, ...], savings: Savings
) -> Interval:
    """The interval of a run's speedup.

    A bf16 total that was measured stays. How it divides into Linears and rest is then uncertain by
    both deviations together.

    Args:
        constants: The deviations.
        models: The model with each sample of its constants, or the model alone.
        savings: What the run's shapes save.
    """
    c = constants
    times = [_shape_times(model, savings) for model in models]
    factors = [
        _factors(m, k, n, format.is_quantized, c.shape_sd) for m, k, n, format, *_ in savings.shapes
    ]
    speedups = []
    for i, (to_linears, to_rest, to_saving) in enumerate(_run_draws()):
        fraction = _fraction(times[i % len(times)], [shape[i] for shape in factors])
        linears_s, rest_s = savings.linears_s, savings.rest_s
        if savings.anchored:
            a, b = c.linear_sd * linears_s, c.rest_sd * rest_s
            total_s = linears_s + rest_s
            linears_s += to_linears * (a * b / math.hypot(a, b) if b else 0.0)
        else:
            linears_s *= math.exp(c.linear_sd * to_linears)
            total_s = linears_s + rest_s * math.exp(c.rest_sd * to_rest)
        saved_s = linears_s * fraction * (1 + c.saving_sd * to_saving)
        speedups.append(total_s / max(total_s - saved_s, total_s / 100))
    return interval90(speedups)


@lru_cache(maxsize=1)
def _run_draws() -> tuple[tuple[float, float, float], ...]:
    """(`DRAWS`, 3) standard normal errors of a run: of its Linears, its rest and all savings."""
    noise = random.Random(0)
    return tuple((noise.gauss(0, 1), noise.gauss(0, 1), noise.gauss(0, 1)) for _ in range(DRAWS))


def _draws(m: int, k: int, n: int, format: FormatName) -> tuple[tuple[float, float], ...]:
    """`shape_draws`; a shape that stays bf16 has one error."""
    draws = shape_draws(m, k, n)
    return tuple((e, e) for e, _ in draws) if format is FormatName.BF16 else draws


@lru_cache(maxsize=4096)
def _factors(
    m: int, k: int, n: int, is_quantized: bool, sd: float
) -> tuple[tuple[float, float], ...]:
    """(`DRAWS`, 2) factors on the bf16 and the quantized time of a shape."""
    draws = shape_draws(m, k, n)
    return tuple(
        (math.exp(sd * bf16), math.exp(sd * (quantized if is_quantized else bf16)))
        for bf16, quantized in draws
    )


def _shape_times(model: LatencyModel, savings: Savings) -> list[tuple[float, float]]:
    """(bf16 us, us in its format) of all calls of each shape."""
    return [
        (
            calls
            * model.call_us(
                m=m, k=k, n=n, format=FormatName.BF16, compiled=compiled, readers=readers
            ),
            calls * model.call_us(m=m, k=k, n=n, format=format, compiled=compiled, readers=readers),
        )
        for (m, k, n, format, compiled, readers), calls in savings.shapes.items()
    ]


def _fraction(times: list[tuple[float, float]], factors: list[tuple[float, float]]) -> float:
    """The part of the bf16 Linears' time that is saved, with the factors of each shape."""
    bf16_us = saved_us = 0.0
    for (bf16, quantized), (on_bf16, on_quantized) in zip(times, factors, strict=True):
        bf16 *= on_bf16
        bf16_us += bf16
        saved_us += bf16 - quantized * on_quantized
    return saved_us / bf16_us
