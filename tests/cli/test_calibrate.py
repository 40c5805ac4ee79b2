"""`sensitivity calibrate`: what it costs is said before, what is known costs nothing, and shares,
tail and heatmap are what the errors say.
"""

import dataclasses
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sensitivity import cli
from sensitivity.cli.render.sensitivities import heatmap, sensitivity_table, tail_sentence
from sensitivity.core.format_name import FormatName
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.latency import ShapeScale, stand_for
from sensitivity.latency.devices import get_device
from sensitivity.latency.predicted import PredictedLatency
from sensitivity.search.calibration.ranking import long_tail, rank
from sensitivity.search.calibration.stored import calibrate, calibration_cost
from sensitivity.search.candidates import Candidates, Group
from sensitivity.search.grouping import make_candidates
from sensitivity.search.store import Store
from sensitivity.spec.loading import load_spec
from sensitivity.workflows import calibrate as calibrating

BF16, MXFP8, NVFP4, FP8 = FormatName.BF16, FormatName.MXFP8, FormatName.NVFP4, FormatName.FP8
FQNS = ("proj_out", "blocks.0.up", "blocks.0.down", "blocks.1.up", "blocks.1.down", "blocks.10.up")


def group(name: str, *fqns: str, gain_s: float = 1e-3) -> Group:
    return Group(name=name, fqns=fqns, members=((), fqns, fqns), gains_s=(0.0, gain_s, 2 * gain_s))


THREE_GROUPS = Candidates(
    formats=(BF16, MXFP8, NVFP4),
    fixed={"blocks.10.up": "never called"},
    refused={},
    fqns=FQNS,
    rule_of_thumb=(0, 0, 0),
    bf16_s=1.0,
    groups=(
        group("up[0-1]", "blocks.0.up", "blocks.1.up"),
        group("down[0-1]", "blocks.0.down", "blocks.1.down"),
        group("proj_out", "proj_out", gain_s=-1e-3),
    ),
)
ERRORS = {(0, 1): 0.1, (1, 1): 0.1, (2, 1): 0.2, (0, 2): 0.3, (1, 2): 0.1, (2, 2): 0.4}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "study.db") as opened:
        yield opened


def candidates_of(evaluator: Evaluator, granularity: Any, *formats: FormatName) -> Candidates:
    """Every other group of the tiny pipeline's double blocks and what is outside blocks."""
    table = stand_for(evaluator.profile(), ShapeScale(factor=16))
    made = make_candidates(
        table,
        evaluator.spec,
        formats=formats,
        latency=PredictedLatency(get_device("b200")),
        granularity=granularity,
    )
    return dataclasses.replace(
        made, groups=tuple(g for g in made.groups if not g.name.startswith("single"))[::3]
    )


def shown(renderable: object, *, width: int = 160) -> str:
    console = Console(width=width, record=True, file=io.StringIO(), color_system=None)
    console.print(renderable)
    return console.export_text()


def test_the_cost_is_what_is_then_spent(evaluator: Evaluator, store: Store) -> None:
    """Said before: the recording and one call a job and state, on three prompts, beside a trial's
    two calls on three; afterwards nothing is left.
    """
    candidates = candidates_of(evaluator, "group", NVFP4)
    jobs = len(candidates.groups)
    pictures: list[int] = []
    embedder: Any = evaluator.switch.linears[
        "x_embedder"
    ]  # inside: a preview's remembered answers do not reach it
    embedder.register_forward_pre_hook(lambda _m, args: pictures.append(len(args[0])))
    for estimator, calls in (("output", 2 + 2 * jobs), ("preview", 2 + 2 + 2 * jobs)):
        before = calibration_cost(evaluator, candidates, store, estimator=estimator)
        assert (before.jobs, before.known, before.trial_picture_calls) == (jobs, 0, 6)
        assert before.picture_calls == 3 * calls
        assert before.trials == pytest.approx(calls / 2)
        assert f"costs {calls / 2:.2g} trial equivalents" in before.describe()
        pictures.clear()
        calibrate(evaluator, candidates, store, estimator=estimator)
        assert sum(pictures) == before.picture_calls
        after = calibration_cost(evaluator, candidates, store, estimator=estimator)
        assert (after.known, after.picture_calls, after.decodes) == (jobs, 0, 0)
        assert "costs nothing" in after.describe()
    assert (
        calibration_cost(evaluator, candidates, store, states=1, calls_a_run=4).trial_picture_calls
        == 12
    )


