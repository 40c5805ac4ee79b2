"""The studies that come with the package are about the models that they name: sizes as published,
no dead pattern, and prompts enough.
"""

import re
from functools import cache
from pathlib import Path

import pytest
from torch import nn

from sensitivity.core.patterns import expand
from sensitivity.models.skeleton import build_component
from sensitivity.shapes.run import run_shapes
from sensitivity.spec import shipped
from sensitivity.spec.loading import load_spec
from sensitivity.spec.shipped import list_studies, studies_folder
from sensitivity.spec.study_spec import StudySpec

from support.shallow_studies import LAYERS, shallow

# Billions of parameters, as the model cards or the papers say; Linears as counted by hand from the
# classes' source: blocks x Linears a block + the others.
PUBLISHED = {
    "flux1-dev": ("transformer", 12.0, 19 * 14 + 38 * 6 + 10),
    "qwen-image": ("transformer", 20.0, 60 * 14 + 6),
    "ltx2": ("transformer", 19.0, 48 * 28 + 26),
    "flux2-dev": ("transformer", 32.0, 8 * 12 + 48 * 2 + 11),
    "sd3.5-large": ("transformer", 8.1, 37 * 14 + 11 + 7),
    "wan2.2": ("transformer", 14.0, 40 * 10 + 6),
    "z-image-turbo": ("transformer", 6.0, (30 + 2) * 8 + 2 * 7 + 6),
    "sdxl": ("unet", 2.6, 70 * 10 + 11 * 2 + 17 + 4),
}
REAL = [name for name in list_studies() if name != "tiny-flux"]


@cache
def study(name: str) -> StudySpec:
    return load_spec(list_studies()[name])


@cache
def denoiser(name: str, component: str) -> nn.Module:
    return build_component(study(name), component)


def linears(name: str) -> list[str]:
    return [
        fqn
        for fqn, part in denoiser(name, study(name).model.component).named_modules()
        if isinstance(part, nn.Linear)
    ]


def test_every_real_study_is_checked_here() -> None:
    """A study that is added brings its published size."""
    assert set(REAL) == set(PUBLISHED)


@pytest.mark.parametrize("name", REAL)
def test_a_model_has_its_published_size(name: str) -> None:
    """Parameters within 3 % of what its makers say, and as many Linears as its blocks have: the
    configs are those of the model.
    """
    component, billions, count = PUBLISHED[name]
    assert study(name).model.component == component
    for each in study(name).model.denoisers:
        parameters = sum(p.numel() for p in denoiser(name, each).parameters())
        assert parameters / 1e9 == pytest.approx(billions, rel=0.03)
    assert len(linears(name)) == count


@pytest.mark.parametrize("name", REAL)
def test_no_pattern_of_a_study_is_dead(name: str) -> None:
    """Each always-skip pattern and each glob of the rule of thumb matches a Linear, each fused role
    occurs, and each skip has a reason.
    """
    spec, fqns = study(name), linears(name)
    assert (
        expand(
            [entry.pattern for entry in (*spec.search.always_skip, *spec.rule_of_thumb.skip)], fqns
        ).dead
        == ()
    )
    assert all(len(entry.reason) > 10 for entry in spec.search.always_skip)
    assert all(
        any(f".{fqn}".endswith(f".{role}") for fqn in fqns)
        for family in spec.search.fused
        for role in family
    )


@pytest.mark.parametrize("name", REAL)
def test_a_study_has_prompts_enough(name: str) -> None:
    """Real models are chosen on more prompts than the general ones, twice as many are held out, and
    the revision is a commit.
    """
    spec = study(name)
    assert (len(spec.prompts.search), len(spec.prompts.held_out)) == (
        (8, 16) if "num_frames" in spec.settings else (16, 32)
    )
    assert re.fullmatch("[0-9a-f]{40}", spec.model.revision or "")


@pytest.mark.parametrize("name", ["flux2-dev", "sd3.5-large", "wan2.2", "z-image-turbo", "sdxl"])
def test_a_study_runs_without_weights(name: str, tmp_path: Path) -> None:
    """The pipeline accepts the settings, every Linear is called, and what is generated has the size
    that was asked (fewer steps, frames and layers here).
    """
    spec = shallow(study(name), tmp_path / name)
    few = {"num_inference_steps": 2} | ({"num_frames": 5} if "num_frames" in spec.settings else {})
    run = run_shapes(spec.model_copy(update={"settings": spec.settings | few}))
    assert run.table.uncalled == ()
    assert {key: run.table.settings[key] for key in ("height", "width")} == {
        key: spec.settings[key] for key in ("height", "width")
    }
    assert run.table.run is not None
    forwards = {part.component: part.calls for part in run.table.run.components}
    assert all(forwards[each] > 0 for each in spec.model.denoisers)
    if name == "wan2.2":  # two forwards a step, each step by one of the two
        assert len(run.table.linears) == 2 * (LAYERS * 10 + 6)
        assert forwards["transformer"] + forwards["transformer_2"] == 2 * 2


def test_every_study_that_ships_loads_and_names_files_that_exist() -> None:
    """All TOMLs under studies/ are studies with distinct names, and those with a folder have it."""
    specs = [load_spec(path) for path in list_studies().values()]
    assert len(specs) > 0
    assert len({spec.name for spec in specs}) == len(specs)
    for spec in specs:
        assert spec.model.path is None or (spec.model.path / "model_index.json").is_file()
        assert spec.fidelity.weights is None or spec.fidelity.weights.is_file()


def test_a_toml_inside_a_config_folder_is_no_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only TOMLs outside of pipeline folders are studies."""
    (tmp_path / "toy" / "vae").mkdir(parents=True)
    (tmp_path / "toy" / "model_index.json").write_text("{}")
    (tmp_path / "toy" / "vae" / "notes.toml").write_text("")
    (tmp_path / "toy.toml").write_text("")
    monkeypatch.setattr("sensitivity.spec.shipped.studies_folder", lambda: tmp_path)
    assert list(list_studies()) == ["toy"]


def test_studies_are_in_the_wheel_or_beside_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder inside of the package is that of a wheel; without it, a checkout is meant."""
    package = tmp_path / "sensitivity"
    monkeypatch.setattr(shipped, "__file__", str(package / "spec" / "shipped.py"))
    assert studies_folder() == tmp_path / "studies"
    (package / "studies").mkdir(parents=True)
    assert studies_folder() == package / "studies"
