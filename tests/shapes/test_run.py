"""A run without weights has the shapes of a run with them, and follows its settings."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sensitivity.errors import PipelineError, UserError
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.models.random_weights import random_component
from sensitivity.models.skeleton import build_skeleton
from sensitivity.models.vae import enable_vae_tiling
from sensitivity.shapes.call_arguments import call_arguments
from sensitivity.shapes.recorder import record_linears
from sensitivity.shapes.run import run_shapes, with_options
from sensitivity.shapes.shape_run import ShapeRun
from sensitivity.shapes.table import ShapeTable
from sensitivity.spec.loading import load_spec, resolve_spec
from sensitivity.spec.overrides import RunOptions
from sensitivity.spec.study_spec import StudySpec

from support.shallow_studies import LAYERS, shallow
from support.shape_runs import shape_run
from support.toy_pipelines import TOYS, save_toy


def rows(run: ShapeRun) -> Counter[tuple[int, int]]:
    """{(M, calls): Linears}."""
    return Counter((linear.m, linear.calls) for linear in run.table.linears)


def changed(name: str, folder: Path, **options: Any) -> ShapeRun:
    """A study with two layers in a stack, run with the options of a command line."""
    spec = shallow(resolve_spec(name), folder / name)
    return run_shapes(with_options(spec, RunOptions(**options)))


def real_table(spec: StudySpec, batch: int = 1) -> tuple[ShapeTable, Any]:
    """The table of a run with random weights on the CPU, through plain hooks, and what the pipeline
    generated.
    """
    pipe = build_skeleton(spec)
    for name, part in pipe.components.items():
        if isinstance(part, nn.Module):
            setattr(pipe, name, random_component(spec, component=name, device="cpu"))
    enable_vae_tiling(spec, pipe)
    with torch.no_grad(), record_linears(getattr(pipe, spec.model.component)) as recorder:
        out = pipe(**call_arguments(spec, pipe, batch))
    return recorder.table(model=spec.name), getattr(out, "images", getattr(out, "frames", None))


def real(x: Any) -> Any:
    """Meta tensors as random ones, others as they are."""
    return torch.randn(x.shape, dtype=x.dtype) if isinstance(x, Tensor) and x.is_meta else x


def test_flux_has_its_linears() -> None:
    """FLUX.1-dev: 57 blocks, 28 calls each, M of pictures, texts, both and the batch."""
    image, text = (1024 // 16) ** 2, 512
    run = shape_run("flux1-dev")
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


def test_qwen_runs_twice_a_step(tmp_path: Path) -> None:
    """QwenImage: 14 Linears a layer, 50 steps, a forward for the prompt's 14 tokens and one for the
    negative prompt's 6.
    """
    run = changed("qwen-image", tmp_path)
    assert len(run.table.linears) == LAYERS * 14 + 6
    assert run.table.uncalled == ()
    texts = [linear for linear in run.table.linears if len(linear.m_values) > 1]
    assert {linear.m_values for linear in texts} == {((6, 50), (14, 50))}
    assert {(linear.m, linear.calls) for linear in run.table.linears if linear not in texts} == {
        (4096, 100),
        (1, 100),
    }
    assert sorted(call.calls for call in run.calls) == [50, 50]


def test_ltx2_has_three_streams(tmp_path: Path) -> None:
    """LTX-2: 28 Linears a layer, CFG in the batch, no further forwards."""
    run = changed("ltx2", tmp_path)
    video = 2 * (512 // 32) * (768 // 32) * ((121 - 1) // 8 + 1)
    audio = 2 * round(121 / 24 * 16000 / 160 / 4)
    assert (video, audio) == (12288, 252)
    assert set(rows(run)) == {(video, 40), (audio, 40), (2 * 1024, 40), (2, 40)}
    assert sum(rows(run).values()) == LAYERS * 28 + 26
    assert run.table.uncalled == ()
    assert [call.calls for call in run.calls] == [40]


def test_the_denoisers_calls_have_their_values() -> None:
    """Ids and timesteps come with values, text comes as a shape."""
    (call,) = shape_run("flux1-dev").calls
    assert call.kwargs["encoder_hidden_states"].shape == (1, 512, 4096)
    assert call.kwargs["encoder_hidden_states"].is_meta
    assert call.kwargs["img_ids"].max() == 63
    assert call.kwargs["timestep"].tolist() == [1.0]
    assert call.kwargs["hidden_states"].dtype == torch.bfloat16


def test_flux_follows_batch_size_and_steps(tmp_path: Path) -> None:
    """Twice the batch is twice the rows; text and picture keep their lengths."""
    run = changed("flux1-dev", tmp_path, batch_size=2, height=512, width=768, steps=5)
    image, text = 2 * (512 // 16) * (768 // 16), 2 * 512
    assert set(rows(run)) == {(image + text, 5), (image, 5), (text, 5), (2, 5)}
    assert (run.table.batch_size, run.table.settings["width"]) == (2, 768)


def test_qwen_follows_prompt_and_guidance(tmp_path: Path) -> None:
    """More tokens are more rows; without guidance there is one forward a step."""
    run = changed("qwen-image", tmp_path, prompt_tokens=33, guidance=1.0, steps=2)
    assert set(rows(run)) == {(4096, 2), (33, 2), (1, 2)}
    assert run.table.run is not None
    assert run.table.run.component("text_encoder").calls == 1


def test_ltx2_follows_frames_and_guidance(tmp_path: Path) -> None:
    """Frames change video and sound; without guidance the batch is one."""
    run = changed("ltx2", tmp_path, frames=17, guidance=1.0, steps=2)
    assert set(rows(run)) == {(16 * 24 * 3, 2), (round(17 / 24 * 25), 2), (1024, 2), (1, 2)}


def test_a_size_that_the_pipeline_rounds_is_said(bare: StudySpec) -> None:
    """The settings of the table hold the size that was generated, not the one that was asked."""
    spec = bare.model_copy(update={"settings": bare.settings | {"height": 90}})
    run = run_shapes(spec)
    assert run.table.settings["height"] == 88
    assert max(linear.m for linear in run.table.linears) == (88 // 8) * (64 // 8) + 32


def test_tiny_flux_without_weights_is_tiny_flux(evaluator: Evaluator) -> None:
    """The table of a run without weights has the Linears of the real run, row for row."""
    assert run_shapes(evaluator.spec).table.linears == evaluator.profile().linears


def test_config_files_are_enough(bare: StudySpec, tiny_study: Path) -> None:
    """Weights and tokenizers change nothing."""
    assert run_shapes(bare).table == run_shapes(load_spec(tiny_study)).table


def test_another_component_is_profiled_in_the_same_run(bare: StudySpec) -> None:
    """`component` chooses whose Linears and regions are shown; else the census is the same."""
    denoiser, text = run_shapes(bare), run_shapes(bare, component="text_encoder_2")
    counted = [run.table.run for run in (denoiser, text)]
    blocks = [counts.component("transformer").regions for counts in counted if counts]
    assert [bool(names) for names in blocks] == [True, False]
    without = {"regions": (), "region_kernels": 0}
    first, second = (
        [x.model_copy(update=without) for x in counts.components] for counts in counted if counts
    )
    assert first == second
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
    """The Linears of a run without weights are those of a real run, and it knows the size of what
    the real run generates.
    """
    spec = save_toy(name, tmp_path)
    run = run_shapes(spec)
    table, generated = real_table(spec)
    assert run.table.linears == table.linears
    assert run.table.uncalled == table.uncalled
    assert generated.isfinite().all()
    settings, (frames, height, width) = (
        run.table.settings,
        (generated.shape[i] for i in (1, -2, -1)),
    )
    assert (settings["height"], settings["width"]) == (height, width)
    assert settings.get("num_frames", frames) == frames


def test_a_batch_of_an_architecture_with_masks(tmp_path: Path) -> None:
    """Text lengths that come from masks follow the batch."""
    spec = save_toy("qwen", tmp_path)
    assert run_shapes(spec, batch_size=3).table.linears == real_table(spec, batch=3)[0].linears


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "flux1-dev",
            {"frames": 9},
            (
                r"`frames` sets num_frames, which the call of FluxPipeline does not have; expected"
                r" one of prompt,.*height"
            ),
        ),
        ("flux1-dev", {"settings": ("hieght=3",)}, "`settings` sets hieght, which the call"),
        ("flux1-dev", {"settings": ("height",)}, "`settings` 'height'; expected KEY=VALUE"),
        ("flux1-dev", {"settings": ("guidance_scale=Infinity",)}, "expected a finite number"),
        ("flux1-dev", {"steps": 0}, "`steps` is 0; expected 1 or more"),
        ("ltx2", {"frames": 0}, "`frames` is 0"),
        ("flux1-dev", {"height": -16}, "`height` is -16"),
        ("flux1-dev", {"prompt_tokens": 0}, "`prompt_tokens` is 0"),
        ("flux1-dev", {"batch_size": 0}, "`batch_size` is 0"),
        ("flux1-dev", {"batch_size": 10**8}, "`batch_size` is 100000000; expected 65536 or less"),
        ("flux1-dev", {"height": 10**12}, "`height` is 1000000000000; expected 65536 or less"),
        ("flux1-dev", {"guidance": float("nan")}, "`guidance` is nan"),
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


def test_a_component_that_is_not_there_is_refused(bare: StudySpec) -> None:
    """The message lists the components that are."""
    with pytest.raises(PipelineError, match=r"no module 'unet'; expected one of .*transformer"):
        run_shapes(bare, component="unet")
    with pytest.raises(
        PipelineError, match=r"no module 'tokenizer'; expected one of .*transformer"
    ):
        random_component(bare, component="tokenizer", device="cpu")
