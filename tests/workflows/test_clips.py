"""A search over clips ends in a recipe, keeps the bound on sound, and outlives black clips."""

import io
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from sensitivity.cli.render.front import front_table
from sensitivity.core.format_name import FormatName
from sensitivity.errors import UserError
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.models.media import Media
from sensitivity.recipes.recipe import Recipe, load_recipe
from sensitivity.spec.loading import load_spec
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows.conclude import SearchOutcome
from sensitivity.workflows.find import find_recipe
from sensitivity.workflows.picture_files import pictures_folder
from sensitivity.workflows.report.gallery import gallery_of
from sensitivity.workflows.report.verdict import verdict_of
from sensitivity.workflows.requests import SearchRequest
from sensitivity.workflows.verify import verify_recipe

from support.clip_pipelines import save_ltx2, save_wan
from support.media import changed


def search(study: StudySpec, folder: Path, name: str, *, budget: int) -> SearchOutcome:
    """A search in its own database `name`, with the references of the folder."""
    request = SearchRequest(
        budget=budget,
        storage=folder / f"{name}.db",
        cache_folder=folder / "references",
        calibrated=False,
    )
    return find_recipe(study, request)


def small(path: Path) -> StudySpec:
    """The study with two search prompts and clips of five frames."""
    study = load_spec(path)
    prompts = {"search": study.prompts.search[:2]}
    return changed(study, settings={"num_frames": 5}, prompts=prompts)


@dataclass(frozen=True)
class Searched:
    """A study, the folder of its databases and references, and a finished search: one trial beside
    the baselines.
    """

    study: StudySpec
    folder: Path
    outcome: SearchOutcome
    has_sound: bool


@pytest.fixture(scope="module")
def ltx2_searched(tmp_path_factory: pytest.TempPathFactory) -> Searched:
    folder = tmp_path_factory.mktemp("ltx2")
    study = small(save_ltx2(folder / "clips"))
    return Searched(study, folder, search(study, folder, "free", budget=1), has_sound=True)


@pytest.fixture(scope="module")
def wan_searched(tmp_path_factory: pytest.TempPathFactory) -> Searched:
    folder = tmp_path_factory.mktemp("wan")
    study = small(save_wan(folder / "clips"))
    return Searched(study, folder, search(study, folder, "free", budget=1), has_sound=False)


@pytest.mark.parametrize("name", ["ltx2_searched", "wan_searched"])
def test_a_search_over_clips_ends_in_a_recipe(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """They end in a recipe that is read back equal, says what was found on the clips, and
    verifies to the same numbers.
    """
    searched: Searched = request.getfixturevalue(name)
    outcome = searched.outcome
    recipe = outcome.recipe
    assert recipe is not None
    assert outcome.result.tried == 1
    assert any(t.score.mean > 0 for t in outcome.result.trials)
    assert load_recipe(recipe.save(tmp_path / "recipe.json")) == recipe
    said, has_sound = recipe.fidelity, searched.has_sound
    assert said.frames is not None
    assert said.motion is not None
    assert said.detail_db is not None
    assert [sum(row) / len(row) for row in said.frames.lpips] == pytest.approx(
        said.lpips.per_prompt, rel=1e-5, abs=1e-9
    )
    assert (said.audio is not None) == has_sound
    data = json.loads(recipe.to_json())
    of_an_earlier_version = {**data, "fidelity": {"lpips": data["fidelity"]["lpips"]}}
    assert Recipe.from_mapping(of_an_earlier_version).fidelity.detail_db is None
    wrong = {"detail_db": data["fidelity"]["detail_db"] | {"mean": 99.0}}
    with pytest.raises(UserError, match=r"detail_db.*the average of per_prompt"):
        Recipe.from_mapping({**data, "fidelity": data["fidelity"] | wrong})
    again = verify_recipe(recipe, searched.study, device="cpu")
    assert again.per_prompt == said.lpips.per_prompt
    assert again.detail_db is not None
    assert again.detail_db.per_prompt == said.detail_db.per_prompt
    folder = pictures_folder(searched.folder / "free.db", recipe.search.study)
    gallery, missing = gallery_of(recipe, folder)
    assert missing == ""
    assert gallery.frames == 5
    scene = gallery.scenes[0]
    assert len(scene.pictures[gallery.chosen].per_frame) == 5
    assert bool(scene.pictures[gallery.chosen].sound) == has_sound
    console = Console(width=220, record=True, file=io.StringIO())
    console.print(front_table(outcome))
    table = console.export_text()
    assert "held-out typical" in table
    assert ("sound" in table) == has_sound
    assert has_sound == any(own.name.startswith("sound") for own in verdict_of(recipe).judges)


def test_a_bound_on_sound_is_kept_and_generates_nothing_again(
    ltx2_searched: Searched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What breaks the bound is neither on the front nor chosen, and scores that are known are
    judged again instead of generated.
    """
    free = ltx2_searched.outcome
    heard = {t.choice: t.score.audio.mean for t in free.result.trials if t.score.audio is not None}
    assert max(heard.values()) > 0
    bound = 0.99 * max(heard.values())
    bounded = changed(ltx2_searched.study, fidelity={"max_audio_distance": bound})
    generated: list[object] = []
    real = Evaluator.generate
    monkeypatch.setattr(
        Evaluator,
        "generate",
        lambda self, formats, split, **rest: (
            generated.append(split) or real(self, formats, split, **rest)
        ),
    )
    outcome = search(bounded, ltx2_searched.folder, "free", budget=1)
    assert outcome.result.study != free.result.study
    fresh = {t.choice for t in outcome.result.trials} - set(heard)
    assert generated.count("search") == len(fresh) <= 1
    beyond = [t for t in outcome.result.trials if not t.score.is_allowed]
    assert {t.choice for t in beyond} - fresh == {
        t.choice for t in outcome.result.trials if heard.get(t.choice, 0.0) > bound
    }
    assert beyond
    assert not {t.index for t in beyond} & {t.index for t in outcome.front}
    assert outcome.recipe is not None
    assert outcome.recipe.fidelity.audio is not None
    assert outcome.recipe.fidelity.audio.mean <= bound
    assert outcome.recipe.fidelity.audio.max_distance == bound


def test_black_clips_are_a_failed_trial_and_the_search_goes_on(
    ltx2_searched: Searched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A skip-list that gives black clips is recorded with its reason; the others are scored."""
    real = Evaluator.generate

    def generate(self: Evaluator, formats: Any, split: Any, **rest: Any) -> Media:
        media = real(self, formats, split, **rest)
        return (
            replace(media, pictures=torch.zeros_like(media.pictures))
            if all(f is FormatName.NVFP4 for f in formats.values())
            else media
        )

    monkeypatch.setattr(Evaluator, "generate", generate)
    outcome = search(ltx2_searched.study, ltx2_searched.folder, "black", budget=1)
    assert outcome.result.failed == 1
    assert outcome.result.tried == 1
    assert "all nvfp4" not in {t.label for t in outcome.result.trials}
