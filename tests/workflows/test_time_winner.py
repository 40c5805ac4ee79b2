"""The end of a search by measured latency: the winner and the lists beside it are timed, and the
recipe is never lost.

Nothing runs: the times are made up, and the search is one of the tiny study.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from sensitivity.cli import searching
from sensitivity.errors import OutputError
from sensitivity.latency.devices import get_device
from sensitivity.latency.predicted import PredictedLatency
from sensitivity.recipes.parts import latency_record, layer_records
from sensitivity.recipes.recipe import Recipe, load_recipe
from sensitivity.search.store import Store
from sensitivity.spec.loading import load_spec
from sensitivity.workflows import find, time_winner
from sensitivity.workflows.conclude import SearchOutcome
from sensitivity.workflows.end_timing import EndTimes
from sensitivity.workflows.find import find_recipe
from sensitivity.workflows.requests import SearchRequest
from sensitivity.workflows.time_winner import keep_times, lists_beside, with_kept_times

from support.timed import end_times


class Measured(PredictedLatency):
    """A prediction that calls itself measured."""

    source = "measured"


@pytest.fixture
def outcome(whole: SearchOutcome) -> SearchOutcome:
    """The outcome as if its shapes had been measured, and everything quantized had won."""
    latency, chosen = Measured(get_device("b200")), whole.result.trials[1]
    prepared = replace(whole.prepared, latency=latency)
    formats = prepared.candidates.decode(chosen.choice)
    assert whole.recipe is not None
    recipe = Recipe.from_mapping(
        whole.recipe.model_dump(mode="json")
        | layer_records(formats)
        | {"latency": latency_record(latency.estimate(prepared.priced, formats))}
    )
    return replace(whole, prepared=prepared, chosen=chosen, recipe=recipe)


Fake = Callable[..., dict[str, Mapping[str, Any]]]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Puts made-up times in the place of real ones, and gives the lists that were asked for."""

    def install(error: BaseException | None = None, **failures: str) -> dict[str, Any]:
        asked: dict[str, Any] = {}

        def time_lists(_loaded: Any, _run: Any, lists: Any, how: Any) -> EndTimes:
            asked.update(lists)
            assert how.runtime.name == "torchao-graphs"
            if error is not None:
                raise error
            return end_times(lists, failures)

        monkeypatch.setattr(time_winner, "time_lists", time_lists)
        return asked

    return install


def test_the_recipe_states_the_run(outcome: SearchOutcome, fake: Fake) -> None:
    """Seconds are those of a run, with their interval, the sum of shapes beside them and a note on
    the difference; peaks of memory are measured too; all lists have their repetitions.
    """
    asked = fake()
    found = time_winner.time_winner(outcome)
    assert found.recipe is not None
    assert outcome.recipe is not None
    assert [*asked] == ["all nvfp4", "rule of thumb"]
    latency, before = found.recipe.latency, outcome.recipe.latency
    assert (latency.speedup, latency.source) == (pytest.approx(1.5), "measured")
    assert latency.bf16_s == pytest.approx(3.0, rel=1e-3)
    assert latency.speedup_interval90 == pytest.approx((1.5, 1.5))
    assert latency.covers == "the whole pipeline call, measured end to end on NVIDIA H200"
    assert latency.shapes is not None
    assert latency.shapes.speedup == pytest.approx(before.speedup, rel=1e-6)
    assert latency.ranked_s == pytest.approx(before.quantized_s, rel=1e-6)
    assert "more than the repetitions explain" in latency.note
    memory, predicted = found.recipe.memory, outcome.recipe.memory
    assert (memory.peak_bytes, memory.bf16_peak_bytes) == (2 * 10**9, 2 * 10**9)
    assert (memory.peak_source, predicted.peak_source) == ("measured", "predicted")
    assert memory.quantized_bytes == predicted.quantized_bytes
    assert [x.name for x in found.recipe.timings] == ["none", *asked]
    assert all(len(x.seconds) == len(x.bf16_seconds) == 3 for x in found.recipe.timings)
    assert found.recipe.layers == outcome.recipe.layers
    assert found.recipe.front == outcome.recipe.front
    assert found.times is not None
    assert [*found.times.shapes] == ["none", *asked]


