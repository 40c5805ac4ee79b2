"""The search as a user lives it: budgets, continuing, being killed, failing trials, and the way
from a trial to a recipe and back.
"""

import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sensitivity.core.format_name import FormatName
from sensitivity.errors import (
    ConstraintError,
    MeasurementError,
    OutputError,
    RecipeMismatchError,
    StoreError,
    UserError,
)
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.fidelity.score import Score
from sensitivity.models.generating import MediaGenerator
from sensitivity.models.loading import load_pipeline
from sensitivity.models.media import Media
from sensitivity.recipes.recipe import load_recipe
from sensitivity.search.candidates import baselines
from sensitivity.search.intervals import simultaneous_intervals
from sensitivity.search.loop import SearchResult, run_search
from sensitivity.search.proposers import STOCK, SamplerName
from sensitivity.search.settings import SearchSettings
from sensitivity.search.store import Store, assignment_key
from sensitivity.search.trials import ScoredTrial, SearchEvents
from sensitivity.spec.loading import load_spec
from sensitivity.workflows.conclude import SearchOutcome
from sensitivity.workflows.find import find_recipe
from sensitivity.workflows.prepare import Prepared, prepare
from sensitivity.workflows.requests import SearchRequest, SelectRequest
from sensitivity.workflows.select import select_recipe

BUDGET = 6
NVFP4 = (FormatName.NVFP4,)

HELPER = """
import os, sys, time
from sensitivity import cli
from sensitivity.scoring import Evaluator

plain, calls = Evaluator.generate, 0

def generate(self, formats, split, **kwargs):
    global calls
    calls += 1
    if calls == int(os.environ["STOP_AT"]):
        print("REACHED", file=sys.stderr, flush=True)
        time.sleep(300)
    return plain(self, formats, split, **kwargs)

Evaluator.generate = generate
cli.main()
"""


def essence(trials: tuple[ScoredTrial, ...]) -> list[tuple[Any, ...]]:
    """What must not depend on interruptions: everything of a trial except how long it took."""
    return [(t.index, t.choice, t.label, t.latency_s, t.score) for t in trials]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the references of the whole module, and its databases."""
    return tmp_path_factory.mktemp("search")


@pytest.fixture(scope="module")
def whole(tiny_study: Path, base: Path) -> SearchOutcome:
    """An uninterrupted search through the library."""
    return find_recipe(
        load_spec(tiny_study),
        SearchRequest(budget=BUDGET, storage=base / "whole.db", cache_folder=base / "references"),
    )


@pytest.fixture(scope="module")
def prepared(tiny_study: Path, base: Path) -> Iterator[Prepared]:
    """The candidates of the tiny study, and an evaluator that a test may give another `score`."""
    made = prepare(
        load_spec(tiny_study),
        SearchRequest(storage=base / "none.db", cache_folder=base / "references"),
    )
    yield made
    made.evaluator.close()


class Scorer:
    """Stands for drawing:

    LPIPS is the share of quantized Linears; counts what it is asked, and fails where `fails(call)`
    gives an error.
    """

    def __init__(self, fails: Callable[[int], Exception | None] = lambda _call: None) -> None:
        self.fails, self.asked = fails, []  # type: ignore[var-annotated]

    def __call__(
        self,
        formats: dict[str, FormatName],
        _split: str,
        *,
        after_batch: Any = None,
        keep_going: Any = None,
    ) -> Score:
        assert keep_going is None, "a study without chunks looks at no trial"
        self.asked.append(
            tuple(
                sorted(
                    (fqn, str(name)) for fqn, name in formats.items() if name is not FormatName.BF16
                )
            )
        )
        error = self.fails(len(self.asked))
        if error is not None:
            raise error
        mean = len(self.asked[-1]) / len(formats)
        return Score(net="tiny", mean=mean, ci95=(mean, mean), per_prompt=(mean,), noise_floor=None)


@pytest.fixture
def quick(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., SearchResult]:
    """Runs a search in which a `Scorer` stands for drawing, on some of the groups, in a database of
    its own.
    """

    def run(
        scorer: Scorer,
        *,
        budget: int,
        groups: int = 99,
        sampler: SamplerName = SamplerName.KNAPSACK,
        **more: Any,
    ) -> SearchResult:
        monkeypatch.setattr(prepared.evaluator, "score", scorer)
        some = prepared.candidates
        best = sorted(range(len(some.groups)), key=lambda i: -some.groups[i].gains_s[1])[
            :groups
        ]  # fewest groups that still pull both ways
        some = replace(
            some,
            groups=tuple(some.groups[i] for i in best),
            rule_of_thumb=tuple(some.rule_of_thumb[i] for i in best),
        )
        settings = SearchSettings(
            formats=NVFP4, target="b200", budget=budget, sampler=sampler, calibrated=False
        )
        with Store.open(tmp_path / "quick.db") as store:
            return run_search(prepared.evaluator, some, store, settings, **more)

    return run


@dataclass(frozen=True)
class Running:
    """The command line's search in a process of its own, which waits in the middle of a trial."""

    process: subprocess.Popen[str]
    database: Path
    out: Path


