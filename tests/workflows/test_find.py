"""A search finds a recipe, and the recipe is the winning trial."""

from pathlib import Path

import pytest
import torch

from sensitivity.core.format_name import FormatName
from sensitivity.errors import ConstraintError, OutputError, RecipeMismatchError
from sensitivity.models.generating import MediaGenerator
from sensitivity.models.loading import load_pipeline
from sensitivity.recipes.recipe import load_recipe
from sensitivity.search.candidates import baselines
from sensitivity.search.intervals import simultaneous_intervals
from sensitivity.spec.loading import load_spec
from sensitivity.workflows.conclude import SearchOutcome
from sensitivity.workflows.find import find_recipe
from sensitivity.workflows.prepare import Prepared
from sensitivity.workflows.requests import SearchRequest

from support.searches import BUDGET, essence


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
    assert whole.recipe.fidelity.lpips.prompts == whole.prepared.evaluator.spec.prompts.held_out


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


def test_several_formats_give_each_group_a_choice(
    prepared: Prepared, tiny_study: Path, runs: Path, tmp_path: Path
) -> None:
    """With two formats each has its own bound, and some trial mixes them."""
    request = SearchRequest(
        formats=(FormatName.MXFP8, FormatName.NVFP4),
        budget=6,
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
        budget=4,
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
        budget=2,
        calibrated=False,
        storage=tmp_path / "s.db",
        cache_folder=tmp_path / "file" / "references",
    )
    outcome = find_recipe(load_spec(tiny_study), request)
    assert [t.score for t in outcome.result.trials] == [t.score for t in whole.result.trials[:2]]


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
