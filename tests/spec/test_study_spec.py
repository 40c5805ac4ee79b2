"""A study is read exactly as declared, a wrong one is refused by the name of its key, and `--model`
means one thing.
"""

import tomllib
from pathlib import Path

import pytest
from pydantic import ValidationError

from sensitivity.core.format_name import FormatName, parse_formats
from sensitivity.errors import (
    FormatError,
    PipelineError,
    SensitivityError,
    SpecError,
    UnknownModelError,
)
from sensitivity.spec.loading import list_studies, load_spec, resolve_spec
from sensitivity.spec.overrides import RunOptions, override_settings
from sensitivity.spec.study_spec import StudySpec

SMALLEST = """\
name = "toy"
[model]
path = "weights"
[prompts]
search = ["a"]
held_out = ["b"]
"""


def study(folder: Path, text: str = SMALLEST) -> Path:
    path = folder / "toy.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_study_that_ships_loads_and_names_files_that_exist() -> None:
    """All TOMLs under studies/ are studies with distinct names, and those with a folder have it."""
    specs = [load_spec(path) for path in list_studies().values()]
    assert len(specs) > 0
    assert len({spec.name for spec in specs}) == len(specs)
    for spec in specs:
        assert spec.model.path is None or (spec.model.path / "model_index.json").is_file()
        assert spec.fidelity.weights is None or spec.fidelity.weights.is_file()


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
        ("[prompts]", '[fidelity]\nnet = "tiny"\n[prompts]', "`weights`, the safetensors file"),
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


@pytest.mark.parametrize("content", [b"name = ", b"\xff\xfe", b"a = 1\na = 2"])
def test_a_file_that_is_no_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    """Broken syntax, other encodings and repeated keys are the user's mistake, with the file's
    name.
    """
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(SpecError, match=r"broken\.toml is no TOML"):
        resolve_spec(str(path))


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """A missing file and a folder named like a TOML say what the system says."""
    with pytest.raises(SpecError, match="No such file"):
        resolve_spec(str(tmp_path / "absent.toml"))
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(SpecError, match="Is a directory"):
        resolve_spec(str(tmp_path / "folder.toml"))


def test_a_study_cannot_be_changed(tmp_path: Path) -> None:
    """A loaded study is frozen, its sections too."""
    spec = load_spec(study(tmp_path))
    with pytest.raises(ValidationError, match="frozen"):
        spec.name = "other"  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        spec.prompts.seed = 1  # type: ignore[misc]


def test_a_name_means_the_study_that_ships() -> None:
    """`--model tiny-flux` is studies/tiny-flux.toml."""
    spec = resolve_spec("tiny-flux")
    assert spec == load_spec(list_studies()["tiny-flux"])
    declared = tomllib.loads(list_studies()["tiny-flux"].read_text(encoding="utf-8"))
    assert (spec.name, list(spec.prompts.search)) == (
        declared["name"],
        declared["prompts"]["search"],
    )