@pytest.fixture(scope="module")
def running(tiny_study: Path, base: Path) -> Iterator[dict[str, Running]]:
    """Two searches, started together since starting is most of their time:

    "killed" waits in its fifth trial, "stopped" in its fourth.
    """
    made = {}
    for name, stop_at in (("killed", 5), ("stopped", 4)):
        database, out = base / f"{name}.db", base / f"{name}.json"
        arguments = [
            "search",
            "--model",
            tiny_study,
            "--budget",
            BUDGET,
            "--storage",
            database,
            "--out",
            out,
        ]
        process = subprocess.Popen(
            [sys.executable, "-c", HELPER, *map(str, arguments)],
            env={**os.environ, "STOP_AT": str(stop_at), "XDG_CACHE_HOME": str(base / name)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        made[name] = Running(process, database, out)
    yield made
    for run in made.values():
        run.process.kill()
        run.process.communicate()


def states_of(database: Path) -> list[str]:
    """The states of all trials in a database, in order, read without any of our code."""
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return [row[0] for row in connection.execute("SELECT state FROM trials ORDER BY number")]


def wait_until_reached(process: subprocess.Popen[str]) -> None:
    """Return when the process is in the middle of the drawing; fail with what it said if it ended
    before.
    """
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        if "REACHED" in line:
            return
        said.append(line)
    raise AssertionError(
        "the search ended before the trial that was to be interrupted: " + "".join(said)
    )


def continue_in_process(tiny_study: Path, base: Path, database: Path, **more: Any) -> SearchOutcome:
    """The same search from the library, on an existing database."""
    return find_recipe(
        load_spec(tiny_study),
        SearchRequest(budget=BUDGET, storage=database, cache_folder=base / "references"),
        **more,
    )


def test_a_search_scores_exactly_its_budget(whole: SearchOutcome) -> None:
    """A search of budget N has N scored trials with N different choices, and a recipe for one of
    them.
    """
    assert len(whole.result.trials) == BUDGET
    assert len({t.choice for t in whole.result.trials}) == BUDGET
    assert not whole.result.interrupted
    assert whole.recipe is not None
    assert whole.recipe.search.trials == BUDGET


def test_bounds_and_rule_of_thumb_come_first(whole: SearchOutcome) -> None:
    """The first trials are nothing quantized, everything quantized and the rule of thumb; nothing
    quantized has distance zero.
    """
    assert [t.label for t in whole.result.trials] == ["none", "all nvfp4", "rule of thumb"] + [
        ""
    ] * (BUDGET - 3)
    assert whole.result.trials[0].score.mean == 0.0
    assert all(t.score.mean > 1e-6 for t in whole.result.trials[1:])


def test_the_winner_is_on_the_front_and_verified_on_held_out_prompts(whole: SearchOutcome) -> None:
    """The chosen trial is a front member, and the recipe reports its held-out distance, not the
    search's.
    """
    assert whole.chosen in whole.front
    assert whole.recipe is not None
    assert whole.chosen is not None
    assert whole.recipe.fidelity.lpips.mean == whole.held_out[whole.chosen.index].mean
    assert whole.recipe.fidelity.lpips.prompts == load_spec_prompts(whole)


def load_spec_prompts(outcome: SearchOutcome) -> tuple[str, ...]:
    """The held-out prompts of the study that was searched."""
    return outcome.prepared.evaluator.spec.prompts.held_out


def test_the_same_command_continues_to_a_larger_budget(
    whole: SearchOutcome, tiny_study: Path, base: Path, tmp_path: Path
) -> None:
    """A budget of 2, then of 6, gives the trials of an uninterrupted search, and says that it
    continues.
    """
    request = SearchRequest(budget=2, storage=tmp_path / "two.db", cache_folder=base / "references")
    find_recipe(load_spec(tiny_study), request)
    continued: list[int] = []
    events = SearchEvents(continued=lambda _name, trials: continued.append(len(trials)))
    outcome = continue_in_process(tiny_study, base, tmp_path / "two.db", events=events)
    assert continued == [2]
    assert essence(outcome.result.trials) == essence(whole.result.trials)
    assert outcome.recipe == whole.recipe


def test_a_full_disk_is_said_and_the_database_stays_valid(
    whole: SearchOutcome,
    tiny_study: Path,
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """When files may not be written past a size in the second trial, the search ends with a message
    about room; with room it goes on to the same end.
    """
    database, plain = tmp_path / "full.db", Evaluator.generate
    asked: list[int] = []

    def generate(self: Evaluator, formats: Any, split: Any, **more: Any) -> Media:
        asked.append(1)
        if len(asked) == 2:
            size = database.stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, limits[1]))
        return plain(self, formats, split, **more)

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    monkeypatch.setattr(Evaluator, "generate", generate)
    try:
        with pytest.raises(OutputError, match=r"cannot be written .*disk with room.*goes on"):
            continue_in_process(tiny_study, base, database)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert 1 <= states_of(database).count("COMPLETE") < BUDGET
    outcome = continue_in_process(tiny_study, base, database)
    assert essence(outcome.result.trials) == essence(whole.result.trials)


def test_kill_minus_9_loses_only_the_running_trial(
    whole: SearchOutcome, running: dict[str, Running], tiny_study: Path, base: Path
) -> None:
    """A process killed in its fifth trial leaves four, and the continued search equals the
    uninterrupted one.
    """
    run = running["killed"]
    wait_until_reached(run.process)
    run.process.kill()
    run.process.communicate()
    assert states_of(run.database) == ["COMPLETE"] * 4 + ["RUNNING"]
    continued: list[int] = []
    events = SearchEvents(continued=lambda _name, trials: continued.append(len(trials)))
    outcome = continue_in_process(tiny_study, base, run.database, events=events)
    assert continued == [4]
    assert essence(outcome.result.trials) == essence(whole.result.trials)
    assert outcome.result.failed == 0


def test_ctrl_c_keeps_finished_trials_and_says_how_to_go_on(
    whole: SearchOutcome, running: dict[str, Running], tiny_study: Path, base: Path
) -> None:
    """SIGINT in the fourth trial ends with exit code 1, no traceback, a front and a next step;
    three trials stay and no recipe is written.
    """
    run = running["stopped"]
    wait_until_reached(run.process)
    run.process.send_signal(signal.SIGINT)
    stdout, stderr = run.process.communicate(timeout=60)
    assert run.process.returncode == 1
    assert "Traceback" not in stdout + stderr
    assert "interrupted" in stderr
    assert "same command" in stderr
    assert "front of" in stdout
    assert not run.out.exists()
    assert states_of(run.database) == ["COMPLETE"] * 3 + ["FAIL"]
    outcome = continue_in_process(tiny_study, base, run.database)
    assert essence(outcome.result.trials) == essence(whole.result.trials)
    assert outcome.result.failed == 0


@pytest.mark.parametrize(
    "error",
    [MeasurementError("NaN pictures"), torch.OutOfMemoryError("CUDA out of memory")],
    ids=["measurement", "memory"],
)
@pytest.mark.parametrize("call", [2, 5], ids=["baseline", "proposal"])
def test_a_failing_trial_is_recorded_and_the_search_goes_on(
    quick: Any, tmp_path: Path, error: Exception, call: int
) -> None:
    """One failing trial, be it a baseline or a proposal, is kept with its reason, is not tried
    again, and the budget is still reached.
    """
    failed: list[tuple[int, str]] = []
    scorer = Scorer(lambda at: error if at == call else None)
    events = SearchEvents(failed=lambda index, reason: failed.append((index, reason)))
    result = quick(scorer, budget=7, events=events)
    assert len(result.trials) == 7
    assert [t.index for t in result.trials] == list(range(7))
    assert result.failed == 1
    assert failed == [(call - 1, f"{type(error).__name__}: {error}")]
    assert len(scorer.asked) == len(set(scorer.asked)) == 8
    with closing(sqlite3.connect(tmp_path / "quick.db")) as connection:
        reasons = [
            json.loads(row[0])
            for row in connection.execute(
                "SELECT value_json FROM trial_user_attributes WHERE key = 'reason'"
            )
        ]
    assert reasons == [failed[0][1]]


def test_three_alike_failures_in_a_row_stop_with_the_reason(quick: Any) -> None:
    """Three failures that differ only in numbers end the search with the reason and a next step;
    once it is mended, the same trials are run.
    """
    scorer = Scorer(
        lambda at: (
            torch.OutOfMemoryError(f"tried to allocate {at}.5 GiB") if at in (3, 4, 5) else None
        )
    )
    with pytest.raises(
        MeasurementError, match=r"3 trials in a row failed alike .*tried to allocate.*run again"
    ):
        quick(scorer, budget=9)
    assert len(scorer.asked) == 5
    mended = Scorer()
    result = quick(mended, budget=9)
    assert result.trials[2].label == "rule of thumb"
    assert len(result.trials) == 9


def test_unlike_failures_do_not_stop_the_search(quick: Any) -> None:
    """Three failures in a row with different reasons are three failed trials, and the search goes
    on.
    """
    words = {4: "one", 5: "two", 6: "three"}
    result = quick(
        Scorer(lambda at: MeasurementError(words[at]) if at in words else None), budget=6
    )
    assert (len(result.trials), result.failed) == (6, 3)


@pytest.mark.parametrize("sampler", [SamplerName("knapsack"), *map(SamplerName, STOCK)])
def test_no_skip_list_is_scored_twice(quick: Any, sampler: SamplerName) -> None:
    """On three groups, every sampler scores each of the eight choices at most once, and ends
    cleanly when no new one is found.
    """
    scorer = Scorer()
    result = quick(scorer, budget=50, groups=3, sampler=sampler)
    assert len(scorer.asked) == len(set(scorer.asked)) == len(result.trials)
    assert len(result.trials) == 8
    assert result.failed == 0
    assert not result.interrupted


@pytest.mark.parametrize("sampler", [SamplerName("knapsack"), *map(SamplerName, STOCK)])
def test_every_sampler_continues_as_if_never_interrupted(
    quick: Any, tmp_path: Path, sampler: SamplerName
) -> None:
    """A search in four pieces, one of them cut by Ctrl-C, gives the trials of a search in one
    piece.
    """
    first = quick(Scorer(), budget=14, sampler=sampler)
    (tmp_path / "quick.db").unlink()
    quick(Scorer(), budget=4, sampler=sampler)

    def interrupt(_index: int, _label: str) -> None:
        raise KeyboardInterrupt

    assert quick(
        Scorer(), budget=14, sampler=sampler, events=SearchEvents(began=interrupt)
    ).interrupted
    quick(Scorer(), budget=9, sampler=sampler)
    assert essence(quick(Scorer(), budget=14, sampler=sampler).trials) == essence(first.trials)


def test_a_finished_study_draws_nothing(quick: Any) -> None:
    """The same budget again scores nothing and gives the same trials."""
    first, again = Scorer(), Scorer()
    trials = quick(first, budget=5).trials
    assert quick(again, budget=5).trials == trials
    assert again.asked == []


def test_another_seed_is_another_study_that_reads_known_scores(
    prepared: Prepared, quick: Any, tmp_path: Path
) -> None:
    """Two seeds in one database keep their trials apart, the second says so and draws no skip-list
    that the first drew.
    """
    first = quick(Scorer(), budget=5)
    scorer = Scorer()
    prepared.evaluator.score = scorer  # type: ignore[method-assign]  # quick's monkeypatch undoes it
    settings = SearchSettings(formats=NVFP4, target="b200", budget=5, seed=1, calibrated=False)
    started: list[tuple[str, tuple[str, ...]]] = []
    events = SearchEvents(started=lambda name, others: started.append((name, others)))
    with Store.open(tmp_path / "quick.db") as store:
        second = run_search(prepared.evaluator, prepared.candidates, store, settings, events)
    assert started == [(second.study, (first.study,))]
    assert second.study != first.study
    assert len(second.trials) == 5
    assert len(scorer.asked) <= 2


def test_a_budget_below_one_is_refused(quick: Any) -> None:
    """Budget 0 names the value, what was expected and a usual one."""
    with pytest.raises(UserError, match="`budget` is 0; expected 1 or more"):
        quick(Scorer(), budget=0)


def test_another_search_on_the_same_database_is_refused(quick: Any, tmp_path: Path) -> None:
    """While a search holds a database, a second one is told to wait or to take another."""
    with (
        Store.open(tmp_path / "quick.db"),
        pytest.raises(StoreError, match="in use by another search"),
    ):
        quick(Scorer(), budget=1)


def test_several_formats_give_each_group_a_choice(
    prepared: Prepared, tiny_study: Path, base: Path, tmp_path: Path
) -> None:
    """With two formats each has its own bound, and some trial mixes them."""
    request = SearchRequest(
        formats=(FormatName.MXFP8, FormatName.NVFP4),
        budget=6,
        storage=tmp_path / "two.db",
        cache_folder=base / "references",
    )
    outcome = find_recipe(load_spec(tiny_study), request)
    labels = [label for label, _ in baselines(outcome.prepared.candidates)]
    assert labels[:3] == ["none", "all mxfp8", "all nvfp4"]
    means = {t.label: t.score.mean for t in outcome.result.trials}
    assert 0 < means["all mxfp8"] < means["all nvfp4"]
    assert any({1, 2} <= set(t.choice) for t in outcome.result.trials)
    assert outcome.recipe is not None
    assert outcome.recipe.name.split("-")[2] == "mxfp8+nvfp4"
    assert len(prepared.candidates.formats) == 2


def test_granularity_layer_searches_single_blocks(
    prepared: Prepared, tiny_study: Path, base: Path, tmp_path: Path
) -> None:
    """Per layer no group spans two blocks, and there are more groups than with depth bands."""
    request = SearchRequest(
        granularity="layer",
        calibrated=False,
        budget=4,
        storage=tmp_path / "layer.db",
        cache_folder=base / "references",
    )
    outcome = find_recipe(load_spec(tiny_study), request)
    groups = outcome.prepared.candidates.groups
    assert len(groups) > len(prepared.candidates.groups)
    assert all(
        len({fqn.split(".")[1] for fqn in group.fqns if "blocks." in fqn}) <= 1 for group in groups
    )
    assert len(outcome.result.trials) == 4


def test_a_recipe_draws_the_winning_trials_pictures(
    whole: SearchOutcome, prepared: Prepared, tiny_study: Path, tmp_path: Path
) -> None:
    """Search, file, load, apply on a pipeline loaded anew: the pictures are the winning trial's,
    bit for bit.
    """
    assert whole.recipe is not None
    assert whole.chosen is not None
    recipe = load_recipe(whole.recipe.save(tmp_path / "recipe.json"))
    assert recipe == whole.recipe
    fresh = load_pipeline(load_spec(tiny_study), device="cpu")
    report = recipe.apply(fresh.pipe, emulate=True)
    assert dict(report.layers) == prepared.candidates.decode(whole.chosen.choice)
    texts, seeds = prepared.evaluator.prompts("search")
    pictures = MediaGenerator(fresh).generate_pictures(texts, seeds, batch_size=3)
    assert torch.equal(
        pictures,
        prepared.evaluator.generate_pictures(prepared.candidates.decode(whole.chosen.choice), "search"),
    )
    assert not torch.equal(pictures, prepared.evaluator.references("search").pictures)


def test_a_recipe_of_another_model_is_refused_by_name(
    whole: SearchOutcome, tiny_study: Path
) -> None:
    """A recipe whose Linears are not the model's is refused with the names, and the model stays as
    it was.
    """
    assert whole.recipe is not None
    fresh = load_pipeline(load_spec(tiny_study), device="cpu")
    fresh.denoiser.extra = torch.nn.Linear(32, 32)
    with pytest.raises(RecipeMismatchError, match="extra"):
        whole.recipe.apply(fresh.pipe, emulate=True)
    assert {type(m) for m in fresh.denoiser.modules() if isinstance(m, torch.nn.Linear)} == {
        torch.nn.Linear
    }


def test_an_unwritable_reference_cache_costs_time_only(
    whole: SearchOutcome, tiny_study: Path, tmp_path: Path
) -> None:
    """Where references cannot be kept, they are drawn, and the scores are the same."""
    (tmp_path / "file").write_text("")
    request = SearchRequest(
        budget=2,
        calibrated=False,
        storage=tmp_path / "s.db",
        cache_folder=tmp_path / "file" / "references",
    )
    outcome = find_recipe(load_spec(tiny_study), request)
    assert [t.score for t in outcome.result.trials] == [t.score for t in whole.result.trials[:2]]


def test_an_unwritable_database_is_an_output_error(tmp_path: Path, tiny_study: Path) -> None:
    """A database below a file cannot be made; the message comes before the model is loaded and
    names --storage.
    """
    (tmp_path / "file").write_text("")
    said: list[str] = []
    with pytest.raises(OutputError, match="--storage"):
        find_recipe(
            load_spec(tiny_study),
            SearchRequest(budget=1, storage=tmp_path / "file" / "s.db"),
            say=said.append,
        )
    assert said == []


def test_constraints_that_nothing_meets_are_explained(
    tiny_study: Path, base: Path, whole: SearchOutcome
) -> None:
    """A speedup that no trial reaches is refused with the range of the front; the error carries the
    front, and the study is kept.
    """
    request = SearchRequest(
        budget=BUDGET, min_speedup=50.0, storage=base / "whole.db", cache_folder=base / "references"
    )
    with pytest.raises(
        ConstraintError, match=r"no scored skip-list has speedup >= 50; the front runs from"
    ) as raised:
        find_recipe(load_spec(tiny_study), request)
    assert essence(raised.value.outcome.front) == essence(whole.front)
    assert raised.value.outcome.recipe is None


def no_pictures(*_arguments: Any, **_options: Any) -> torch.Tensor:
    """Stands for `MediaGenerator.generate` where nothing may be drawn."""
    raise AssertionError("pictures were drawn")


def test_selecting_without_constraints_gives_the_searchs_recipe(
    whole: SearchOutcome, tiny_study: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same study gives the same recipe, settings and all, from the database alone: no picture
    is drawn.
    """
    monkeypatch.setattr(MediaGenerator, "generate", no_pictures)
    outcome = select_recipe(
        load_spec(tiny_study),
        SelectRequest(storage=base / "whole.db", cache_folder=base / "references"),
    )
    assert outcome.recipe == whole.recipe
    assert essence(outcome.result.trials) == essence(whole.result.trials)


def test_selecting_by_another_constraint_draws_only_missing_held_out_scores(
    whole: SearchOutcome,
    tiny_study: Path,
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The front's slow end is named with max_seconds just above bf16's; what is drawn is held out,
    was not known, and is said before; then all is known.
    """
    shutil.copy(base / "whole.db", tmp_path / "copy.db")
    front, drawn, said = whole.front, [], []  # type: ignore[var-annotated]
    plain = Evaluator.generate

    def generate(self: Evaluator, formats: Any, split: Any, **more: Any) -> Media:
        drawn.append(split)
        return plain(self, formats, split, **more)

    monkeypatch.setattr(Evaluator, "generate", generate)
    more = {"storage": tmp_path / "copy.db", "cache_folder": base / "references"}
    request = SelectRequest(max_seconds=front[-1].latency_s * 1.01, **more)  # type: ignore[arg-type]
    outcome = select_recipe(load_spec(tiny_study), request, say=said.append)
    near = {front[-1].index, front[-2].index}
    assert near <= {t.index for t in outcome.winner.shortlist}  # type: ignore[union-attr]
    assert outcome.chosen == front[-1]
    missing = {t.index for t in outcome.winner.shortlist} - set(whole.held_out)  # type: ignore[union-attr]
    assert drawn == ["held_out"] * len(missing)
    assert missing
    assert f"{len(missing)} to compute ({3 * len(missing)} pictures)" in said[-1]
    assert outcome.result.trials == whole.result.trials
    drawn.clear()
    assert select_recipe(load_spec(tiny_study), request).recipe == outcome.recipe
    assert drawn == []


def test_selecting_without_verification_names_only_what_has_a_held_out_score(
    whole: SearchOutcome,
    tiny_study: Path,
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With `verify` False no picture is drawn: a first choice without a held-out score is passed
    over, and without any score nothing is named.
    """
    monkeypatch.setattr(MediaGenerator, "generate", no_pictures)
    assert whole.winner is not None
    shutil.copy(base / "whole.db", tmp_path / "copy.db")
    evaluator, candidates = whole.prepared.evaluator, whole.prepared.candidates
    request = SelectRequest(
        verify=False, storage=tmp_path / "copy.db", cache_folder=base / "references"
    )

    def forget(*forgotten: ScoredTrial) -> None:
        with closing(sqlite3.connect(tmp_path / "copy.db")) as connection, connection:
            for t in forgotten:
                key = (
                    evaluator.evaluation_key("held_out"),
                    assignment_key(candidates.decode(t.choice)),
                )
                assert (
                    connection.execute(
                        "DELETE FROM sensitivity_scores WHERE evaluation = ? AND assignment = ?",
                        key,
                    ).rowcount
                    == 1
                )

    first, rest = (
        whole.winner.first,
        [t for t in whole.winner.shortlist if t.index != whole.winner.first.index],
    )
    forget(first)
    outcome = select_recipe(load_spec(tiny_study), request)
    assert outcome.recipe is not None
    assert outcome.recipe.choice is not None
    assert outcome.recipe.choice.passed_over == (first.name,)
    assert outcome.winner is not None
    assert essence(outcome.winner.shortlist) == essence(tuple(rest))
    assert outcome.chosen in outcome.winner.shortlist
    forget(*rest)
    with pytest.raises(
        ConstraintError,
        match=r"none of the .* has a held-out score in the database; .* choose with `verify` on",
    ):
        select_recipe(load_spec(tiny_study), request)


def test_the_recipe_says_how_it_was_named(whole: SearchOutcome) -> None:
    """Rule, bounds, first choice and shortlist are in the recipe, and the held-out interval holds
    for the whole shortlist.
    """
    assert whole.recipe is not None
    assert whole.recipe.choice is not None
    assert whole.winner is not None
    choice = whole.recipe.choice
    assert (choice.rule, choice.max_lpips, choice.min_speedup, choice.max_seconds) == (
        "knee",
        None,
        None,
        None,
    )
    assert (
        whole.recipe.fidelity.lpips.simultaneous
        == len(choice.shortlist)
        == len(whole.winner.shortlist)
        > 1
    )
    members = [whole.held_out[t.index] for t in whole.winner.shortlist]
    assert [score.ci95 for score in members] == simultaneous_intervals(
        [score.per_prompt for score in members]
    )
    assert whole.recipe.fidelity.lpips.ci95 in [score.ci95 for score in members]


def test_a_study_made_under_other_conditions_is_refused(
    tiny_study: Path, base: Path, tmp_path: Path, whole: SearchOutcome
) -> None:
    """Where a prompt was changed since, the fingerprint differs, and the message says what may have
    and what to do.
    """
    assert whole.recipe is not None
    other = tmp_path / tiny_study.name
    other.write_text(tiny_study.read_text().replace('"a ring"', '"a cross"'))
    with pytest.raises(StoreError, match=r"was made with another model, prompts, .*search again"):
        select_recipe(
            load_spec(other),
            SelectRequest(storage=base / "whole.db", cache_folder=base / "references"),
        )
