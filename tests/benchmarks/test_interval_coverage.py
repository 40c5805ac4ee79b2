"""Tables of scores are read as they are described, and coverage is counted against the truth."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from interval_coverage import Simulation, coverage, read_table, stated


def test_tables_are_read_from_files_and_folders(tmp_path: Path) -> None:
    """Both forms of a row, lists named by `kind`, bf16 left out, equal choices once, and the floor
    of `world.json`.
    """
    rows = [
        {"choice": [0], "kind": "none", "search": [0.0], "fresh": [0.0, 0.0]},
        {"choice": [1], "kind": "random", "search": [0.1], "fresh": [0.2, 0.3]},
        {"choice": [2], "kind": "rule of thumb", "search": [0.4], "fresh": [0.5, 0.6]},
        {"choice": [1], "kind": "random", "search": [0.7], "fresh": [0.7, 0.7]},
    ]
    folder = tmp_path / "table"
    folder.mkdir()
    (folder / "rows0.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "world.json").write_text('{"floor": 0.001}')
    table = read_table(folder, 0.5)
    assert table.damages.tolist() == [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]
    assert (table.name, table.floor, table.reference) == ("table", 0.001, 1)
    file = tmp_path / "plain.jsonl"
    file.write_text('{"per_prompt": [0.1, 0.2]}\n{"per_prompt": [0.1, 0.2]}\n')
    plain = read_table(file, 0.5)
    assert (plain.damages.shape, plain.floor, plain.reference) == ((2, 2), 0.5, 0)


def test_half_widths_are_widened_by_the_error_of_the_truth() -> None:
    """A factor of 2 either way, and a truth whose logarithm is 1 above with a standard error of
    0.5: 1 / sqrt(log(2)^2 + 0.98^2) widened half widths away.
    """
    found = stated(1.0, 0.5, 2.0, 1.0, 0.5)
    assert found.half == pytest.approx(math.log(2))
    assert found.miss == pytest.approx(1 / math.hypot(math.log(2), 0.98))


def test_intervals_of_lognormal_damages_hold() -> None:
    """In 60 splits of a simulated table most intervals hold, and half widths are those of Student's
    t of 24 logarithms, 2.069 sigma / sqrt(24).
    """
    kind = Simulation(lists=10, all_prompts=1000)
    found = coverage(kind.table("lognormal", 0), search=10, held_out=24, splits=60)
    sigma = math.hypot(kind.prompts, kind.rest)
    expected = math.exp(2.069 * sigma / math.sqrt(24))
    assert found["typical"]["given half"] == pytest.approx(expected, rel=0.1)
    assert all(found[what][who] >= 0.85 for what in found for who in ("given", "best"))
    assert np.isfinite([value for row in found.values() for value in row.values()]).all()
