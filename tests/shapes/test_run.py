"""A run without weights has the shapes of a run with them, follows its settings, and counts what
independent arithmetic counts.
"""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sensitivity.errors import (
    ConfigMismatchError,
    MeasurementError,
    PipelineError,
    SpecError,
    UserError,
)
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.models import skeleton as blueprint
from sensitivity.models.generating import painting_key
from sensitivity.models.loading import load_pipeline
from sensitivity.models.random_weights import random_component
from sensitivity.models.shape_mode import REAL_ELEMENTS, ShapeMode
from sensitivity.models.skeleton import build_skeleton
from sensitivity.models.stand_in_tokenizer import PROMPT, StandInTokenizer
from sensitivity.shapes import run as skeleton
from sensitivity.shapes.census import ComponentCounts, RunCounts
from sensitivity.shapes.recorder import record_linears
from sensitivity.shapes.run import ShapeRun, run_shapes, with_options
from sensitivity.shapes.table import ShapeTable
from sensitivity.spec.loading import load_spec, resolve_spec
from sensitivity.spec.overrides import RunOptions
from sensitivity.spec.study_spec import ModelSection, StudySpec
from sensitivity.workflows import find as workflow

from support.toy_pipelines import TOYS, save_toy

LARGE = ("flux1-dev", "qwen-image", "ltx2")


@pytest.fixture(scope="module")
def large() -> dict[str, ShapeRun]:
    """The three large studies, run as they are declared."""
    return {name: run_shapes(resolve_spec(name)) for name in LARGE}


def rows(run: ShapeRun) -> Counter[tuple[int, int]]:
    """{(M, calls): Linears}."""
    return Counter((linear.m, linear.calls) for linear in run.table.linears)


def changed(name: str, **options: Any) -> ShapeRun:
    """A study run with the options of a command line."""
    return run_shapes(with_options(resolve_spec(name), RunOptions(**options)))


def real_table(spec: StudySpec, batch: int = 1) -> tuple[ShapeTable, Any]:
    """The table of a run with random weights on the CPU, through plain hooks, and what the pipeline
    drew.
    """
    pipe = build_skeleton(spec)
    for name, part in pipe.components.items():
        if isinstance(part, nn.Module):
            setattr(pipe, name, random_component(spec, component=name, device="cpu"))
    blueprint.enable_vae_tiling(spec, pipe)
    with torch.no_grad(), record_linears(getattr(pipe, spec.model.component)) as recorder:
        out = pipe(**skeleton._arguments(spec, pipe, batch))
    return recorder.table(model=spec.name), getattr(out, "images", getattr(out, "frames", None))


def real(x: Any) -> Any:
    """Meta tensors as random ones, others as they are."""
    return torch.randn(x.shape, dtype=x.dtype) if isinstance(x, Tensor) and x.is_meta else x


# the three large studies


