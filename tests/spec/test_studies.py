"""The studies that ship are about the models that they name: sizes as published, no dead pattern,
prompts enough, and the machine's copies told apart.
"""

import json
import re
from functools import cache
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sensitivity.core.patterns import expand
from sensitivity.models.local_copies import Copies, local_copies
from sensitivity.models.skeleton import build_component
from sensitivity.shapes.run import run_shapes
from sensitivity.spec.loading import list_studies, load_spec
from sensitivity.spec.study_spec import ModelSection, StudySpec

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
def test_a_study_runs_without_weights(name: str) -> None:
    """The pipeline accepts the settings, every Linear is called, and what is drawn has the size
    that was asked (fewer steps and frames here).
    """
    spec = study(name)
    few = {"num_inference_steps": 4} | ({"num_frames": 5} if "num_frames" in spec.settings else {})
    run = run_shapes(spec.model_copy(update={"settings": spec.settings | few}))
    assert run.table.uncalled == ()
    assert {key: run.table.settings[key] for key in ("height", "width")} == {
        key: spec.settings[key] for key in ("height", "width")
    }
    assert run.table.run is not None
    forwards = {part.component: part.calls for part in run.table.run.components}
    assert all(forwards[each] > 0 for each in spec.model.denoisers)
    if name == "wan2.2":  # two forwards a step, each step by one of the two
        assert len(run.table.linears) == 2 * 406
        assert forwards["transformer"] + forwards["transformer_2"] == 2 * 4


def test_components_are_one_list() -> None:
    """The first of several denoisers is the main one, whether or not it is said; anything else is
    refused.
    """
    assert ModelSection(hub="a/b", components=("x", "y")).component == "x"
    assert ModelSection(hub="a/b", component="x").denoisers == ("x",)
    assert ModelSection(hub="a/b").denoisers == ("transformer",)
    for wrong, message in (
        ({"component": "y", "components": ("x", "y")}, "begins with 'x'"),
        ({"components": ("x", "x")}, "names one twice"),
        ({"components": ("",)}, "at least 1 character"),
        ({"component": ""}, "at least 1 character"),
    ):
        with pytest.raises(ValueError, match=message):
            ModelSection(hub="a/b", **wrong)  # type: ignore[arg-type]


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the Hub, in place of the user's."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def fill(cache_folder: Path, *weights: str) -> None:
    """What a download of a/b leaves: the index, and some weights."""
    repo = cache_folder / "models--a--b"
    snapshot = repo / "snapshots" / COMMIT
    snapshot.mkdir(parents=True, exist_ok=True)
    (repo / "refs").mkdir(exist_ok=True)
    (repo / "refs" / "main").write_text(COMMIT)
    index = {
        "_class_name": "P",
        "transformer": ["diffusers", "T"],
        "vae": ["diffusers", "V"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "other": [None, None],
    }
    (snapshot / "model_index.json").write_text(json.dumps(index))
    for part in weights:
        (snapshot / part).mkdir(exist_ok=True)
        save_file({"w": torch.zeros(2)}, snapshot / part / "diffusion_pytorch_model.safetensors")


def test_copies_on_this_machine_are_told_apart(hub_cache: Path) -> None:
    """Nothing, configs alone, some weights, all of them; a revision that is not here counts as
    nothing.
    """
    bare = StudySpec(name="x", model=ModelSection(hub="a/b"))
    pinned = StudySpec(name="x", model=ModelSection(hub="a/b", revision=COMMIT))
    assert local_copies(bare) == Copies.NONE
    assert local_copies(study("flux1-dev")) == Copies.CONFIGS  # they ship
    fill(hub_cache)
    assert (local_copies(bare), local_copies(pinned)) == (Copies.CONFIGS, Copies.CONFIGS)
    fill(hub_cache, "transformer")
    assert local_copies(bare) == Copies.PARTLY
    fill(hub_cache, "transformer", "vae")
    assert (local_copies(bare), local_copies(pinned)) == (Copies.WEIGHTS, Copies.WEIGHTS)
    assert (
        local_copies(StudySpec(name="x", model=ModelSection(hub="a/b", revision="f" * 40)))
        == Copies.NONE
    )


def test_folders_are_no_cache(hub_cache: Path) -> None:
    """What ships and what lies in a folder of the user's need no cache."""
    assert local_copies(study("tiny-flux")) == Copies.SHIPPED
    assert local_copies(StudySpec(name="x", model=ModelSection(path=hub_cache))) == Copies.FOLDER