def test_a_part_of_a_run_has_the_whole_run_beside_it(
    outcome: SearchOutcome, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where the denoiser's calls alone were timed, the recipe has the sum of shapes of both, and
    the front ranks it by that of the whole run; times that an earlier version kept get it again.
    Peaks stay those that are predicted for a whole run.
    """

    def time_lists(_loaded: Any, _run: Any, lists: Any, _how: Any) -> EndTimes:
        return replace(end_times(lists, {}), whole=False, covers="8 denoiser calls")

    monkeypatch.setattr(time_winner, "time_lists", time_lists)
    found = time_winner.time_winner(outcome)
    assert found.recipe is not None
    assert outcome.recipe is not None
    latency, priced = found.recipe.latency, outcome.recipe.latency
    assert latency.whole_run is not None
    assert latency.shapes is not None
    assert latency.whole_run.speedup == priced.speedup
    assert latency.ranked_s == priced.quantized_s
    assert latency.shapes.bf16_s <= priced.bf16_s
    assert found.recipe.memory == outcome.recipe.memory
    with Store.open(tmp_path / "study.db") as store:
        keep_times(found, store)
        assert with_kept_times(outcome, store).recipe == found.recipe


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (KeyboardInterrupt(), "was not timed end to end: it was interrupted"),
        (RuntimeError("CUDA error: unspecified launch failure"), "unspecified launch failure"),
    ],
)
def test_no_failure_loses_the_recipe(
    outcome: SearchOutcome, fake: Fake, error: BaseException, words: str
) -> None:
    """Its seconds are the sum of shapes then, and its note says why."""
    fake(error)
    found = time_winner.time_winner(outcome)
    assert found.recipe is not None
    assert outcome.recipe is not None
    assert words in found.recipe.latency.note
    assert found.times is None
    assert found.recipe.latency.quantized_s == outcome.recipe.latency.quantized_s
    assert found.untimed in found.recipe.latency.note


def test_a_winner_that_does_not_run(outcome: SearchOutcome, fake: Fake) -> None:
    """The others' times are kept, and the recipe says why it has none."""
    fake(**{"all nvfp4": "a kernel refused it"})
    found = time_winner.time_winner(outcome)
    assert found.recipe is not None
    assert found.recipe.latency.note.endswith("was not timed end to end: a kernel refused it")
    assert found.recipe.latency.shapes is None
    assert {x.name: x.failure for x in found.recipe.timings}["all nvfp4"] == "a kernel refused it"


def test_predicted_prices_are_not_timed(whole: SearchOutcome, fake: Fake) -> None:
    """A search by prediction ends as before."""
    asked = fake()
    assert time_winner.time_winner(whole) is whole
    assert asked == {}


def test_bf16_as_the_winner(outcome: SearchOutcome) -> None:
    """Where nothing is quantized in the winner, it is the list that is timed anyway."""
    none = next(t for t in outcome.result.trials if t.label == "none")
    name, lists = lists_beside(replace(outcome, chosen=none))
    assert (name, "none" in lists) == ("none", False)
    assert "all nvfp4" in lists


def test_choosing_again_keeps_the_times(outcome: SearchOutcome, fake: Fake, tmp_path: Path) -> None:
    """The same choice has the times of its search; another has none, and says how to get them."""
    fake()
    found = time_winner.time_winner(outcome)
    assert found.recipe is not None
    with Store.open(tmp_path / "study.db") as store:
        keep_times(found, store)
        again = with_kept_times(outcome, store)
        assert again.recipe == found.recipe
        other = replace(outcome, result=replace(outcome.result, study="another"))
        without = with_kept_times(other, store)
    assert without.recipe is not None
    assert without.recipe.latency.note.endswith("verify the recipe")


def test_a_full_disk_does_not_lose_the_times(
    outcome: SearchOutcome, fake: Fake, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the database cannot be written at the end, a warning says so and the recipe stays."""

    def refuse(*_row: object) -> None:
        raise OutputError("study.db cannot be written")

    fake()
    store: Any = SimpleNamespace(save_end_times=refuse)
    keep_times(time_winner.time_winner(outcome), store)
    assert "stand in the recipe alone: study.db cannot be written" in caplog.text


def test_the_recipe_is_there_before_it_is_timed(
    outcome: SearchOutcome,
    fake: Fake,
    tiny_study: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`find_recipe` hands the outcome over before the timing, when the pipeline's Linears are plain
    again, so that whoever writes it has it even if the process ends.
    """
    closed: list[bool] = []
    whole = outcome.prepared.evaluator
    evaluator = SimpleNamespace(
        close=lambda: closed.append(True),
        spec=whole.spec,
        environment=whole.environment,
        sharing=whole.sharing,
        loaded=whole.loaded,
        distance=whole.distance,
        panel=None,
        prompts=whole.prompts,
        references=whole.references,
        batch_size=whole.batch_size,
    )
    prepared = replace(outcome.prepared, evaluator=evaluator)  # type: ignore[arg-type]
    monkeypatch.setattr(find, "prepare", lambda *_, **__: prepared)
    monkeypatch.setattr(find, "run_search", lambda *_, **__: outcome.result)
    monkeypatch.setattr(find, "conclude", lambda *_, **__: replace(outcome, prepared=prepared))
    path = tmp_path / "recipe.json"

    def keep(found: SearchOutcome) -> None:
        assert closed
        assert found.recipe is not None
        found.recipe.save(path)

    fake(SystemExit(9))
    request = SearchRequest(storage=tmp_path / "study.db")
    with pytest.raises(SystemExit):
        find_recipe(load_spec(tiny_study), request, found=keep)
    assert load_recipe(path) == outcome.recipe
    fake()
    timed = find_recipe(load_spec(tiny_study), request, found=keep)
    assert timed.recipe is not None
    assert timed.recipe.latency.shapes is not None
    with Store.open(tmp_path / "study.db") as store:
        assert with_kept_times(outcome, store).recipe == timed.recipe


def test_the_command_writes_before_and_after(
    outcome: SearchOutcome,
    fake: Fake,
    tiny_study: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`search` writes the recipe before the timing, and writes it again with the times, which it
    shows.
    """
    path, out, end = tmp_path / "recipe.json", StringIO(), [SystemExit(9)]

    def find_recipe(*_: Any, found: Callable[[SearchOutcome], None], **__: Any) -> SearchOutcome:
        found(outcome)
        if end:
            raise end.pop()
        return time_winner.time_winner(outcome)

    fake(**{"rule of thumb": "a kernel refused it"})
    monkeypatch.setattr("sensitivity.workflows.find.find_recipe", find_recipe)
    run = partial(
        searching.run_search,
        Console(file=out, width=200),
        load_spec(tiny_study),
        SearchRequest(storage=tmp_path / "study.db"),
        path,
        None,
        named=True,
        show_all=True,
    )
    with pytest.raises(SystemExit):
        run()
    assert load_recipe(path) == outcome.recipe
    held_out = dict.fromkeys([1], next(iter(outcome.held_out.values())))
    outcome = replace(outcome, held_out=held_out)
    run()
    assert load_recipe(path).latency.shapes is not None
    text = " ".join(out.getvalue().split())
    assert "of the whole pipeline call; measured end to end on NVIDIA H200, torchao-graphs" in text
    assert "rule of thumb failed: a kernel refused it" in text
    assert "1.500x [1.500, 1.500] (90 %), measured end to end on b200: 2 s a run" in text
    assert "more than the repetitions explain" in text
