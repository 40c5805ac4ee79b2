"""What a report collects: from a recipe alone, from trials, and what it says where a part is not
there.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sensitivity.core.format_name import FormatName
from sensitivity.errors import RecipeError, StoreError
from sensitivity.fidelity.typical import typical
from sensitivity.recipes.recipe import Recipe
from sensitivity.search.finished import list_optuna_studies
from sensitivity.search.loop import SearchResult, read_search
from sensitivity.search.store import Store, assignment_key
from sensitivity.workflows.picture_files import (
    BF16,
    FLOOR,
    Floor,
    KeptList,
    PictureIndex,
    file_of,
    write_index,
)
from sensitivity.workflows.report import Report, Subject, collect_report, find_subject, model_side
from sensitivity.workflows.report.compared import compared_lists
from sensitivity.workflows.report.gallery import gallery_of
from sensitivity.workflows.report.model_side import ModelSide, Way
from sensitivity.workflows.report.trial_side import trial_records
from sensitivity.workflows.report.trust import trust_of
from sensitivity.workflows.report.unseen import unseen_of
from sensitivity.workflows.report.verdict import verdict_of

from support import fake_search
from support.shape_runs import shape_run
from support.tiny_flux_recipes import SPEC, first_recipe, verified

COMPARED = {
    "name": "rule of thumb",
    "speedup": 1.4,
    "lpips_search": 0.03,
    "lpips_held_out": 0.032,
    "typical": 0.02,
    "typical_ci95": [0.01, 0.04],
    "expected_mean": 0.035,
    "ci95": [0.02, 0.06],
    "flips": [1],
    "per_prompt": [0.1, 0.3],
}


@pytest.fixture(autouse=True)
def one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tiny-flux be run without weights once for all tests."""
    monkeypatch.setattr(model_side, "run_shapes", lambda spec: shape_run(spec.name))


def recipe_of(**fields: Any) -> Recipe:
    """A recipe of tiny-flux whose pictures were compared, beside the rule of thumb."""
    compared = {"verified": {"compared": [COMPARED, COMPARED | {"name": "trial 3"}, 7, {}]}}
    return verified(first_recipe(), {}, **compared | fields)


@pytest.fixture(scope="module")
def side() -> ModelSide:
    """tiny-flux's shapes and prices."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_side, "run_shapes", lambda spec: shape_run(spec.name))
        return ModelSide.of(SPEC, Way(formats=(FormatName.NVFP4,), target="b200"))


def test_a_recipe_alone_makes_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a database there are verdict, layers, shapes and snippets, and words for the rest."""
    monkeypatch.chdir(tmp_path)
    path = recipe_of().save(tmp_path / "mine.json")
    report = collect_report(find_subject(path))
    assert report.verdict is not None
    assert report.verdict.damage is not None
    assert len(report.layers) == report.model.linears == 88
    assert {own.consumer for own in report.snippets} >= {"torchao", "diffusers", "comfyui"}
    assert report.recipe_file == "mine.json"
    assert set(report.gaps) == {"trials", "pictures"}
    assert "looked for tiny-flux.db" in report.gaps["trials"]
    assert Report.model_validate_json(report.model_dump_json()) == report


