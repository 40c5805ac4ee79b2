"""A study is read exactly as declared, and a wrong one is refused by the name of its key."""

import math
import re
import tomllib
from pathlib import Path

import pytest
import tomli_w
from pydantic import BaseModel, ValidationError

from sensitivity.errors import SpecError, UserError
from sensitivity.spec.hand_lists import PublishedList, RuleOfThumb
from sensitivity.spec.loading import load_spec
from sensitivity.spec.prompts import PromptSection
from sensitivity.spec.study_spec import (
    FidelitySection,
    ModelSection,
    PricingSection,
    SearchSection,
    StudySpec,
    check_budget,
)

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
    text = SMALLEST + '[fidelity]\nnet = "tiny"\nweights = "nets/trunk.safetensors"\n'
    path = study(tmp_path, text)
    monkeypatch.chdir("/")
    spec = load_spec(path)
    assert spec.model.path == tmp_path / "weights"
    assert spec.fidelity.weights == tmp_path / "nets" / "trunk.safetensors"


def test_absolute_paths_stay(tmp_path: Path) -> None:
    """A path that is absolute is taken as it is."""
    assert load_spec(
        study(tmp_path, SMALLEST.replace('"weights"', '"/models/flux"'))
    ).model.path == Path("/models/flux")


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("model", "path", "../weights"),
        ("model", "path", "a\0b"),
        ("model", "config", "a/../../b"),
        ("fidelity", "weights", ".."),
        ("prompts", "file", "/etc/shadow"),
        ("prompts", "file", "../prompts.txt"),
        ("prompts", "file", "link.txt"),
        ("pricing", "target", "/../../../x"),
        ("pricing", "target", "../g.toml"),
        ("pricing", "target", "folder\\x"),
        ("pricing", "target", "/dev/g.toml"),
    ],
)
def test_a_study_reads_nothing_outside_of_its_folder(
    tmp_path: Path, section: str, key: str, value: str
) -> None:
    """A path that leads out of the folder, by "..", from the root or by a link, is refused before
    anything is read or made; only a model and a net may be named from the root.
    """
    folder = tmp_path / "inside"
    folder.mkdir()
    (tmp_path / "prompts.txt").write_text("\n".join(f"prompt {i}" for i in range(9)))
    (folder / "link.txt").symlink_to("../prompts.txt")
    data = tomllib.loads(SMALLEST)
    data[section] = {**(data.get(section, {}) if section == "model" else {}), key: value}
    path = study(folder, tomli_w.dumps(data))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SpecError, match=rf"{section}\.{key}: found .*below the study's folder"):
        load_spec(path)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_device_toml_is_below_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`pricing.target` is relative to the TOML, as other paths are; a device's name stays."""
    monkeypatch.chdir("/")
    named = load_spec(study(tmp_path, SMALLEST + '[pricing]\ntarget = "RTX 5090"\n'))
    assert named.pricing.target == "RTX 5090"
    filed = load_spec(study(tmp_path, SMALLEST + '[pricing]\ntarget = "gpus/g.toml"\n'))
    assert filed.pricing.target == str(tmp_path / "gpus" / "g.toml")


SECTIONS: dict[str, tuple[type[BaseModel], dict[str, object]]] = {
    "model": (ModelSection, {"hub": "a/b", "weights": "random"}),
    "prompts": (PromptSection, {"search": ["a"], "held_out": ["b"]}),
    "fidelity": (FidelitySection, {}),
    "search": (SearchSection, {}),
    "pricing": (PricingSection, {}),
    "rule_of_thumb": (RuleOfThumb, {}),
    "published": (PublishedList, {"name": "x", "source": "y"}),
}


@pytest.mark.parametrize(
    ("section", "key"),
    [
        (name, key)
        for name, (section, _) in SECTIONS.items()
        for key, field in section.model_fields.items()
        if re.search(r"\b(int|float|bool)\b", str(field.annotation))
    ],
)
def test_numbers_are_numbers_in_a_range(section: str, key: str) -> None:
    """In every section a number is no text and not true or false, not negative, finite, and no
    larger than what it counts can be.
    """
    kind, others = SECTIONS[section]
    no_number = 1 if key == "vae_tiling" else True
    wrong: list[object] = [no_number, "1", math.nan, math.inf, -math.inf]
    # `StudySpec` holds the order against the prompts
    wrong = [(value,) for value in wrong] if key == "order" else [*wrong, -1, 10**20]
    for value in wrong:
        with pytest.raises(ValidationError, match=key):
            kind.model_validate({**others, key: value})


def test_whole_numbers_are_numbers(tmp_path: Path) -> None:
    """A TOML may write 1 for 1.0, and 0 for a seed."""
    text = SMALLEST.replace("[prompts]", "[prompts]\nseed = 0") + "[fidelity]\naudio_weight = 1\n"
    spec = load_spec(study(tmp_path, text))
    assert (spec.fidelity.audio_weight, spec.prompts.seed) == (1.0, 0)


@pytest.mark.parametrize("line", ["height = 100000000000000000000", "scale = -1e999"])
def test_settings_are_numbers_of_64_bits(tmp_path: Path, line: str) -> None:
    """A setting that no computer counts to is refused when the study is read."""
    with pytest.raises(SpecError, match="finite number of 64 bits"):
        load_spec(study(tmp_path, f"{SMALLEST}[settings]\n{line}\n"))


def test_a_name_fits_into_file_names(tmp_path: Path) -> None:
    """A name that no file could have with its endings is refused."""
    with pytest.raises(SpecError, match="name: String should have at most 120 characters"):
        load_spec(study(tmp_path, SMALLEST.replace('"toy"', f'"{"x" * 121}"')))


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


def test_arguments_without_a_value_are_listed(tmp_path: Path) -> None:
    """TOML has no null; `null` lists the arguments that are None, and lists stay lists."""
    text = '[settings]\nsigmas = [1.0, 0.5]\nnull = ["guidance_schedule"]\n'
    found = load_spec(study(tmp_path, SMALLEST + text)).settings
    assert found == {"sigmas": [1.0, 0.5], "guidance_schedule": None}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('null = "a"', r"`settings\.null` is a str; expected a list of the arguments"),
        ('a = 1\nnull = ["a"]', r"`settings` sets 'a' and lists it under `null`"),
        ("a = [[[1]]]", r"`settings\.a` is a list; expected a finite number"),
        ("a = {b = 1}", r"`settings\.a` is a dict; expected a finite number"),
    ],
)
def test_settings_that_no_call_takes_are_refused(tmp_path: Path, line: str, message: str) -> None:
    """The message has the key, what it is, and what was expected."""
    with pytest.raises(SpecError, match=message):
        load_spec(study(tmp_path, f"{SMALLEST}[settings]\n{line}\n"))


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


@pytest.mark.parametrize(
    ("budget", "expected"),
    [(-3, "1 or more"), (True, "1 or more"), (10**20, "at most 100000")],
)
def test_a_budget_is_a_number_of_trials(budget: int, expected: str) -> None:
    """The message has the value and a usual one."""
    with pytest.raises(UserError, match=f"`budget` is {budget}; expected {expected} trials: 50"):
        check_budget(budget)
    with pytest.raises(UserError, match=r"searches nothing: only the baselines .* 1 or more"):
        check_budget(0)
