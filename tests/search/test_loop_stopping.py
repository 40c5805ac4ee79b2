"""Early stopping in a search: which trials stop, what counts towards the budget, what is never
tried again, and that an interrupted search continues as if it had not been.
"""

import hashlib
import io
import json
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sensitivity.cli.render.front import front_table
from sensitivity.cli.render.live_search import SearchProgress
from sensitivity.core.format_name import FormatName, quantized
from sensitivity.errors import MeasurementError
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.fidelity.score import PartialScore, Score
from sensitivity.search.candidates import Candidates
from sensitivity.search.finished import list_optuna_studies
from sensitivity.search.loop import SearchResult, read_search, run_search
from sensitivity.search.proposers import (
    STOCK,
    KnapsackProposer,
    Observation,
    SamplerName,
    optuna_proposer,
)
from sensitivity.search.settings import SearchSettings, study_name
from sensitivity.search.shortlist import front_of
from sensitivity.search.store import Store, assignment_key
from sensitivity.search.trials import ScoredTrial, SearchEvents, StoppedTrial
from sensitivity.spec.loading import load_spec
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows.find import find_recipe
from sensitivity.workflows.prepare import Prepared, prepare
from sensitivity.workflows.requests import SearchRequest, SelectRequest
from sensitivity.workflows.select import select_recipe

PROMPTS, CHUNK = 8, 3
PROFILE = (1.6, 1.4, 1.2, 1.0, 0.9, 0.8, 0.6, 0.5)
SAMPLERS = [SamplerName("knapsack"), *map(SamplerName, STOCK)]
NVFP4 = (FormatName.NVFP4,)


class Killed(BaseException):
    """Stands for kill -9: no handler of a trial catches it."""


def chance(*what: object) -> float:
    """A pseudo-random number in [0, 1) that depends on these values only."""
    return int(hashlib.sha256(repr(what).encode()).hexdigest()[:8], 16) / 2**32


class Toy:
    """Stands for `Evaluator.score`. LPIPS is about the share of quantized Linears, up to nine times
    as much by chance, and `keep_going` is asked after each chunk.

    `asked` has the quantized Linears of each call, `pictures` how many each call took;
    `before(call)` may raise.
    """

    def __init__(
        self, before: Callable[[int], object] = lambda _call: None, chunk: int = CHUNK
    ) -> None:
        self.before, self.chunk = before, chunk
        self.asked: list[tuple[str, ...]] = []
        self.pictures: list[int] = []

    def __call__(
        self,
        formats: Mapping[str, FormatName],
        _split: str,
        *,
        after_batch: Any = None,  # noqa: ARG002 - the evaluator's signature
        keep_going: Any = None,
    ) -> Any:
        changed = tuple(sorted(quantized(formats)))
        self.asked.append(changed)
        self.before(len(self.asked))
        share = len(changed) / len(formats)
        level = share * (1 + 8 * chance(changed))
        values = tuple(
            level * size * (0.9 + 0.2 * chance(changed, i)) for i, size in enumerate(PROFILE)
        )
        for seen in range(self.chunk, PROMPTS, self.chunk):
            if keep_going is not None and not keep_going(values[:seen]):
                self.pictures.append(seen)
                return PartialScore(net="tiny", per_prompt=values[:seen], prompts=PROMPTS)
        self.pictures.append(PROMPTS)
        mean = sum(values) / PROMPTS
        return Score(net="tiny", mean=mean, per_prompt=values, noise_floor=None)


@pytest.fixture(scope="module")
def chunked(tiny_study: Path) -> StudySpec:
    """The tiny study with 8 search prompts, in chunks of 3."""
    data = load_spec(tiny_study).model_dump()
    prompts = data["prompts"] | {"search": [f"a ring and {i} stars" for i in range(PROMPTS)]}
    return StudySpec.model_validate(
        data
        | {
            "prompts": prompts,
            "search": data["search"] | {"batch_size": PROMPTS, "chunk": CHUNK},
        }
    )