def test_flux_has_its_linears(large: dict[str, ShapeRun]) -> None:
    """FLUX.1-dev: 57 blocks, 28 calls each, M of pictures, texts, both and the batch."""
    image, text = (1024 // 16) ** 2, 512
    run = large["flux1-dev"]
    double, single = 19, 38
    modulation = 2 * double + single + 1 + 6  # norm_out and three embedders of two Linears
    assert rows(run) == {
        (image + text, 28): 5 * single,
        (image, 28): 6 * double + 2,
        (text, 28): 6 * double + 1,
        (1, 28): modulation,
    }
    assert (sum(rows(run).values()), run.table.uncalled) == (504, ())
    assert [call.calls for call in run.calls] == [28]
    assert run.repeated_blocks == ("FluxTransformerBlock", "FluxSingleTransformerBlock")


def test_qwen_runs_twice_a_step(large: dict[str, ShapeRun]) -> None:
    """QwenImage: 846 Linears, 50 steps, a forward for the prompt's 14 tokens and one for the
    negative prompt's 6.
    """
    run = large["qwen-image"]
    assert len(run.table.linears) == 846
    texts = [linear for linear in run.table.linears if len(linear.m_values) > 1]
    assert {linear.m_values for linear in texts} == {((6, 50), (14, 50))}
    assert {(linear.m, linear.calls) for linear in run.table.linears if linear not in texts} == {
        (4096, 100),
        (1, 100),
    }
    assert sorted(call.calls for call in run.calls) == [50, 50]


def test_ltx2_has_three_streams(large: dict[str, ShapeRun]) -> None:
    """LTX-2: 1370 Linears, CFG in the batch, no further forwards."""
    run = large["ltx2"]
    video = 2 * (512 // 32) * (768 // 32) * ((121 - 1) // 8 + 1)
    audio = 2 * round(121 / 24 * 16000 / 160 / 4)
    assert (video, audio) == (12288, 252)
    assert set(rows(run)) == {(video, 40), (audio, 40), (2 * 1024, 40), (2, 40)}
    assert sum(rows(run).values()) == 1370
    assert [call.calls for call in run.calls] == [40]


def test_flux_follows_batch_size_and_steps() -> None:
    """Twice the batch is twice the rows; text and picture keep their lengths."""
    run = changed("flux1-dev", batch_size=2, height=512, width=768, steps=5)
    image, text = 2 * (512 // 16) * (768 // 16), 2 * 512
    assert set(rows(run)) == {(image + text, 5), (image, 5), (text, 5), (2, 5)}
    assert (run.table.batch_size, run.table.settings["width"]) == (2, 768)


def test_qwen_follows_prompt_and_guidance() -> None:
    """More tokens are more rows; without guidance there is one forward a step."""
    run = changed("qwen-image", prompt_tokens=33, guidance=1.0, steps=2)
    assert set(rows(run)) == {(4096, 2), (33, 2), (1, 2)}
    assert run.table.run is not None
    assert run.table.run.component("text_encoder").calls == 1


def test_ltx2_follows_frames_and_guidance() -> None:
    """Frames change video and sound; without guidance the batch is one."""
    run = changed("ltx2", frames=49, guidance=1.0, steps=2)
    assert set(rows(run)) == {(16 * 24 * 7, 2), (round(49 / 24 * 25), 2), (1024, 2), (1, 2)}


def test_a_size_that_the_pipeline_rounds_is_said() -> None:
    """The settings of the table hold what was drawn, not what was asked."""
    run = changed("flux1-dev", height=1000, steps=1)
    assert run.table.settings["height"] == 992
    assert max(linear.m for linear in run.table.linears) == 62 * 64 + 512


def test_the_census_of_flux_is_what_arithmetic_gives(large: dict[str, ShapeRun]) -> None:
    """Attention, FLOPs and weights of the whole run, counted by hand."""
    table = large["flux1-dev"].table
    assert table.run is not None
    counts = table.run.component("transformer")
    (attention,) = counts.attention
    assert (
        attention.batch,
        attention.heads,
        attention.q_len,
        attention.kv_len,
        attention.head_dim,
    ) == (1, 24, 4608, 4608, 128)
    assert attention.calls == 57 * 28
    assert (counts.calls, counts.linear_flops, counts.matmul_flops, counts.conv_flops) == (
        28,
        table.flops,
        0,
        0,
    )
    linears = sum(linear.parameters for linear in table.linears)
    assert 0 <= counts.weight_bytes - 2 * linears < 0.001 * counts.weight_bytes
    residual = 2 * 4608 * 3072
    assert 57 * 28 * 10 * residual < counts.eager_bytes < 57 * 28 * 1000 * residual
    assert (
        7 * residual < counts.peak_activation_bytes < 30 * residual
    )  # the widest: q, k, v and an MLP of four times the width
    assert table.run.component("text_encoder_2").attention[0].calls == 24
    assert table.run.component("vae").conv_flops > 10**12


def test_shared_weights_count_once(large: dict[str, ShapeRun]) -> None:
    """T5's and Gemma's embeddings are tied, as in a loaded pipeline: encoders of 4.76, 12.19 and
    8.29 billion parameters.
    """
    parameters = {
        "flux1-dev": ("text_encoder_2", 4_762_310_656),
        "ltx2": ("text_encoder", 12_187_325_040),
        "qwen-image": ("text_encoder", 8_292_166_656),
    }
    for name, (component, expected) in parameters.items():
        run = large[name].table.run
        assert run is not None
        assert run.component(component).weight_bytes == 2 * expected


def test_the_census_comes_back_from_json(large: dict[str, ShapeRun]) -> None:
    """A table with its census reads back equal; without one there is no such key."""
    table = large["ltx2"].table
    assert ShapeTable.from_json(json.loads(json.dumps(table.to_json()))) == table
    assert "run" not in replace(table, run=None).to_json()


def test_the_denoisers_calls_have_their_values(large: dict[str, ShapeRun]) -> None:
    """Ids and timesteps come with values, text comes as a shape."""
    (call,) = large["flux1-dev"].calls
    assert call.kwargs["encoder_hidden_states"].shape == (1, 512, 4096)
    assert call.kwargs["encoder_hidden_states"].is_meta
    assert call.kwargs["img_ids"].max() == 63
    assert call.kwargs["timestep"].tolist() == [1.0]
    assert call.kwargs["hidden_states"].dtype == torch.bfloat16


# any model


def test_tiny_flux_without_weights_is_tiny_flux(evaluator: Evaluator) -> None:
    """The table of a run without weights has the Linears of the real run, row for row."""
    assert run_shapes(evaluator.spec).table.linears == evaluator.profile().linears


@pytest.fixture
def bare(tiny_study: Path, tmp_path: Path) -> StudySpec:
    """The random FluxPipeline with config files alone: no weights, no tokenizers."""
    spec = load_spec(tiny_study)
    folder = tmp_path / "bare"
    assert spec.model.path is not None
    shutil.copytree(
        spec.model.path, folder, ignore=shutil.ignore_patterns("*.safetensors", "tokenizer*")
    )
    return spec.model_copy(update={"model": ModelSection(path=folder, weights="random")})


def test_config_files_are_enough(bare: StudySpec, tiny_study: Path) -> None:
    """Weights and tokenizers change nothing."""
    assert run_shapes(bare).table == run_shapes(load_spec(tiny_study)).table


def test_another_component_is_profiled_in_the_same_run(bare: StudySpec) -> None:
    """`component` chooses whose Linears are shown; the census is the same."""
    denoiser, text = run_shapes(bare), run_shapes(bare, component="text_encoder_2")
    assert text.table.run == denoiser.table.run
    assert text.table.linears
    assert {linear.calls for linear in text.table.linears} == {1}
    assert {linear.m for linear in text.table.linears} == {32}


def test_random_weights_give_finite_outputs(bare: StudySpec) -> None:
    """A component with random weights takes the recorded call's arguments and gives finite numbers,
    the same for the same seed.
    """
    (call,) = run_shapes(bare).calls
    kwargs = {key: real(value) for key, value in call.kwargs.items()}
    outs = []
    for seed in (0, 0, 1):
        module = random_component(bare, device="cpu", seed=seed)
        with torch.no_grad():
            outs.append(module(*call.args, **kwargs)[0])
    assert {p.dtype for p in module.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in module.parameters())
    assert outs[0].isfinite().all()
    assert outs[0].std() > 0
    assert torch.equal(outs[0], outs[1])
    assert not torch.equal(outs[0], outs[2])


@pytest.mark.parametrize("name", list(TOYS))
def test_other_architectures_run_as_with_weights(name: str, tmp_path: Path) -> None:
    """The Linears of a run without weights are those of a real run, and the size of what is drawn
    is known without drawing.
    """
    spec = save_toy(name, tmp_path)
    run = run_shapes(spec)
    table, drawn = real_table(spec)
    assert run.table.linears == table.linears
    assert run.table.uncalled == table.uncalled
    assert drawn.isfinite().all()
    assert (run.table.settings["height"], run.table.settings["width"]) == tuple(drawn.shape[-2:])
    assert run.table.settings.get("num_frames", drawn.shape[1]) == drawn.shape[1]


def test_a_batch_of_an_architecture_with_masks(tmp_path: Path) -> None:
    """Text lengths that come from masks follow the batch."""
    spec = save_toy("qwen", tmp_path)
    assert run_shapes(spec, batch_size=3).table.linears == real_table(spec, batch=3)[0].linears


# mistakes


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "flux1-dev",
            {"frames": 9},
            (
                r"--frames sets num_frames, which the call of FluxPipeline does not have; allowed"
                r" are prompt,.*height"
            ),
        ),
        ("flux1-dev", {"settings": ("hieght=3",)}, "--set hieght sets hieght, which the call"),
        ("flux1-dev", {"settings": ("height",)}, "--set 'height'; allowed is KEY=VALUE"),
        ("flux1-dev", {"settings": ("sigmas=[1, 2]",)}, "has a list; allowed are finite numbers"),
        ("flux1-dev", {"settings": ("guidance_scale=Infinity",)}, "finite numbers"),
        ("flux1-dev", {"steps": 0}, "--steps is 0; allowed is 1 or more"),
        ("ltx2", {"frames": 0}, "--frames is 0"),
        ("flux1-dev", {"height": -16}, "--height is -16"),
        ("flux1-dev", {"prompt_tokens": 0}, "--prompt-tokens is 0"),
        ("flux1-dev", {"batch_size": 0}, "--batch-size is 0"),
        ("flux1-dev", {"batch_size": 10**8}, "--batch-size is 100000000; allowed is 65536 or less"),
        ("flux1-dev", {"height": 10**12}, "--height is 1000000000000; allowed is 65536 or less"),
        ("flux1-dev", {"guidance": float("nan")}, "--guidance is nan"),
    ],
)
def test_options_that_cannot_be_are_refused(
    name: str, options: dict[str, Any], message: str
) -> None:
    """A value out of range and an argument that the pipeline's call lacks are the user's mistakes,
    said before anything is built.
    """
    with pytest.raises(UserError, match=message):
        with_options(resolve_spec(name), RunOptions(**options))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"height": 1}, "draws nothing|does not run"),
        ({"max_sequence_length": 600}, "cannot be greater than 512 but is 600"),
    ],
)
def test_settings_that_the_pipeline_refuses_are_a_mistake(
    bare: StudySpec, settings: dict[str, Any], message: str
) -> None:
    """The pipeline's own reason is given, and where to correct it."""
    with pytest.raises(PipelineError, match=message) as caught:
        run_shapes(bare.model_copy(update={"settings": {**bare.settings, **settings}}))
    assert "[settings]" in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("height", 64.5, "a whole number from 1 to 65536"),
        ("width", "wide", "a whole number"),
        ("num_inference_steps", True, "a whole number from 1 to 10000"),
        ("max_sequence_length", -3, "a whole number"),
        ("num_images_per_prompt", 0, "a whole number from 1 to 1024"),
        ("guidance_scale", "high", "float"),
        ("latents", 1, "Tensor"),
        ("sigmas", 1.0, "list"),
    ],
)
def test_a_setting_of_another_type_is_refused(
    bare: StudySpec, key: str, value: object, allowed: str
) -> None:
    """A setting is of the type that the pipeline annotates; counts are whole numbers within reason."""
    with pytest.raises(SpecError, match=f"{key} is {value!r}; allowed is .*{allowed}"):
        run_shapes(bare.model_copy(update={"settings": {**bare.settings, key: value}}))