def test_one_pass_estimators_cost_a_few_calls_whatever_the_number_of_groups(
    evaluator: Evaluator, store: Store
) -> None:
    """local: recording, and (1 + formats) calls a state; gradient: three passes and the formats.

    Half the Linears cost as much.
    """
    two = candidates_of(evaluator, "layer", MXFP8, NVFP4)
    half = dataclasses.replace(two, groups=two.groups[: len(two.groups) // 2])
    for candidates in (two, half):
        assert calibration_cost(
            evaluator, candidates, store, estimator="local"
        ).picture_calls == 3 * (2 + 2 * 3)
        assert calibration_cost(
            evaluator, candidates, store, estimator="gradient"
        ).picture_calls == 3 * (2 + 2 * 5)


@pytest.mark.parametrize("estimator", ["output", "local"])
def test_a_linear_is_measured_once_for_both_granularities(
    evaluator: Evaluator, store: Store, estimator: str
) -> None:
    """What was measured by group is known by layer where it is one Linear; estimators of single
    Linears know all of it.
    """
    by_group, by_layer = (
        candidates_of(evaluator, granularity, NVFP4) for granularity in ("group", "layer")
    )
    fqns = {fqn for g in by_group.groups for fqn in g.fqns}
    by_layer = dataclasses.replace(
        by_layer, groups=tuple(g for g in by_layer.groups if set(g.fqns) <= fqns)
    )
    shared = {g.fqns for g in by_group.groups} & {g.fqns for g in by_layer.groups}
    assert any(len(names) == 1 for names in shared)
    first = calibrate(evaluator, by_group, store, estimator=estimator)
    cost = calibration_cost(evaluator, by_layer, store, estimator=estimator)
    assert cost.known == (cost.jobs if estimator == "local" else len(shared))
    second = calibrate(evaluator, by_layer, store, estimator=estimator)
    for g, made in enumerate(by_group.groups):
        for other, single in enumerate(by_layer.groups):
            if single.fqns == made.fqns:
                assert first[g, 1] == second[other, 1]


def test_another_budget_target_or_format_beside_it_changes_no_key(
    evaluator: Evaluator, store: Store
) -> None:
    """A format that was measured among two is known alone, whatever the groups gain."""
    both = candidates_of(evaluator, "group", MXFP8, NVFP4)
    errors = calibrate(evaluator, both, store, estimator="local")
    alone = candidates_of(evaluator, "group", NVFP4)
    dearer = dataclasses.replace(
        alone, groups=tuple(dataclasses.replace(g, gains_s=(0.0, 9.0)) for g in alone.groups)
    )
    assert calibration_cost(evaluator, dearer, store, estimator="local").picture_calls == 0
    assert calibrate(evaluator, dearer, store, estimator="local") == {
        (g, 1): errors[g, 2] for g in range(len(both.groups))
    }


def test_shares_are_squares_over_their_sum() -> None:
    """Each format's shares add up to 1; a share is divided by the ms saved, and a group that is
    slower has none.
    """
    rows = rank(THREE_GROUPS, ERRORS)
    assert [row.error for row in rows] == [0.4, 0.3, 0.2, 0.1, 0.1, 0.1]
    nvfp4 = {row.group: row for row in rows if row.format is NVFP4}
    assert {name: row.share for name, row in nvfp4.items()} == pytest.approx(
        {"proj_out": 16 / 26, "up[0-1]": 9 / 26, "down[0-1]": 1 / 26}
    )
    assert sum(row.share for row in rows if row.format is MXFP8) == pytest.approx(1.0)
    assert nvfp4["up[0-1]"].share_per_ms == pytest.approx(9 / 26 / 2)
    assert nvfp4["proj_out"].share_per_ms is None


def test_the_long_tail_is_the_fewest_that_carry_a_share() -> None:
    """One of three groups carries 62 %, two 96 %, and the sentence names them."""
    rows = rank(THREE_GROUPS, ERRORS)
    assert [row.group for row in long_tail(rows, NVFP4)] == ["proj_out"]
    assert [row.group for row in long_tail(rows, NVFP4, share=0.9)] == ["proj_out", "up[0-1]"]
    assert long_tail(rows, FP8) == ()
    assert tail_sentence(rows, NVFP4) == "nvfp4: 1 of 3 groups carries 62% of the damage: proj_out"


def test_the_heatmap_says_its_numbers_without_colour() -> None:
    """A role a line, a block a column in order of its number: percent of the largest, ** for it, a
    dot for bf16, blank for what is not there.
    """
    text = shown(heatmap(rank(THREE_GROUPS, ERRORS), FQNS, NVFP4, width=80))
    lines = [line.rstrip() for line in text.splitlines()]
    assert lines[0] == "error in nvfp4, percent of the largest (0.4, **); a dot stays bf16"
    assert lines[1:4] == ["blocks     0  1 10", "up        75 75  .", "down      25 25"]
    assert lines[5] == "proj_out  **"
    narrow = shown(heatmap(rank(THREE_GROUPS, ERRORS), FQNS, NVFP4, width=16))
    words = [line.split() for line in narrow.splitlines()][1:7]
    assert words == [
        ["blocks", "0", "1"],
        ["up", "75", "75"],
        ["down", "25", "25"],
        ["blocks", "10"],
        ["up", "."],
        ["down"],
    ]


def test_the_table_shows_the_worst_and_says_how_many_follow() -> None:
    """Two of six rows, with error, share, ms and share a ms; slower groups say so."""
    text = shown(sensitivity_table(rank(THREE_GROUPS, ERRORS), title="t", most=2))
    assert text.split().count("nvfp4") == 2
    assert "mxfp8" not in text
    assert "61.5%" in text
    assert "slower" in text
    assert "+2.000" in text
    assert "and 4 more" in text


def ran(arguments: list[object], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["sensitivity", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return int(ended.value.code or 0), out, err


def test_the_command_measures_once(
    tiny_study: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """stdout holds the JSON alone; stderr the cost before it starts, the table, the map and the
    tail; the second run costs nothing and gives the same.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")  # headings stay whole
    command: list[object] = [
        "calibrate",
        "--model",
        tiny_study,
        "--format",
        "nvfp4",
        "--estimator",
        "local",
        "--rows",
        3,
        "--json",
        "-",
    ]
    code, out, err = ran(command, capsys)
    assert code == 0, err
    first = json.loads(out)
    assert (tmp_path / "sensitivity-runs" / "tiny-random.db").exists()
    assert first["estimator"] == "local"
    assert first["kernels"] == "emulated"
    assert first["states"] == 2
    assert first["prompts"] == 3
    assert sum(row["share"] for row in first["sensitivities"]) == pytest.approx(1.0)
    shown = " ".join(err.split())  # lines wrap
    places = [shown.find(x) for x in ("trial equivalents", "measured:", "share of damage")]
    assert 0 <= places[0] < places[1] < places[2], shown
    assert "percent of the largest" in err
    assert "% of the damage:" in err
    code, out, err = ran(command, capsys)
    assert code == 0
    assert "all known, costs nothing" in err
    assert json.loads(out)["sensitivities"] == first["sensitivities"]
    assert json.loads(out)["cost"]["picture_calls"] == 0


def test_ctrl_c_keeps_what_was_measured(tiny_study: Path, tmp_path: Path) -> None:
    """Stopped after three groups, a second calibration knows those three."""
    spec = load_spec(tiny_study)
    request = calibrating.CalibrationRequest(
        formats=(NVFP4,),
        estimator="output",
        states=1,
        prompts=1,
        storage=tmp_path / "s.db",
        cache_folder=tmp_path / "cache",
    )

    def stop(done: int, _total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrating.calibrate_study(spec, request, progress=stop)
    costs: list[Any] = []
    done = calibrating.calibrate_study(spec, request, started=costs.append)
    assert costs[0].known == 3
    assert len(done.rows) == costs[0].jobs == len(done.prepared.candidates.groups)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--estimator", "best"], ["--estimator", "'best' is not one of 'rollout', 'gradient',"]),
        (["--states", 0], ["'--states': found 0, expected 1 to 65536"]),
        (["--prompt-count", -1], ["'--prompt-count': found -1, expected 1 to 65536"]),
        (["--granularity", "block"], ["'block' is not one of 'group', 'layer'"]),
        (["--format", "nvpf4"], ["'nvpf4' is not one of 'nvfp4', 'mxfp8', 'fp8'"]),
        (["--target", "h100", "--format", "nvfp4"], ["h100 has no nvfp4"]),
        (["--device", "tpu"], ["--device is 'tpu'"]),
    ],
)
def test_mistakes_are_named_before_anything_is_loaded(
    arguments: list[object],
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit code 2, nothing on stdout, the value found and what was expected on stderr."""
    monkeypatch.chdir(tmp_path)
    code, out, err = ran(["calibrate", "--model", "tiny-flux", *arguments], capsys)
    assert (code, out) == (2, "")
    for word in words:
        assert word in err


def test_the_default_is_every_format_of_the_target() -> None:
    """An H100 has fp8 alone, a B200 all three."""
    spec = load_spec(Path(__file__).parents[2] / "studies" / "tiny-flux.toml")
    assert calibrating.formats_of_target(spec, "h100") == (FP8,)
    assert set(calibrating.formats_of_target(spec, None)) == {FP8, MXFP8, NVFP4}