def with_groups(prepared: Prepared, count: int) -> Prepared:
    """The same with candidates of so many groups: those that gain most, and the best of those that
    the rule of thumb skips.
    """
    whole = prepared.candidates
    ordered = sorted(range(len(whole.groups)), key=lambda i: -whole.groups[i].gains_s[1])
    skipped = next(i for i in ordered if not whole.rule_of_thumb[i])
    best = [*[i for i in ordered if i != skipped][: count - 1], skipped]
    some = replace(
        whole,
        groups=tuple(whole.groups[i] for i in best),
        rule_of_thumb=tuple(whole.rule_of_thumb[i] for i in best),
        memory=None,
    )
    return replace(prepared, candidates=some)


@pytest.fixture(scope="module")
def prepared(chunked: StudySpec, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prepared]:
    """Evaluator of that study, and ten groups of candidates: Optuna writes each to the database in
    each trial.
    """
    folder = tmp_path_factory.mktemp("stopping")
    made = prepare(
        chunked, SearchRequest(storage=folder / "none.db", cache_folder=folder / "references")
    )
    yield with_groups(made, 10)
    made.evaluator.close()


@pytest.fixture(autouse=True)
def no_garbage_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed trial holds no memory here, and looking for some takes most of a second."""
    monkeypatch.setattr("sensitivity.fidelity.evaluator.release_memory", lambda *_, **__: None)


def settings_of(sampler: SamplerName = SamplerName.KNAPSACK, *, budget: int = 20) -> SearchSettings:
    """A search for nvfp4 without calibration."""
    return SearchSettings(
        formats=NVFP4, target="b200", budget=budget, sampler=sampler, calibrated=False
    )


@pytest.fixture
def search(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., SearchResult]:
    """Runs a search in which a `Toy` computes the scores, in a database of its own."""

    def run(
        toy: Toy,
        *,
        budget: int = 20,
        sampler: SamplerName = SamplerName.KNAPSACK,
        candidates: Candidates | None = None,
        **more: Any,
    ) -> SearchResult:
        monkeypatch.setattr(prepared.evaluator, "score", toy)
        with Store.open(tmp_path / "toy.db") as store:
            settings = settings_of(sampler, budget=budget)
            return run_search(
                prepared.evaluator, candidates or prepared.candidates, store, settings, **more
            )

    return run


def essence(result: SearchResult) -> list[tuple[Any, ...]]:
    """All that must not depend on interruptions, by index."""
    rows: list[tuple[Any, ...]] = [
        (t.index, t.choice, t.label, t.latency_s, t.score) for t in result.trials
    ]
    rows += [(t.index, t.choice, t.label, t.latency_s, t.stop) for t in result.stopped]
    return sorted(rows, key=lambda row: row[0])


def states_of(database: Path) -> list[str]:
    """The states of all trials in order, read without our code."""
    with closing(sqlite3.connect(database)) as connection:
        return [row[0] for row in connection.execute("SELECT state FROM trials ORDER BY number")]


def test_dominated_trials_stop_count_and_stay_off_the_front(
    search: Any, prepared: Prepared, tmp_path: Path
) -> None:
    """Trials that a finished one dominates end after a chunk, fill the budget with the others, and
    name a rival that is as fast with less typical LPIPS. Baselines come on top of the budget, and
    proposals are numbered from 1.
    """
    toy = Toy()
    result = search(toy, sampler=SamplerName("random"))
    assert result.stopped
    tried: list[ScoredTrial | StoppedTrial] = [*result.trials, *result.stopped]
    tried.sort(key=lambda t: t.index)
    assert result.tried == 20
    assert [t.index for t in tried] == list(range(len(toy.asked))) == list(range(23))
    assert [t.number for t in tried] == [0, 0, 0, *range(1, 21)]
    assert [t.name for t in tried[:4]] == ["none", "all nvfp4", "rule of thumb", "trial 1"]
    assert sum(toy.pictures) == 23 * PROMPTS - result.pictures_saved
    by_index = {t.index: t for t in result.trials}
    for trial in result.stopped:
        rival = by_index[trial.stop.rival]
        assert rival.index < trial.index
        assert rival.latency_s <= trial.latency_s
        assert rival.score.typical < trial.stop.estimate
        assert toy.pictures[trial.index] == trial.stop.prompts in (3, 6)
        full = Toy()(prepared.candidates.decode(trial.choice), "search").typical
        points = [(t.latency_s, t.score.typical) for t in result.trials if t.index < trial.index]
        assert any(seconds <= trial.latency_s and typical < full for seconds, typical in points)
    assert {t.index for t in front_of(result.trials)}.isdisjoint({t.index for t in result.stopped})
    assert states_of(tmp_path / "toy.db").count("PRUNED") == len(result.stopped)


@pytest.mark.parametrize(
    "sampler", [SamplerName("knapsack"), SamplerName("nsga2"), SamplerName("random")]
)
def test_a_stopped_choice_is_never_tried_again(
    search: Any, prepared: Prepared, sampler: SamplerName, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On three groups each sampler tries each of the eight choices once, stopped or not, and ends
    when there is no other.
    """
    monkeypatch.setattr(optuna_proposer, "MAX_REPEATS", 25)
    toy = Toy()
    some = with_groups(prepared, 3).candidates
    result = search(toy, budget=50, sampler=sampler, candidates=some)
    assert len(toy.asked) == len(set(toy.asked)) == result.tried + 3 == 8
    assert result.stopped
    assert result.failed == 0