def test_a_folder_without_a_needed_component_is_refused(bare: StudySpec) -> None:
    """A pipeline whose index names no VAE is incomplete, not a fault of ours."""
    index = Path(str(bare.model.path)) / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"vae": [None, None]}))
    with pytest.raises(PipelineError, match=r"does not run without one of .*vae"):
        run_shapes(bare)


def test_a_setting_that_is_no_argument_is_refused(bare: StudySpec) -> None:
    """A misspelt setting of a study is named."""
    with pytest.raises(SpecError, match="settings hieght are no arguments of FluxPipeline that"):
        run_shapes(bare.model_copy(update={"settings": {"hieght": 64}}))


def test_a_component_that_is_not_there_is_refused(bare: StudySpec) -> None:
    """The message lists the components that are."""
    with pytest.raises(PipelineError, match=r"no module 'unet'; it has .*transformer"):
        run_shapes(bare, component="unet")
    with pytest.raises(PipelineError, match=r"no module 'tokenizer'; it has .*transformer"):
        random_component(bare, component="tokenizer", device="cpu")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("model_index.json", "{", "could not be loaded"),
        ("model_index.json", "[]", "holds a list"),
        ("model_index.json", '{"_class_name": "os.system"}', "names the class 'os.system'"),
        (
            "model_index.json",
            '{"_class_name": "FluxPipeline", "vae": ["os", "system"]}',
            "names os.system.*remote code is not run",
        ),
        (
            "transformer/config.json",
            '{"num_layers": "many"}',
            r"transformer \(FluxTransformer2DModel\) cannot be built",
        ),
        (
            "transformer/config.json",
            None,
            r"transformer \(FluxTransformer2DModel\) cannot be built",
        ),
    ],
)
def test_a_folder_that_is_no_pipeline_is_refused(
    bare: StudySpec, file: str, text: str | None, message: str
) -> None:
    """Broken, foreign and missing config files are the user's mistake, by name; nothing else is
    imported.
    """
    assert bare.model.path is not None
    path = bare.model.path / file
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(PipelineError, match=message):
        run_shapes(bare)


