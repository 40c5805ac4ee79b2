"""A search finds a recipe, and the recipe is the winning trial."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import sensitivity
from sensitivity.consumers.exporters import get_exporter
from sensitivity.core.arithmetic import Arithmetic
from sensitivity.core.format_name import FormatName
from sensitivity.errors import (
    ConstraintError,
    FormatError,
    OutputError,
    RecipeMismatchError,
    StoreError,
    UserError,
)
from sensitivity.fidelity.mean_curve import MeanCurve
from sensitivity.models.generating import MediaGenerator
from sensitivity.models.loading import load_pipeline
from sensitivity.recipes.fidelity_records import Lpips
from sensitivity.recipes.recipe import load_recipe
from sensitivity.search.calibration.stored import calibration_cost
from sensitivity.search.candidates import baselines
from sensitivity.search.finished import Wanted, list_optuna_studies
from sensitivity.search.native_rounding import native_rounding
from sensitivity.search.store import Store
from sensitivity.spec.loading import load_spec
from sensitivity.workflows import conclude
from sensitivity.workflows.conclude import SearchOutcome
from sensitivity.workflows.find import find_recipe
from sensitivity.workflows.prepare import Prepared
from sensitivity.workflows.report import collect_report, find_subject
from sensitivity.workflows.requests import SearchRequest, SelectRequest
from sensitivity.workflows.select import select_recipe

from support.searches import BUDGET, essence


def test_a_search_scores_exactly_its_budget(whole: SearchOutcome) -> None:
    """A search of budget N has N scored proposals beside the baselines, all of them different, and
    a recipe for one of them.
    """
    trials = whole.result.trials
    assert sum(not t.label for t in trials) == BUDGET
    assert len({t.choice for t in trials}) == len(trials) == BUDGET + 3
    assert not whole.result.interrupted
    assert whole.recipe is not None
    assert whole.recipe.search.trials == BUDGET


def test_bounds_and_rule_of_thumb_come_first(whole: SearchOutcome) -> None:
    """The first trials are nothing quantized, everything quantized and the rule of thumb; nothing
    quantized has distance zero.
    """
    labels = [t.label for t in whole.result.trials]
    assert labels == ["none", "all nvfp4", "rule of thumb"] + [""] * BUDGET
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
    assert whole.recipe.fidelity.lpips.prompts == whole.prepared.evaluator.spec.prompts.held_out


def test_the_recipe_says_how_it_was_named(whole: SearchOutcome) -> None:
    """Rule, bounds, first choice and shortlist are in the recipe; every interval follows from its
    own `per_prompt`; and the trial has the number of its name.
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
    assert len(choice.shortlist) == len(whole.winner.shortlist) > 1
    fidelity = whole.recipe.fidelity
    for lpips in (fidelity.lpips, Lpips.model_validate(fidelity.model_extra["lpips_search"])):
        assert lpips.curve is not None
        said = MeanCurve(**lpips.curve.model_dump()).mean_interval(
            lpips.per_prompt, lpips.noise_floor
        )
        assert (lpips.expected_mean, *lpips.ci95) == said
    assert whole.recipe.search.trial == (whole.chosen.number or None)


def test_what_is_found_for_consumers_exports_to_them(
    tiny_study: Path, runs: Path, tmp_path: Path
) -> None:
    """The recipe and every trial export to each consumer as they are; the recipe says for whom it
    is, and why each pattern stays bf16; `select` finds the study by its consumers.
    """
    spec, consumers = load_spec(tiny_study), ("sglang", "comfyui")
    paths = {"storage": tmp_path / "for.db", "cache_folder": runs / "references"}
    request = SearchRequest(
        budget=1, calibrated=False, consumers=("comfyui", "sglang"), command="a b", **paths
    )
    recipe = (outcome := find_recipe(spec, request)).recipe
    assert recipe is not None
    assert recipe.search.consumers == consumers
    assert recipe.name.endswith("-for-sglang+comfyui")
    assert recipe.made is not None
    assert recipe.made.command == "a b"
    reasons = {pattern.reason for pattern in recipe.patterns}
    assert "sglang always runs it in bf16" in reasons
    for trial in outcome.result.trials:
        formats = outcome.prepared.candidates.decode(trial.choice)
        for name in consumers:
            assert get_exporter(name).export(recipe.model_copy(update={"layers": formats}))
    wanted = Wanted(consumers=consumers)
    again = select_recipe(spec, SelectRequest(wanted=wanted, verify=False, **paths)).recipe
    assert again is not None
    assert again.layers == recipe.layers
    with pytest.raises(StoreError, match=r"expected one of\n.*`consumers` sglang `consumers` comf"):
        select_recipe(spec, SelectRequest(wanted=Wanted(consumers=()), **paths))