@pytest.mark.parametrize(
    "sampler", [SamplerName("knapsack"), SamplerName("tpe"), SamplerName("nsga2")]
)
def test_a_killed_search_goes_on_as_if_it_had_not_been(
    search: Any, tmp_path: Path, sampler: SamplerName
) -> None:
    """Cut by a smaller budget, by a process that dies within a trial and by Ctrl-C, a search gives
    the trials and the stops of one in one piece.
    """
    whole = search(Toy(), budget=10, sampler=sampler)
    assert whole.stopped
    (tmp_path / "toy.db").unlink()
    search(Toy(), budget=3, sampler=sampler)

    def die(call: int) -> None:
        if call == 4:
            raise Killed

    def interrupt(call: int) -> None:
        if call == 2:
            raise KeyboardInterrupt

    with pytest.raises(Killed):
        search(Toy(die), budget=10, sampler=sampler)
    assert set(states_of(tmp_path / "toy.db")) <= {"COMPLETE", "PRUNED"}
    continued: list[int] = []
    events = SearchEvents(continued=lambda _name, tried: continued.extend(t.index for t in tried))
    assert search(Toy(interrupt), budget=10, sampler=sampler, events=events).interrupted
    assert continued == list(range(9))
    assert essence(search(Toy(), budget=10, sampler=sampler)) == essence(whole)