def test_a_study_name_comes_before_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that happens to be called like a study does not shadow it."""
    (tmp_path / "tiny-flux").mkdir()
    (tmp_path / "tiny-flux" / "model_index.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert resolve_spec("tiny-flux") == load_spec(list_studies()["tiny-flux"])
    assert resolve_spec("./tiny-flux").model.path == tmp_path / "tiny-flux"


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("flux", "flux"),
        ("my flux (v2)", "my-flux--v2-"),
        ("modèle", "mod-le"),
        ("日本", "model"),
        (".hidden", "hidden"),
    ],
)
def test_a_folder_gives_a_study_of_its_name(tmp_path: Path, folder: str, name: str) -> None:
    """A diffusers folder needs no TOML, whatever characters its name has; prompts and net have
    defaults.
    """
    path = tmp_path / folder
    path.mkdir()
    (path / "model_index.json").write_text("{}")
    spec = resolve_spec(str(path))
    assert (spec.name, spec.model.path, spec.model.hub) == (name, path, None)
    assert spec.prompts.search
    assert not set(spec.prompts.search) & set(spec.prompts.held_out)


def test_a_folder_that_is_no_pipeline_is_refused(tmp_path: Path) -> None:
    """The message says which file is missing and what writes it."""
    with pytest.raises(PipelineError, match=r"without model_index\.json.*save_pretrained"):
        resolve_spec(str(tmp_path))


def test_a_hub_id_gives_a_study() -> None:
    """org/name that is no path here is a Hub id; nothing is downloaded to say so."""
    spec = resolve_spec("black-forest-labs/FLUX.1-dev")
    assert (spec.name, spec.model.hub, spec.model.path) == (
        "FLUX.1-dev",
        "black-forest-labs/FLUX.1-dev",
        None,
    )


@pytest.mark.parametrize(
    "model",
    ["tiny-flx", "a/b/c", "../no-such-folder-here", "/nowhere", "org/", "nul\0l", "x" * 5000, ""],
)
def test_anything_else_is_unknown(model: str) -> None:
    """A name that means nothing is the user's mistake, never another exception, and the studies are
    listed.
    """
    with pytest.raises(UnknownModelError, match=r"allowed are a study name \(.*tiny-flux"):
        resolve_spec(model)


def test_a_misspelt_name_is_answered_with_the_closest() -> None:
    """The next step of an unknown model is the study that was probably meant."""
    with pytest.raises(UnknownModelError, match=r"did you mean tiny-flux\?"):
        resolve_spec("tinyflux")


def test_formats_keep_their_order_once() -> None:
    """`--format` may be given several times; repeats count once, the first order stays."""
    assert parse_formats(["nvfp4", "fp8", "nvfp4"]) == (FormatName.NVFP4, FormatName.FP8)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["nvfp8"], r"'nvfp8' is unknown.*did you mean"),
        (["bf16"], "'bf16' is what skipped Linears keep"),
        (["NVFP4"], "'NVFP4' is unknown"),
        ([], "no format given; allowed are mxfp8, nvfp4, fp8"),
    ],
)
def test_wrong_formats_are_refused(names: list[str], message: str) -> None:
    """An unknown format, bf16 and no format at all are refused, with those that are allowed."""
    with pytest.raises(FormatError, match=message):
        parse_formats(names)


def test_defaults_are_a_valid_study(tmp_path: Path) -> None:
    """A study that says only name, model and prompts reads back equal from its own JSON."""
    spec = load_spec(study(tmp_path))
    assert StudySpec.model_validate_json(spec.model_dump_json()) == spec
    assert issubclass(SpecError, SensitivityError)


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


def test_a_toml_inside_a_config_folder_is_no_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only TOMLs outside of pipeline folders are studies."""
    (tmp_path / "toy" / "vae").mkdir(parents=True)
    (tmp_path / "toy" / "model_index.json").write_text("{}")
    (tmp_path / "toy" / "vae" / "notes.toml").write_text("")
    study(tmp_path)
    monkeypatch.setattr("sensitivity.spec.loading.studies_folder", lambda: tmp_path)
    assert list(list_studies()) == ["toy"]


@pytest.mark.parametrize(
    ("call", "settings"),
    [
        ({"guidance_scale": 3.5, "true_cfg_scale": 1.0}, {"guidance_scale": 2.0}),
        (
            {"guidance_scale": None, "true_cfg_scale": 4.0, "negative_prompt": None},
            {"true_cfg_scale": 2.0, "negative_prompt": " "},
        ),
        (
            {"guidance_scale": 4.0, "audio_guidance_scale": 7.0},
            {"guidance_scale": 2.0, "audio_guidance_scale": 2.0},
        ),
    ],
    ids=["embedded", "two forwards", "with sound"],
)
def test_guidance_is_what_the_pipeline_calls_it(
    tmp_path: Path, call: dict[str, object], settings: dict[str, object]
) -> None:
    """`--guidance` sets the argument that guides this pipeline, and what comes with it."""
    found = override_settings(
        load_spec(study(tmp_path)), RunOptions(guidance=2.0), call, "ToyPipeline"
    )
    assert found.settings == settings


def test_set_takes_json_values_and_texts(tmp_path: Path) -> None:
    """Numbers, truth values and words arrive with their types; later ones win over flags."""
    options = RunOptions(height=64, settings=("a=1", "b=2.5", "c=true", "d=word", "height=32"))
    call = dict.fromkeys(("a", "b", "c", "d", "height"))
    found = override_settings(load_spec(study(tmp_path)), options, call, "ToyPipeline").settings
    assert found == {"height": 32, "a": 1, "b": 2.5, "c": True, "d": "word"}
