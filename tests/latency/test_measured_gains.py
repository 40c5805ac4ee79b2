"""What a shape gains on an H100, predicted and measured, row by row."""

import json
from pathlib import Path

import numpy as np

from sensitivity.latency import PredictedLatency
from sensitivity.latency.devices import get_device
from sensitivity.latency.fitting import FitRow, fit_row, gain_pairs, predict_rows, row_errors
from sensitivity.latency.shape_times import ShapeTime

RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "2026-11-21-fp8-flux-h100.json"
H100 = get_device("h100")


def measured() -> list[FitRow]:
    """FLUX.1-dev's Linears at batch 1 and 4."""
    stored = json.loads(RESULT.read_text(encoding="utf-8"))["shape_times"]
    rows = [fit_row(ShapeTime.from_json(row), "flux") for row in stored.values()]
    return [row for row in rows if row is not None]


def test_gains_row_by_row() -> None:
    """The median gain is within 10 % of the measured one, nine of ten within 25 %, and the sum of
    all gains of compiled Linears within 5 %.
    """
    rows = measured()
    predicted = predict_rows(H100, H100.kernels, rows)
    errors = row_errors(rows, predicted)
    assert len(gain_pairs(rows)) == 44
    assert errors["gain_median"] <= 0.10
    assert errors["gain_within_25"] >= 0.9
    pairs = [(b, q) for b, q in gain_pairs(rows) if rows[q].kind == "linear"]
    gained_us = sum(rows[b].us - rows[q].us for b, q in pairs)
    assert abs(sum(predicted[b] - predicted[q] for b, q in pairs) / gained_us - 1) <= 0.05


def test_totals() -> None:
    """The median time is within 5 % of the measured one, nine of ten within 10 %."""
    rows = measured()
    errors = row_errors(rows, predict_rows(H100, H100.kernels, rows))
    assert errors["total_median"] <= 0.05
    assert errors["total_p90"] <= 0.10


def test_intervals_hold_what_was_measured() -> None:
    """Between 80 and 100 % of measured times and gains lie in the stated 90 % intervals; these rows
    were fitted.
    """
    rows, model = measured(), PredictedLatency(H100)
    inside = []
    for b, q in gain_pairs(rows):
        row = rows[q]
        if row.kind == "sibling":
            continue
        us, gain_us = model.row_intervals90(
            m=row.m, k=row.k, n=row.n, format=row.format, compiled=row.kind == "linear"
        )
        inside += [us[0] <= row.us <= us[1], gain_us[0] <= rows[b].us - row.us <= gain_us[1]]
    assert 0.8 <= np.mean(inside) <= 1.0
