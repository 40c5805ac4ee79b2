"""A study is read exactly as declared, and a wrong one is refused by the name of its key."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from sensitivity.errors import SpecError, UserError
from sensitivity.spec.loading import load_spec
from sensitivity.spec.study_spec import ModelSection, StudySpec, check_budget

SMALLEST = """\
name = "toy"
[model]
path = "weights"
[prompts]
search = ["a"]
held_out = ["b"]
"""


def study(folder: Path, text: str = SMALLEST) -> Path:
    """A study TOML in `folder`."""
    path = folder / "toy.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_relative_paths_are_relative_to_the_toml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The current folder has no say in where a study's files are."""
    text = SMALLEST + '[fidelity]\nnet = "tiny"\nweights = "../trunk.safetensors"\n'
    path = study(tmp_path, text)
    monkeypatch.chdir("/")
    spec = load_spec(path)
    assert spec.model.path == tmp_path / "weights"
    assert spec.fidelity.weights is not None
    assert spec.fidelity.weights.resolve() == tmp_path.parent / "trunk.safetensors"


def test_absolute_paths_stay(tmp_path: Path) -> None:
    """A path that is absolute is taken as it is."""
    assert load_spec(
        study(tmp_path, SMALLEST.replace('"weights"', '"/models/flux"'))
    ).model.path == Path("/models/flux")


def test_settings_keep_their_types(tmp_path: Path) -> None:
    """A whole number stays an int, a decimal a float, true a bool: they become arguments of the
    pipeline call.
    """
    found = load_spec(
        study(tmp_path, SMALLEST + '[settings]\nsteps = 1\nscale = 1.0\nflag = true\nword = "1"\n')
    ).settings
    assert [(value, type(value)) for value in found.values()] == [
        (1, int),
        (1.0, float),
        (True, bool),
        ("1", str),
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"weights"', '"weights"\nbatch = 2', r"model\.batch: Extra inputs"),
        ('name = "toy"', 'name = "toy"\nprompt = "x"', "prompt: Extra inputs"),
        ('path = "weights"', "", "exactly one of `path`"),
        ('path = "weights"', 'path = "weights"\nhub = "a/b"', "exactly one of `path`"),
        ('["b"]', '["a"]', "in `search` and in `held_out`, the first is 'a'"),
        ('["a"]', "[]", r"prompts\.search"),
        ('name = "toy"', 'name = "../toy"', "name: String should match"),
        ('name = "toy"', "", "name: Field required"),
        ("[prompts]", '[fidelity]\nnet = "tiny"\n[prompts]', r"`fidelity\.weights`, the safetens"),
        ("[prompts]", '[fidelity]\nnet = "resnet"\n[prompts]', r"fidelity\.net"),
        ("[prompts]", "[search]\nbatch_size = 0\n[prompts]", r"search\.batch_size"),
        ("[prompts]", "[search]\ndepth_bands = 0\n[prompts]", r"search\.depth_bands"),
        ("[prompts]", "[settings]\nscale = nan\n[prompts]", r"settings\.scale"),
        ("[prompts]", "[settings]\nscale = inf\n[prompts]", r"settings\.scale"),
        ('[model]\npath = "weights"', "model = 3", "model: Input should be"),
    ],
)
def test_a_wrong_study_is_refused_by_key(tmp_path: Path, old: str, new: str, message: str) -> None:
    """The message names the key that is wrong, and an example of a right study."""
    assert old in SMALLEST
    with pytest.raises(SpecError, match=message) as caught:
        load_spec(study(tmp_path, SMALLEST.replace(old, new)))
    assert "studies/tiny-flux.toml" in str(caught.value)


def test_a_study_cannot_be_changed(tmp_path: Path) -> None:
    """A loaded study is frozen, its sections too."""
    spec = load_spec(study(tmp_path))
    with pytest.raises(ValidationError, match="frozen"):
        spec.name = "other"  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        spec.prompts.seed = 1  # type: ignore[misc]


def test_defaults_are_a_valid_study(tmp_path: Path) -> None:
    """A study that says only name, model and prompts reads back equal from its own JSON."""
    spec = load_spec(study(tmp_path))
    assert StudySpec.model_validate_json(spec.model_dump_json()) == spec


def test_a_study_may_name_config_files_alone(tmp_path: Path) -> None:
    """`config` is relative to the TOML, prompts have a default, and text lengths are QwenImage's
    unless said.
    """
    spec = load_spec(
        study(
            tmp_path,
            'name = "toy"\n[model]\nhub = "a/b"\nconfig = "toy"\nvae_tiling ='
            " true\n[pricing]\nprompt_tokens = 20\n",
        )
    )
    assert (spec.model.config, spec.model.vae_tiling) == (tmp_path / "toy", True)
    assert (spec.pricing.prompt_tokens, spec.pricing.negative_prompt_tokens) == (20, 6)
    assert spec.prompts.search


def test_components_are_one_list() -> None:
    """The first of several denoisers is the main one, whether or not it is said; anything else is
    refused.
    """
    assert ModelSection(hub="a/b", components=("x", "y")).component == "x"
    assert ModelSection(hub="a/b", component="x").denoisers == ("x",)
    assert ModelSection(hub="a/b").denoisers == ("transformer",)
    for wrong, message in (
        ({"component": "y", "components": ("x", "y")}, "begins with 'x'"),
        ({"components": ("x", "x")}, "has one twice"),
        ({"components": ("",)}, "at least 1 character"),
        ({"component": ""}, "at least 1 character"),
    ):
        with pytest.raises(ValueError, match=message):
            ModelSection(hub="a/b", **wrong)  # type: ignore[arg-type]


def test_a_seed_of_random_weights_means_random_weights() -> None:
    """A study that has random weights says so."""
    with pytest.raises(
        ValueError,
        match=r"`random_seed` is 3 and `model\.weights` is \"pretrained\"; expected \"random\"",
    ):
        ModelSection(hub="a/b", random_seed=3)


@pytest.mark.parametrize("budget", [0, -3])
def test_a_budget_is_one_trial_or_more(budget: int) -> None:
    """The message has the value and a usual one."""
    with pytest.raises(UserError, match=f"`budget` is {budget}; expected 1 or more trials: 50"):
        check_budget(budget)