def rewrite(spec: StudySpec, file: str, **changes: object) -> None:
    """Change keys of a config file."""
    path = Path(str(spec.model.path)) / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("toy", "file", "changes", "message"),
    [
        (
            "sd3",
            "transformer",
            {"in_channels": 32},
            r"transformer \(in_channels 32, .* contradict itself or vae \(latent_channels 16\)",
        ),
        (
            "sd3",
            "transformer",
            {"joint_attention_dim": 128},
            r"transformer \(.* contradict text_encoder_3 \(hidden_size 64\), or the settings",
        ),
        (
            "sd3",
            "vae",
            {"latent_channels": 32},
            r"vae \(latent_channels 32\) .* contradict transformer \(in_channels 16,",
        ),
        (
            "flux2",
            "transformer",
            {"joint_attention_dim": 96},
            r"transformer \(.* contradict text_encoder \(.*\(RuntimeError: a Linear of 96",
        ),
        (
            "sdxl",
            "unet",
            {"out_channels": 8},
            (
                r"unet \(in_channels 4, out_channels 8, .* contradict itself or vae"
                r" \(latent_channels 4\)"
            ),
        ),
        ("wan", "vae", {"z_dim": 32}, r"transformer \(.* contradict itself or vae \(z_dim 32\)"),
        (
            "chroma",
            "transformer",
            {"in_channels": 32},
            r"vae \(latent_channels 4\) .* contradict transformer \(in_channels 32,",
        ),
    ],
)
def test_configs_that_contradict_one_another_are_named(
    toy: str, file: str, changes: dict[str, int], message: str, tmp_path: Path
) -> None:
    """Shapes that do not fit are a mistake in the configs: the component that failed, the ones that
    it may contradict, the reason, the next step.
    """
    spec = save_toy(toy, tmp_path)
    rewrite(spec, f"{file}/config.json", **changes)
    with pytest.raises(ConfigMismatchError, match=f"Pipeline: the config of {message}") as caught:
        run_shapes(spec)
    assert "RuntimeError: " in str(caught.value)
    assert str(caught.value).endswith(
        "copy the wrong config again, or report the pipeline if it runs with its weights"
    )