def test_a_subject_that_is_not_there_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing recipe, a study that was never searched, and a database of others are named, the
    last one while a process has it, too.
    """
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match=r"none\.json"):
        find_subject("none.json")
    with pytest.raises(StoreError, match="expected the database of a search"):
        find_subject("tiny-flux")
    path = recipe_of().save(tmp_path / "mine.json")
    with (
        Store.open(tmp_path / "other.db"),
        pytest.raises(StoreError, match="holds no study"),
    ):
        find_subject(path, storage=tmp_path / "other.db")


def test_a_recipe_of_an_unknown_study_shows_what_it_knows(tmp_path: Path) -> None:
    """Formats by block and role come from the recipe; shapes and prices are said to be unknown."""
    recipe = recipe_of()
    data = recipe.model_dump(mode="json")
    data["search"]["study"] = "somebody-elses"
    path = Recipe.from_mapping(data).save(tmp_path / "theirs.json")
    report = collect_report(find_subject(path))
    assert {layer.fqn: layer.format for layer in report.layers} == data["layers"]
    assert report.time.shapes == ()
    assert "not known here" in report.gaps["layers"]


def test_the_verdict_is_what_the_recipe_says() -> None:
    """Numbers of the recipe are repeated, those that an older one lacks follow from its values."""
    verdict = verdict_of(recipe_of())
    assert verdict.damage is not None
    assert verdict.damage.mean == 0.2
    assert verdict.damage.typical == pytest.approx(typical([0.1, 0.3], None))
    assert verdict.damage.flips == 1  # 0.3, over half of the usual 0.4
    assert verdict.worst is not None
    assert verdict.worst.prompt == "b"
    (thumb,) = verdict.against
    assert (thumb.name, thumb.speedup) == ("rule of thumb", 1.4)
    assert thumb.damage is not None
    assert (thumb.damage.typical, thumb.damage.mean, thumb.damage.flips) == (0.02, 0.035, 1)
    assert verdict.quantized + sum(kept.count for kept in verdict.kept) >= verdict.linears


def test_what_others_wrote_into_a_recipe_is_checked() -> None:
    """Rows of `verified` that are no comparison are passed over, whatever they are."""
    hostile = [None, [], {"name": 3}, COMPARED | {"lpips_held_out": "1e999"}, COMPARED]
    rows = compared_lists(recipe_of(verified={"compared": hostile}))
    assert [row.name for row in rows] == ["rule of thumb"]
    assert compared_lists(recipe_of(verified={"compared": "x"})) == ()


def test_layers_know_their_shapes_and_what_they_could_save(side: ModelSide) -> None:
    """Refused Linears say why, and milliseconds add up to what everything quantized saves."""
    layers = {layer.fqn: layer for layer in side.layers(first_recipe().layers, {"proj_out": 0.4})}
    assert layers["x_embedder"].state == "refused"
    assert "multiple of 32" in layers["x_embedder"].why
    assert layers["proj_out"].damage == 0.4
    mlp = layers["single_transformer_blocks.0.proj_mlp"]
    assert (mlp.m, mlp.k, mlp.n, mlp.format) == (4608, 3072, 12288, "nvfp4")
    saved = sum(layer.saved_ms or 0 for layer in layers.values())
    assert saved == pytest.approx((side.full[0].bf16_s - side.full[0].quantized_s) * 1e3, rel=1e-6)


def test_milliseconds_of_shapes_are_those_of_the_run(side: ModelSide) -> None:
    """Linears by shape and the rest add up to the run, in the recipe's formats."""
    formats = first_recipe().layers
    time = side.time(formats)
    whole = side.latency.estimate(side.table, formats).quantized_s * 1e3
    total = sum(shape.recipe_ms for shape in time.shapes) + (time.other_ms or 0)
    assert total == pytest.approx(whole)
    assert sum(shape.linears for shape in time.shapes) == len(side.table.linears)
    assert [s.bf16_ms for s in time.shapes] == sorted(
        (s.bf16_ms for s in time.shapes), reverse=True
    )


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    """Trials of a fake search, read from its database."""
    evaluator = fake_search.FakeEvaluator()
    path = tmp_path_factory.mktemp("fake") / "fake.db"
    with pytest.MonkeyPatch.context() as patch:
        fake_search.search(path, evaluator, fake_search.settings(), patch)
    with Store.open(path, for_reading=True) as store:
        (kept,) = list_optuna_studies(store, fake_search.MODEL)
        return read_search(store, kept.name, fake_search.CANDIDATES)


def test_trials_are_those_of_the_database(result: SearchResult) -> None:
    """Each list that was tried is there once, with its own numbers, and the front grows to 1."""
    candidates = fake_search.CANDIDATES
    trials = trial_records(result, candidates)
    assert [trial.name for trial in trials] == [trial.name for trial in result.trials]
    for record, trial in zip(trials, result.trials, strict=True):
        assert record.seconds == trial.latency_s
        assert record.typical == trial.typical
        assert record.own_typical == trial.score.typical
        assert record.choice == "".join(map(str, trial.choice))
        assert (record.number is None) == bool(trial.label) == (record.kind == "baseline")
    growth = [trial.hypervolume or 0.0 for trial in trials]
    assert growth == sorted(growth)
    assert growth[-1] == 1.0
    for trial in trials:
        beaten = any(
            other.seconds <= trial.seconds
            and other.typical <= trial.typical
            and (other.seconds, other.typical) != (trial.seconds, trial.typical)
            for other in trials
        )
        assert trial.on_front is not beaten