def test_a_study_without_chunks_never_stops(
    search: Any, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without `search.chunk` no trial is tested, even where a batch holds fewer pictures than there
    are prompts, and the study's name holds no rule.
    """
    spec, names = prepared.evaluator.spec, []
    for section in ({"chunk": None}, {"chunk": None, "batch_size": CHUNK}, {"chunk": PROMPTS}):
        monkeypatch.setattr(
            prepared.evaluator,
            "spec",
            spec.model_copy(update={"search": spec.search.model_copy(update=section)}),
        )
        names.append(study_name(prepared.evaluator, prepared.candidates, settings_of()))
        monkeypatch.setattr("sensitivity.search.settings.ALPHA", 0.01)
        assert study_name(prepared.evaluator, prepared.candidates, settings_of()) == names[-1]
        toy = Toy()
        result = search(toy, budget=7, sampler=SamplerName("random"))
        assert (len(result.trials), result.stopped, result.pictures_saved) == (10, (), 0)
        assert len(toy.asked) <= 10  # the third is the first, drawn already
    assert names[0] == names[2] != names[1]


def test_the_rules_alpha_is_part_of_the_studys_name(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another alpha stops other trials, so it makes another study."""
    name = study_name(prepared.evaluator, prepared.candidates, settings_of())
    monkeypatch.setattr("sensitivity.search.settings.ALPHA", 0.01)
    assert study_name(prepared.evaluator, prepared.candidates, settings_of()) != name


def test_baselines_are_never_stopped(search: Any, prepared: Prepared) -> None:
    """The rule of thumb is scored in full, even where it is far worse than what is faster."""

    class Worse(Toy):
        def __call__(self, formats: Any, split: str, **more: Any) -> Any:
            score = super().__call__(formats, split, **more)
            if self.asked[-1] != thumb or isinstance(score, PartialScore):
                return score
            return replace(
                score, mean=50 * score.mean, per_prompt=tuple(50 * v for v in score.per_prompt)
            )

    formats = prepared.candidates.decode(prepared.candidates.rule_of_thumb)
    thumb = tuple(sorted(quantized(formats)))
    toy = Worse()
    result = search(toy, budget=5)
    assert [t.label for t in result.trials[:3]] == ["none", "all nvfp4", "rule of thumb"]
    assert toy.pictures[:3] == [PROMPTS] * 3


def test_a_score_that_is_known_completes(search: Any, prepared: Prepared, tmp_path: Path) -> None:
    """A choice that stopped in one study and has a full score in the store is a scored trial in the
    next, and no picture is generated for it.
    """
    first = search(Toy(), budget=10, sampler=SamplerName("random"))
    stopped = first.stopped[0]
    formats = prepared.candidates.decode(stopped.choice)
    (tmp_path / "toy.db").unlink()
    with Store.open(tmp_path / "toy.db") as store:
        score = Toy()(formats, "search")
        store.save_score(
            prepared.evaluator.evaluation_key("search"), assignment_key(formats), score, seconds=1.0
        )
    toy = Toy()
    again = search(toy, budget=10, sampler=SamplerName("random"))
    trial = next(t for t in again.trials if t.choice == stopped.choice)
    assert (trial.index, trial.score) == (stopped.index, score)
    assert tuple(sorted(quantized(formats))) not in toy.asked


def test_nothing_of_a_stopped_trial_is_kept_as_a_score(
    search: Any, prepared: Prepared, tmp_path: Path
) -> None:
    """The store has one score for each finished trial and none for a stopped one."""
    result = search(Toy(), budget=10, sampler=SamplerName("random"))
    assert result.stopped
    key = prepared.evaluator.evaluation_key("search")
    with Store.open(tmp_path / "toy.db") as store:
        kept = [
            store.find_score(key, assignment_key(prepared.candidates.decode(t.choice)))
            for t in (*result.trials, *result.stopped)
        ]
    assert kept == [t.score for t in result.trials] + [None] * len(result.stopped)


def test_the_proposer_sees_estimates_with_their_share(
    search: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each proposal is made from all trials before it in order: a finished one with its typical
    LPIPS, a stopped one with its estimate and its share of the prompts.
    """
    seen: list[list[Observation]] = []
    plain = KnapsackProposer.next_choice

    def next_choice(self: KnapsackProposer, history: Any, *more: Any) -> Any:
        seen.append(list(history))
        return plain(self, history, *more)

    monkeypatch.setattr(KnapsackProposer, "next_choice", next_choice)
    result = search(Toy(), budget=14)
    tried: list[ScoredTrial | StoppedTrial] = sorted(
        (*result.trials, *result.stopped), key=lambda t: t.index
    )
    expected = [
        (
            Observation(choice=t.choice, typical=t.stop.estimate, share=t.stop.prompts / PROMPTS)
            if isinstance(t, StoppedTrial)
            else Observation(choice=t.choice, typical=t.score.typical)
        )
        for t in tried
    ]
    assert result.stopped
    assert seen == [expected[:count] for count in range(3, 17)]


def test_a_stopped_trial_breaks_a_row_of_failures(search: Any) -> None:
    """Two failures, a stop and two more are no three in a row: the search goes on, here and when it
    is continued, and none of them is tried again.
    """

    def fail(call: int) -> None:
        if call in (4, 5, 7, 8):
            raise MeasurementError("it failed")

    class Hopeless(Toy):
        """The first trials that are scored after the baselines are far worse than all others."""

        def __call__(self, formats: Any, split: str, *, keep_going: Any = None, **more: Any) -> Any:
            bad = len(self.asked) + 1 in (6, 9)
            return super().__call__(
                formats,
                split,
                keep_going=(
                    (lambda values: keep_going([1e3 * v for v in values])) if bad else keep_going
                ),
                **more,
            )

    events: list[str] = []
    noted = SearchEvents(
        failed=lambda *_: events.append("failed"),
        scored=lambda _t: events.append("scored"),
        stopped=lambda _t: events.append("stopped"),
    )
    toy = Hopeless(fail)
    assert search(toy, budget=2, events=noted).failed == 4
    assert events == ["scored"] * 3 + ["failed", "failed", "stopped"] * 2
    later = Toy()
    result = search(later, budget=7)
    asked = toy.asked + later.asked
    assert len(asked) == len(set(asked)) == 3 + result.tried + 4 == 14


def test_recipe_screen_and_selection_say_what_was_stopped(
    chunked: StudySpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the library: no held-out picture for a stopped choice, `search.stopped` in the
    recipe, a line for each stop, and `select_recipe` gives the same recipe.
    """
    toys = {"search": Toy(), "held_out": Toy(chunk=PROMPTS)}

    def score(self: Evaluator, formats: Any, split: str, **more: Any) -> Any:
        full = toys[split](formats, split, **more)
        return (
            replace(
                full,
                per_prompt=full.per_prompt[: len(self.prompts(split)[0])],
                mean=sum(full.per_prompt[:3]) / 3,
            )
            if split == "held_out"
            else full
        )

    monkeypatch.setattr(Evaluator, "score", score)
    out = io.StringIO()
    console = Console(file=out, width=400)
    more = {"storage": tmp_path / "s.db", "cache_folder": tmp_path / "references"}
    with SearchProgress(console, budget=10) as progress:
        outcome = find_recipe(
            chunked, SearchRequest(budget=10, calibrated=False, **more), events=progress.events
        )  # type: ignore[arg-type]
    result, recipe = outcome.result, outcome.recipe
    assert recipe is not None
    assert result.stopped
    assert (recipe.search.trials, recipe.search.stopped) == (10, len(result.stopped))
    assert json.loads(recipe.to_json())["search"]["stopped"] == len(result.stopped)
    stopped = [
        tuple(sorted(quantized(outcome.prepared.candidates.decode(t.choice))))
        for t in result.stopped
    ]
    assert not set(stopped) & set(toys["held_out"].asked)
    for t in result.stopped:
        rival = next(other.name for other in result.trials if other.index == t.stop.rival)
        why = rf"{rival} is as fast with less LPIPS \(p = [\d.e-]+\)"
        line = rf"trial {t.number}/10: \d\.\d+x, stopped after {t.stop.prompts} prompts: {why}"
        assert re.search(line, out.getvalue()), out.getvalue()
    console.print(front_table(outcome))
    assert (
        f"among {len(result.trials) - 3} trials and {len(result.stopped)} stopped early"
        in out.getvalue()
    )
    said: list[str] = []
    selected = select_recipe(chunked, SelectRequest(**more), say=said.append)
    assert selected.recipe == recipe
    assert essence(selected.result) == essence(result)
    assert any(f"{len(result.stopped)} more stopped early" in text for text in said)
    with Store.open(tmp_path / "s.db") as store:
        (study,) = list_optuna_studies(store, chunked.name)
        assert essence(read_search(store, study.name, outcome.prepared.candidates)) == essence(
            result
        )
    assert (study.finished, study.stopped) == (len(result.trials), len(result.stopped))
    assert f"{study.name}: 10 of 10 trials" in study.describe()
