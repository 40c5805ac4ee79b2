"""Jobs of `search_quality.py`, on a landscape in the place of a model."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from landscape_kinds import Landscape, make
from quality_tables import analyse
from scored_model import Found, id_of
from search_quality import jobs_of, run_job
from table_files import Table

from sensitivity.core.format_name import FormatName


class ModelOfLandscape:
    """Scores lists as `ScoredModel` does, and keeps them in the same file."""

    floor = 1e-5

    def __init__(self, landscape: Landscape, folder: Path) -> None:
        self.landscape, self.groups = landscape, landscape.world.candidates.groups
        self.file = (folder / "scores0.jsonl").open("a", buffering=1)

    def score(self, formats: Mapping[str, FormatName], split: str) -> Found:
        """Search prompts as they are heard, fresh ones without chance."""
        quantized = {fqn: fmt for fqn, fmt in formats.items() if fmt is not FormatName.BF16}
        choice = tuple(int(group.fqns[0] in quantized) for group in self.groups)
        heard = self.landscape.hear(choice)
        fresh = tuple(self.landscape.expected([choice])[0, self.landscape.search :].tolist())
        found = Found(
            id_of(quantized), heard.per_prompt if split == "search" else fresh, heard.latent
        )
        row = {"id": found.id, "split": split, "per_prompt": found.per_prompt}
        self.file.write(json.dumps(row) + "\n")
        return found


def test_an_arm_is_judged_against_the_ceiling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten trials of the shipped search reach most of the ceiling; the stock sampler less."""
    monkeypatch.setattr("ceiling.SAVINGS", 20)
    landscape = make("additive", 1)
    candidates = landscape.world.candidates
    model = ModelOfLandscape(landscape, tmp_path)
    rng = np.random.default_rng(0)
    lists = [candidates.canonical(candidates.rule_of_thumb)]
    lists += [tuple(map(int, rng.random(54) < rng.uniform(0.1, 0.9))) for _ in range(200)]
    values = landscape.expected(lists)
    table = Table(
        model="drawn",
        world=landscape.world,
        choices=np.array(lists),
        kinds=("random",) * len(lists),
        search=values[:, : landscape.search],
        fresh=values[:, landscape.search :],
        latent=np.zeros((len(lists), 0)),
        floor=1e-5,
        machine={},
    )
    rows = [
        run_job(model, landscape.world, job, float("inf"), table, [].append)  # type: ignore[arg-type]
        for job in ((0, "ceiling", 0, 0), (0, "ours", 0, 10), (0, "random", 0, 10))
    ]
    (tmp_path / "results0.jsonl").write_text("\n".join(map(json.dumps, rows)))
    arms = analyse(tmp_path)["nvfp4 group"]["arms"]
    ours, random = (
        arms[name]["estimate@10"]["typical"]["of_ceiling"] for name in ("ours", "random")
    )
    assert random + 0.1 < ours < 1.02
    assert ours > 0.75


def test_time_that_is_up_leaves_a_job_undone(tmp_path: Path) -> None:
    """It is taken up again by the next call."""
    landscape = make("additive", 1)
    model = ModelOfLandscape(landscape, tmp_path)
    done = run_job(model, landscape.world, (0, "ours", 0, 10), 0.0, None, [].append)  # type: ignore[arg-type]
    assert done is None


@pytest.mark.parametrize(("table", "long"), [([], 0), ([Path("t")], 1000)])
def test_the_ceiling_and_long_runs_come_first(table: list[Path], long: int) -> None:
    """Then all arms of few seeds, before more seeds."""
    args = argparse.Namespace(
        settings=[0], arms=["ours", "greedy"], seeds=3, table=table, long=long
    )
    first = [(0, "ceiling", 0, 0)] if table else []
    first += [(0, arm, 100, long) for arm in ("tpe", "nsga2", "random") if long]
    rest = [(0, "ours", 0, 50), (0, "greedy", 0, 50), (0, "ours", 1, 50), (0, "ours", 2, 50)]
    assert jobs_of(args) == first + rest


def test_a_long_run_that_is_cut_leaves_its_fronts(tmp_path: Path) -> None:
    """At 50 and at 100 trials; what the whole run gives has them too, and is not partial."""
    landscape = make("additive", 1)
    model, saved = ModelOfLandscape(landscape, tmp_path), list[dict[str, Any]]()
    job = (0, "random", 0, 105)
    whole = run_job(model, landscape.world, job, float("inf"), None, saved.append)  # type: ignore[arg-type]
    assert whole is not None
    assert [(row["trials"], row["partial"]) for row in saved] == [(50, True), (100, True)]
    assert "partial" not in whole
    assert saved[1]["fronts"].items() <= whole["fronts"].items()