def test_with_weights_a_run_judges_the_configs(
    evaluator: Evaluator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A suspicion about configs does not stop a search of a model that runs."""

    def suspect(_spec: StudySpec) -> None:
        raise ConfigMismatchError("suspicious")

    monkeypatch.setattr(workflow, "run_shapes", suspect)
    prepared = workflow.prepare(evaluator.spec, workflow.SearchRequest(cache_folder=tmp_path))
    assert prepared.table.linears == evaluator.profile().linears


def test_a_config_of_another_class_is_refused(bare: StudySpec) -> None:
    """The class that a config was written by is the one that the index names; the name that
    PixArt's once had is excused.
    """
    rewrite(bare, "transformer/config.json", _class_name="SD3Transformer2DModel")
    with pytest.raises(
        PipelineError,
        match=(
            r"names FluxTransformer2DModel for transformer, and .*config.json is of"
            r" 'SD3Transformer2DModel'; allowed"
        ),
    ):
        run_shapes(bare)
    rewrite(bare, "transformer/config.json", _class_name="Transformer2DModel")
    assert run_shapes(bare).table.linears


def test_a_vae_decodes_in_tiles_where_the_study_says_so(
    tiny_study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`model.vae_tiling` is honoured with and without weights, is part of what decides a picture,
    and is refused where the VAE cannot.
    """
    plain = load_spec(tiny_study)
    tiled = plain.model_copy(update={"model": plain.model.model_copy(update={"vae_tiling": True})})
    before, after = load_pipeline(plain, device="cpu"), load_pipeline(tiled, device="cpu")
    assert [loaded.pipe.vae.use_tiling for loaded in (before, after)] == [False, True]
    assert build_skeleton(tiled).vae.use_tiling
    stamp = dict.fromkeys(("torch", "torchao", "diffusers", "transformers", "device_type"), "")
    assert painting_key(after, stamp) == painting_key(before, stamp) | {"vae_tiling": True}

    def refuse(_vae: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(type(after.pipe.vae), "enable_tiling", refuse)
    for make in (lambda: load_pipeline(tiled, device="cpu"), lambda: build_skeleton(tiled)):
        with pytest.raises(
            SpecError,
            match=(
                r"`model.vae_tiling` is true, and the FluxPipeline has a vae of class"
                r" AutoencoderKL, which does not .*take the line out"
            ),
        ):
            make()


def test_a_hub_that_does_not_answer_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Config files that cannot be fetched are the user's to get."""
    monkeypatch.setattr(blueprint, "hub_answers", lambda: False)
    with pytest.raises(
        PipelineError,
        match=(
            r"config files of nobody/nothing could not be loaded from .* \(the Hub does not answer"
        ),
    ):
        run_shapes(resolve_spec("nobody/nothing"))


def test_a_run_that_fails_says_how_far_it_got(
    bare: StudySpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error inside the networks is no mistake of the user's: components and the last Linear are
    named.
    """
    from diffusers.models.transformers.transformer_flux import FluxSingleTransformerBlock

    monkeypatch.setattr(FluxSingleTransformerBlock, "forward", lambda *_a, **_k: 1 / 0)
    with pytest.raises(
        MeasurementError,
        match=(
            r"ZeroDivisionError.*text_encoder_2 1 x, transformer 1 x; the last Linear reached was"
        ),
    ):
        run_shapes(bare)


# the parts


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_stand_in_counts_tokens(side: str) -> None:
    """Padded texts have the asked length and as many attended tokens as declared; others are as
    long as declared.
    """
    tokenizer = StandInTokenizer(prompt_tokens=5, negative_prompt_tokens=2, max_length=8)
    tokenizer.padding_side = side
    tokenizer.dropped_tokens = 1
    texts = [f"<s> {PROMPT} </s>", ""]
    padded = tokenizer(texts, padding="max_length", return_tensors="pt")
    assert padded.input_ids.shape == (2, 8)
    assert padded["attention_mask"].sum(1).tolist() == [6, 3]
    assert bool(padded.attention_mask[1, -1]) == (side == "left")
    assert tokenizer(texts, padding=True, return_tensors="pt").input_ids.shape == (2, 6)
    assert [len(ids) for ids in tokenizer(texts).input_ids] == [6, 3]
    assert len(tokenizer(texts[0], truncation=True, max_length=4).input_ids) == 4
    chat = [{"role": "user", "content": [{"type": "text", "text": PROMPT}]}]
    assert PROMPT in tokenizer.apply_chat_template(chat, tokenize=False)
    assert tokenizer.apply_chat_template([chat, chat], return_tensors="pt").input_ids.shape == (
        2,
        6,
    )


def test_values_stay_where_they_are_cheap() -> None:
    """What touches no weight is real; masks select as many rows as they have; what has no value
    answers as the module says.
    """
    linear = nn.Linear(4, 3, device="meta")
    mask = torch.tensor([[True, True, False], [True, False, False]])
    with torch.no_grad(), ShapeMode() as mode, mode.counting("net"):
        y = linear(torch.zeros(2, 3, 4))
        assert y.is_meta
        assert y[mask].shape == (3, 3)
        assert y.to("cpu").is_meta
        assert torch.arange(3, device=y.device).tolist() == [0, 1, 2]
        assert torch.tensor([1.5], device=y.device).item() == 1.5
        assert y.new_ones(2).tolist() == [1, 1]
        assert mask.to(y.device).sum().item() == 3
        assert torch.zeros(REAL_ELEMENTS + 1, device=y.device).is_meta
        assert not torch.isnan(y).any()
        assert torch.isfinite(y).all()
        kept = torch.zeros(2, 3, 3)
        kept.copy_(y)
        assert not kept.is_meta
        with torch.autocast(y.device.type, enabled=False):
            pass
    assert mode.tally["net"]["linear_flops"] == 2 * 6 * 4 * 3


def test_values_that_nobody_keeps_are_not_computed() -> None:
    """Noise of terabytes and a mask of a million times a million tokens cost nothing."""
    with torch.no_grad(), ShapeMode():
        noise = torch.randn(10**6, 10**6, generator=torch.Generator().manual_seed(0), device="cpu")
        ids = torch.arange(10**6)
        mask = ids[:, None] <= ids[None, :]
        expanded = ids[:, None].expand(-1, 10**6) + 1
    assert [x.is_meta for x in (noise, ids, mask, expanded)] == [True, False, True, True]
    assert [tuple(x.shape) for x in (noise, mask, expanded)] == [(10**6, 10**6)] * 3


def test_convolutions_and_attention_are_counted() -> None:
    """MACs of convolutions, plain, grouped and transposed, and the shape of attention with fewer
    key heads.
    """
    with torch.no_grad(), ShapeMode() as mode, mode.counting("net"):
        nn.Conv2d(4, 6, 3, groups=2, device="meta")(torch.zeros(1, 4, 5, 5))
        nn.ConvTranspose1d(4, 6, 2, stride=2, device="meta")(torch.zeros(1, 4, 5))
        q, k = torch.empty(2, 8, 5, 16, device="meta"), torch.empty(2, 2, 7, 16, device="meta")
        out = nn.functional.scaled_dot_product_attention(q, k, k, enable_gqa=True)
    assert out.shape == (2, 8, 5, 16)
    assert mode.tally["net"]["conv_flops"] == 2 * 9 * 6 * 2 * 9 + 2 * 5 * 4 * 6 * 2
    assert mode.tally["net"]["attention", 2, 8, 5, 7, 16] == 1


def test_the_peak_counts_what_lives_at_once() -> None:
    """Tensors that died no longer count; arguments do."""
    with torch.no_grad(), ShapeMode() as mode:
        x = torch.empty(1000, device="meta")
        with mode.counting("net", [x]):
            for _ in range(5):
                x = x * 2
    assert mode.peak_bytes["net"] == 3 * 4000  # the argument, the last and the new one


def test_malformed_counts_are_refused() -> None:
    """A census that is none is the user's mistake, by the name of its key."""
    good = RunCounts(components=(ComponentCounts(component="vae", calls=1),)).to_json()
    assert RunCounts.from_json(good).component("vae").calls == 1
    good["components"][0]["calls"] = -1
    with pytest.raises(UserError, match=r"Malformed counts: components\.0\.calls"):
        RunCounts.from_json(good)
    with pytest.raises(UserError, match="no counts of 'unet'; allowed are none"):
        RunCounts().component("unet")
