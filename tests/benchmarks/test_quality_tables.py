"""Tables of `search_quality.py`, from its files alone."""

import json
from pathlib import Path

import pytest
from quality_tables import analyse, show


def test_hypervolumes_are_parts_of_the_ceilings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two arms with known damages against a ceiling of one list, worked out by hand."""
    damages = {"hand": 0.2, "good": 0.03, "best": 0.02, "bf16": 0.0}
    scores = [
        {"id": name, "split": "held_out", "per_prompt": [value] * 4, "latent": []}
        for name, value in damages.items()
    ]
    (tmp_path / "scores0.jsonl").write_text("\n".join(map(json.dumps, scores)))
    about = {"bf16_s": 1.0, "floor": 0.0, "by_hand": "hand"}
    front = {
        f"{rule}@{n}": [[0.8, "good"], [1.0, "bf16"]]
        for rule in ("score", "estimate")
        for n in (10, 50)
    }
    rows = [
        {"job": [0, "ours", seed, 50], "trials": 50, "ask_ms": 1.0, "fronts": front} | about
        for seed in (0, 1)
    ]
    long = {"score@50": [[0.9, "good"]], "score@100": [[0.7, "best"]]}
    rows.append(
        {"job": [0, "tpe", 100, 1000], "trials": 100, "ask_ms": 1.0, "fronts": long} | about
    )
    best = {str(n): [[0.8, "best"]] for n in (10, 50)}
    rows.append(
        {"job": [0, "ceiling", 0, 0], "best": best, "at": {"1.2": [0.8, "best"]}, "lists": 9}
        | about
    )
    (tmp_path / "results0.jsonl").write_text("\n".join(map(json.dumps, rows)))
    answer = analyse(tmp_path)
    arms = answer["nvfp4 group"]["arms"]
    cell = arms["ours"]["estimate@50"]["typical"]
    assert cell["of_ceiling"] == pytest.approx(0.27 / 0.28, rel=1e-4)
    assert cell["ci95"][0] == pytest.approx(cell["ci95"][1])
    assert cell["noise"] == pytest.approx(0.0, abs=1e-9)
    assert cell["above_ceiling_percent"]["1.2"]["mean"] == pytest.approx(50.0, rel=1e-2)
    assert answer["nvfp4 group"]["trials_to_match"] == {"tpe (long)": 100}
    show(answer)
    assert "ours" in capsys.readouterr().out