def test_trust_compares_what_there_is(result: SearchResult) -> None:
    """Timed lists, estimates and held-out values are paired by name; without them words say so."""
    trials = trial_records(result, fake_search.CANDIDATES)
    timing = {"name": "rule of thumb", "seconds": [1.0], "source": "measured", "covers": "x"}
    recipe = recipe_of(timings=[timing | {"speedup": 1.2}])
    speed, belief, held_out = trust_of(recipe, trials)
    thumb = next(trial for trial in trials if trial.name == "rule of thumb")
    assert [(p.name, p.first, p.second) for p in speed.pairs] == [
        ("rule of thumb", thumb.speedup, 1.2)
    ]
    assert len(belief.pairs) == sum(bool(trial.own_typical) for trial in trials)
    assert (held_out.pairs[0].first, held_out.pairs[0].second) == (thumb.own_typical, 0.02)
    assert [own.pairs for own in trust_of(None, ())] == [(), (), ()]
    assert "No list was run as a whole" in trust_of(None, ())[0].text


def test_what_was_not_seen_is_named(side: ModelSide, result: SearchResult) -> None:
    """Refused Linears, failed lists and other prompts are said, with reasons."""
    failed = replace(result, failures=("RuntimeError: x", "RuntimeError: x"))
    found = [(entry.what, entry.why) for entry in unseen_of(recipe_of(), side, failed)]
    assert ("2 lists that failed", "RuntimeError: x") in found
    assert any("K = 48" in why for _, why in found)
    assert any("unseen ones" in what for what, _ in found)


def test_a_gallery_shows_the_worst_first_and_names_what_is_gone(tmp_path: Path) -> None:
    """Scenes go by the recipe's LPIPS; flips are marked; files that are gone leave their place."""
    recipe, key = recipe_of(), assignment_key(first_recipe().layers)
    other = "f" * 64
    lists = {
        other: KeptList(name="rule of thumb", lpips=(0.3, 0.1)),
        key: KeptList(name="trial 1", lpips=(0.01, 0.25)),
    }
    floor = Floor(prompt="c", seed=9, lpips=4e-5)
    index = PictureIndex(prompts=("a", "b"), seeds=(1, 2), lists=lists, floor=floor)
    write_index(tmp_path, index)
    names = [file_of(p, own) for p in (0, 1) for own in (BF16, key, other)]
    for name in [*names, *(f"{own}.webp" for own in FLOOR)]:
        (tmp_path / name).write_bytes(b"x")
    gallery, why = gallery_of(recipe, tmp_path)
    assert why == ""
    assert gallery.chosen == "trial 1"
    assert [scene.prompt for scene in gallery.scenes] == ["b", "a"]
    assert [scene.flipped for scene in gallery.scenes] == [("trial 1",), ("rule of thumb",)]
    assert list(gallery.scenes[0].pictures) == ["bf16", "trial 1", "rule of thumb"]
    assert gallery.floor is not None
    for prompt in (0, 1):
        (tmp_path / file_of(prompt, key)).unlink()
    without, why = gallery_of(recipe, tmp_path)
    assert without.chosen == ""
    assert "own pictures were not kept" in why
    (tmp_path / file_of(0, BF16)).unlink()
    assert [scene.prompt for scene in gallery_of(recipe, tmp_path)[0].scenes] == ["b"]
    (tmp_path / "pictures.json").write_text(json.dumps({"prompts": 1}))
    assert gallery_of(recipe, tmp_path)[0].scenes == ()


def test_a_study_without_a_recipe_is_told(tmp_path: Path) -> None:
    """What was tried is shown all the same, and words say that nothing was chosen yet."""
    report = collect_report(Subject(spec=SPEC, database=tmp_path / "none.db"))
    assert report.verdict is None
    assert "no recipe yet" in report.gaps["verdict"]
    assert len(report.layers) == 88