def test_several_formats_give_each_group_a_choice(
    prepared: Prepared, tiny_study: Path, runs: Path, tmp_path: Path
) -> None:
    """With two formats each has its own bound, and some trial mixes them."""
    request = SearchRequest(
        formats=(FormatName.MXFP8, FormatName.NVFP4),
        budget=2,
        storage=tmp_path / "two.db",
        cache_folder=runs / "references",
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
    prepared: Prepared, tiny_study: Path, runs: Path, tmp_path: Path
) -> None:
    """Per layer no group spans two blocks, and there are more groups than with depth bands."""
    request = SearchRequest(
        granularity="layer",
        calibrated=False,
        budget=1,
        storage=tmp_path / "layer.db",
        cache_folder=runs / "references",
    )
    outcome = find_recipe(load_spec(tiny_study), request)
    groups = outcome.prepared.candidates.groups
    assert len(groups) > len(prepared.candidates.groups)
    assert all(
        len({fqn.split(".")[1] for fqn in group.fqns if "blocks." in fqn}) <= 1 for group in groups
    )
    assert len(outcome.result.trials) == 4
    assert outcome.result.tried == 1


def test_a_recipe_gives_the_winning_trials_pictures(
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
        prepared.evaluator.generate_pictures(
            prepared.candidates.decode(whole.chosen.choice), "search"
        ),
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
    """Where references cannot be kept, they are generated, and the scores are the same."""
    (tmp_path / "file").write_text("")
    request = SearchRequest(
        budget=1,
        calibrated=False,
        storage=tmp_path / "s.db",
        cache_folder=tmp_path / "file" / "references",
    )
    outcome = find_recipe(load_spec(tiny_study), request)
    baselines = whole.result.trials[:3]
    assert [t.score for t in outcome.result.trials[:3]] == [t.score for t in baselines]


def test_an_unwritable_database_is_an_output_error(tmp_path: Path, tiny_study: Path) -> None:
    """A database below a file cannot be made; the message comes before the model is loaded and
    names `storage`.
    """
    (tmp_path / "file").write_text("")
    said: list[str] = []
    with pytest.raises(OutputError, match="`storage`"):
        find_recipe(
            load_spec(tiny_study),
            SearchRequest(budget=1, storage=tmp_path / "file" / "s.db"),
            say=said.append,
        )
    assert said == []


def test_constraints_that_nothing_meets_are_explained(
    tiny_study: Path, runs: Path, whole: SearchOutcome
) -> None:
    """A speedup that no trial reaches is refused with the range of the front; the error carries the
    front, and the study is kept.
    """
    request = SearchRequest(
        budget=BUDGET,
        min_speedup=50.0,
        storage=runs / "whole.db",
        cache_folder=runs / "references",
    )
    with pytest.raises(
        ConstraintError, match=r"no scored skip-list has speedup >= 50; the front runs from"
    ) as raised:
        find_recipe(load_spec(tiny_study), request)
    assert essence(raised.value.outcome.front) == essence(whole.front)
    assert raised.value.outcome.recipe is None


@pytest.fixture
def with_native_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches measure native rounding, as they do outside the tests."""
    monkeypatch.setattr(conclude, "native_rounding", native_rounding)


@pytest.mark.usefixtures("with_native_rounding")
def test_native_rounding_is_measured_once_a_study(
    tiny_study: Path, whole: SearchOutcome, runs: Path, tmp_path: Path
) -> None:
    """The recipe states how far MSLK's arithmetic moves the rule of thumb's pictures, which is more
    than the noise floor; the study's database keeps it, under a key of its own.
    """
    database = shutil.copy(runs / "whole.db", tmp_path / "floor.db")
    request = SearchRequest(budget=BUDGET, storage=Path(database), cache_folder=runs / "references")
    found = find_recipe(load_spec(tiny_study), request)
    assert found.recipe is not None
    lpips = found.recipe.fidelity.lpips
    stated = lpips.native_rounding
    assert (stated.arithmetic, stated.skip_list) == ("mslk", "rule of thumb")
    assert stated.prompts == len(whole.prepared.evaluator.spec.prompts.search)
    assert stated.lpips > lpips.noise_floor
    assert 0 < stated.change < 1
    evaluator, candidates = whole.prepared.evaluator, whole.prepared.candidates
    with Store.open(Path(database), for_reading=True) as store:
        kept = native_rounding(evaluator, store, candidates, compute=False)
    assert kept == found.native_rounding
    assert kept.lpips == stated.lpips
    with Store.open(runs / "floorless.db") as store:
        assert native_rounding(evaluator, store, candidates, compute=False) is None


@pytest.mark.usefixtures("with_native_rounding")
def test_arithmetics_have_studies_of_their_own(
    whole: SearchOutcome, tiny_study: Path, runs: Path, tmp_path: Path
) -> None:
    """A search in another arithmetic shares no score with the eager one, names its recipe after
    it, and is found again by it; a pair that is not known is refused before anything is loaded.
    """
    database = tmp_path / "mslk.db"
    shutil.copy(runs / "whole.db", database)
    request = SearchRequest(
        arithmetic=Arithmetic.MSLK,
        budget=1,
        calibrated=False,
        storage=database,
        cache_folder=runs / "references",
    )
    outcome = find_recipe(load_spec(tiny_study), request)
    assert outcome.recipe is not None
    assert outcome.recipe.name.endswith("-mslk")
    assert outcome.recipe.fidelity.model_extra["pictures"]["arithmetic"] == "emulated, mslk"
    assert outcome.native_rounding.arithmetic is Arithmetic.EAGER
    eager = {t.label: t.score.mean for t in whole.result.trials}
    for trial in outcome.result.trials[1:]:
        assert trial.score.mean not in (0.0, eager[trial.label])
    with Store.open(database, for_reading=True) as store:
        studies = list_optuna_studies(store, outcome.prepared.evaluator.spec.name)
    found = [s.name for s in studies if s.is_wanted(Wanted(arithmetic=Arithmetic.MSLK))]
    assert found == [outcome.result.study]
    assert "`arithmetic` mslk" in studies[-1].describe()
    assert "`arithmetic`" not in studies[0].describe()
    with pytest.raises(FormatError, match="`format` fp8 with `arithmetic` mslk"):
        SearchRequest(formats=(FormatName.FP8,), arithmetic=Arithmetic.MSLK)


def test_sensitivities_of_arithmetics_are_kept_apart(
    whole: SearchOutcome, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the eager search measured is known to an eager one, and to no other."""
    evaluator, candidates = whole.prepared.evaluator, whole.prepared.candidates
    with Store.open(runs / "whole.db", for_reading=True) as store:
        cost = calibration_cost(evaluator, candidates, store)
        assert cost.known == cost.jobs > 0
        monkeypatch.setattr(evaluator, "arithmetic", Arithmetic.MSLK)
        assert calibration_cost(evaluator, candidates, store).known == 0


def test_a_search_keeps_pictures_for_its_report(
    whole: SearchOutcome, tiny_study: Path, runs: Path
) -> None:
    """The report of a search has its trials, and pictures of the winner and of the baselines."""
    subject = find_subject(tiny_study, storage=runs / "whole.db")
    report = collect_report(replace(subject, recipe=whole.recipe))
    assert [trial.name for trial in report.trials] == [trial.name for trial in whole.result.trials]
    assert whole.chosen is not None
    assert report.gallery.chosen == whole.chosen.name
    assert len(report.gallery.scenes) == 3
    assert {"bf16", "rule of thumb", whole.chosen.name} <= set(report.gallery.scenes[0].pictures)
    assert report.gallery.floor is not None
    assert report.gaps == {}


def test_an_outcome_is_shown_by_its_trials(whole: SearchOutcome) -> None:
    """At a prompt it is one line, in a notebook the front and what was verified, and in pandas a
    row for each list, the fastest first, with the numbers of the trials.
    """
    assert whole.chosen is not None
    assert repr(whole).startswith(f"SearchOutcome({whole.chosen.name}: ")
    assert "\n" not in repr(whole)
    frame = whole.to_pandas()
    trials = {trial.name: trial for trial in whole.result.trials}
    assert sorted(frame["skip-list"]) == sorted(trials)
    assert frame["ms"].is_monotonic_increasing
    for row in frame.to_dict("records"):
        trial = trials[row["skip-list"]]
        assert row["ms"] == trial.latency_s * 1e3
        assert row["typical_lpips"] == trial.typical
        assert row["on_front"] == (trial in whole.front)
        assert (row["held_out_typical_lpips"] > 0) == (trial.index in whole.held_out)
    assert list(frame[frame["chosen"]]["skip-list"]) == [whole.chosen.name]
    html = whole._repr_html_()
    assert all(f">{trial.name}</td>" in html for trial in whole.front)


def test_what_was_found_can_be_reported_and_drawn(whole: SearchOutcome) -> None:
    """A report of the outcome is that of its database, and its plots are pictures that a notebook
    shows.
    """
    report = sensitivity.report(whole)
    assert [trial.name for trial in report.trials] == [trial.name for trial in whole.result.trials]
    assert sensitivity.plot_front(report)._repr_png_()[:4] == b"\x89PNG"
    assert sensitivity.plot_layers(report)._repr_png_()[:4] == b"\x89PNG"
    assert sensitivity.plot_pictures(report, most=1)._repr_jpeg_()[:2] == b"\xff\xd8"
    assert list(report.to_pandas()["list"])[-1] == "none"
    assert list(report.to_pandas("layers")["fqn"]) == [layer.fqn for layer in report.layers]
    assert "all nvfp4" in set(report.to_pandas("against")["name"])
    with pytest.raises(UserError, match="`part` is 'layer'; expected one of trials, layers"):
        report.to_pandas("layer")
    bare = report.model_copy(update={"trials": (), "recipe": {}})
    with pytest.raises(UserError, match="nothing to draw; expected a search's trials"):
        sensitivity.plot_front(bare)
