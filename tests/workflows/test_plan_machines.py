"""A plan for a machine that is not here, of what is left to do, and of what would help."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sensitivity.cli.app import app
from sensitivity.core.format_name import FormatName
from sensitivity.errors import UserError
from sensitivity.latency.devices import get_device
from sensitivity.latency.predicted import PredictedLatency
from sensitivity.search.finished import KeptStudy
from sensitivity.search.settings import SearchSettings
from sensitivity.shapes.run import run_shapes
from sensitivity.spec.loading import load_spec
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows import plan as planning
from sensitivity.workflows import plan_done
from sensitivity.workflows.plan import plan_search
from sensitivity.workflows.plan_done import Done, done_of
from sensitivity.workflows.requests import SearchRequest
from sensitivity.workflows.run_seconds import EMULATED
from sensitivity.workflows.sizing import largest_batch

ASKED = SearchRequest(budget=10)
BF16 = "bf16 references and noise floor"


@pytest.fixture(scope="module")
def spec(tiny_study: Path) -> StudySpec:
    """The tiny study."""
    return load_spec(tiny_study)


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second for each run on this machine."""
    monkeypatch.setattr(planning, "seconds_of_run", lambda *_: (1.0, "a test"))


def test_another_machine_is_planned_by_its_prices_and_its_memory(spec: StudySpec) -> None:
    """Seconds are the price model's for that GPU; formats that it lacks take longer, those that it
    has do not; the memory is that of the GPU.
    """
    batch = largest_batch(spec)
    run = run_shapes(spec, batch_size=batch)
    plans = {name: plan_search(spec, ASKED, on=name) for name in ("h100", "b200")}
    for name, plan in plans.items():
        model = PredictedLatency(get_device(name), compile_mode="default")
        assert plan.picture_s == pytest.approx(model.estimate(run.table, {}).bf16_s / batch)
        assert plan.sizes.free_bytes == get_device(name).memory_bytes
        assert (plan.machine, plan.done, plan.sizes.where) == (name, Done(), name)
        assert "predicted for " + name in plan.source
        assert [stage.name for stage in plan.sizes.stages][-1] == "decoding"
    slower = {name: plan.trial_s / plan.picture_s / plan.pictures for name, plan in plans.items()}
    assert slower == pytest.approx({"h100": EMULATED[FormatName.NVFP4], "b200": 1.0})


def test_shapes_are_measured_where_the_target_is_that_machine(spec: StudySpec) -> None:
    """On the GPU that is priced the whole table is to be measured; elsewhere who asks for it is
    told why it cannot be.
    """
    own = replace(ASKED, target="b200")
    pricing = spec.pricing.model_copy(update={"stands_for": 1})
    spec = spec.model_copy(update={"pricing": pricing})
    found = plan_search(spec, own, on="b200")
    assert found.shapes is not None
    assert found.shapes.missing == found.shapes.shapes > 0
    assert found.steps_s["shape table"] == found.shapes.seconds
    assert plan_search(spec, replace(own, latency="predicted"), on="b200").shapes is None
    with pytest.raises(UserError, match=r"on the h100 it cannot be: `target` is b200"):
        plan_search(spec, replace(own, latency="measured"), on="h100")


def test_what_is_done_is_not_planned_again(
    spec: StudySpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trials, baselines, references and layer sensitivities of the study with these settings are
    left out; those of another seed are not.
    """
    whole = plan_search(spec, ASKED)
    assert whole.done == Done()
    path = tmp_path / "study.db"
    path.touch()
    settings = SearchSettings(formats=(FormatName.NVFP4,), target="b200", budget=6)
    kept = KeptStudy(name="a", settings=settings, finished=7, stopped=1, baselines=3)
    others = replace(kept, name="b", settings=replace(settings, seed=1), finished=9)
    monkeypatch.setattr(plan_done, "list_optuna_studies", lambda *_: [kept, others])
    asked = replace(ASKED, storage=path)
    done = done_of(spec, asked, latency="predicted")
    assert done == Done(study="a", trials=5, baselines=3)
    left = plan_search(spec, asked)
    assert left.steps_s["layer sensitivities"] == 0
    assert left.steps_s["5 trials"] == pytest.approx(whole.steps_s["10 trials"] / 2)
    assert left.steps_s[BF16] < whole.steps_s[BF16]
    assert "5 of 10 trials and 3 baselines in the study a" in done.describe(budget=10)
    assert done_of(spec, replace(asked, seed=2), latency="predicted") == Done()
    assert plan_search(spec, asked, on="h100").done == Done()


def test_what_takes_days_is_answered_with_a_machine(
    spec: StudySpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search that would take months here names every GPU on which it fits, the quickest first;
    one that takes minutes names none.
    """
    assert plan_search(spec, ASKED).machines == ()
    monkeypatch.setattr(planning, "seconds_of_run", lambda *_: (1e6, "a test"))
    plan = plan_search(spec, ASKED)
    assert plan.total_s > planning.LONG_S
    names = [own.name for own in plan.machines]
    assert {"b200", "h100"} < set(names)
    assert [own.total_s for own in plan.machines] == sorted(own.total_s for own in plan.machines)
    other = plan_search(spec, replace(ASKED, latency="predicted"), on="h100")
    h100 = next(own for own in plan.machines if own.name == "h100")
    assert h100.total_s == pytest.approx(other.total_s)
    assert plan.to_json()["machines"]["h100"] == h100.total_s


def test_what_does_not_fit_says_what_would_help_and_exits_with_1(
    tiny_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The advice of `search` stands in the plan, in the JSON too, with the GPUs that are larger."""
    monkeypatch.chdir(tmp_path)
    small = replace(get_device("h100"), memory_bytes=10**9)
    monkeypatch.setattr(
        planning, "get_device", lambda name: small if name == "h100" else get_device(name)
    )
    arguments = ["search", "--model", str(tiny_study), "--dry-run", "--on", "h100"]
    result = CliRunner().invoke(app, [*arguments, "--json", "plan.json"])
    assert result.exit_code == 1, result.output
    assert "it does NOT fit; what would help:" in result.stdout
    data = json.loads(Path("plan.json").read_text())
    assert (data["machine"], data["memory"]["fits"]) == ("h100", False)
    assert any("a GPU with more memory" in text for text in data["would_help"])
    assert "h100" not in data["machines"]
    assert "b200" in data["machines"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--on", "h100"], "--on is h100.*--dry-run"),
        (["--on", "h10", "--dry-run"], r"'h10' \(--on\).*Did you mean 'h100'"),
    ],
)
def test_a_wrong_machine_is_told_at_once(tiny_study: Path, more: list[str], words: str) -> None:
    """`--on` is for plans alone, and names a device."""
    result: Any = CliRunner().invoke(app, ["search", "--model", str(tiny_study), *more])
    with pytest.raises(UserError, match=words):
        raise result.exception
