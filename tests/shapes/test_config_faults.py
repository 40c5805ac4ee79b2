"""A run without weights that fails says whether settings, configs or the networks are to blame."""

from pathlib import Path
from typing import Any

import diffusers
import pytest

from sensitivity.errors import (
    ConfigMismatchError,
    MeasurementError,
    MissingPackageError,
    PipelineError,
)
from sensitivity.shapes.run import run_shapes
from sensitivity.spec.study_spec import StudySpec

from support.bare_pipelines import rewrite
from support.toy_pipelines import save_toy


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"height": 1}, "generates nothing|does not run"),
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
    ("reason", "message"),
    [
        ("`prompt` has to be of type `str` but is <class 'list'>", "takes one text in a call"),
        ("Only the output types `pil` and `mesh` are supported", "as tensors .*; expected"),
    ],
)
def test_what_a_study_cannot_change_is_no_fault_of_its_settings(
    reason: str, message: str, bare: StudySpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipeline of one text, or of no pictures, is refused as such."""

    def refuse(*_args: Any, **_kwargs: Any) -> None:
        raise ValueError(reason)

    monkeypatch.setattr(diffusers.FluxPipeline, "encode_prompt", refuse)
    with pytest.raises(PipelineError, match=message) as caught:
        run_shapes(bare)
    assert "[settings]" not in str(caught.value)


def test_a_package_that_is_missing_is_named(
    bare: StudySpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipeline that calls what was not imported needs that package, not other settings."""
    lines = "def check(*args, **kwargs):\n    return no_such_package.fix_text('a')"
    names: dict[str, Any] = {"__name__": "diffusers.pipelines.flux"}
    exec(lines, names)
    monkeypatch.setattr(diffusers.FluxPipeline, "encode_prompt", names["check"])
    with pytest.raises(MissingPackageError, match="FluxPipeline needs the package no-such-package"):
        run_shapes(bare)


def test_a_folder_without_a_needed_component_is_refused(bare: StudySpec) -> None:
    """A pipeline whose index names no VAE is incomplete, not a fault of ours."""
    rewrite(bare, "model_index.json", vae=[None, None])
    with pytest.raises(PipelineError, match=r"does not run without one of .*vae"):
        run_shapes(bare)


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
def test_configs_that_contradict_each_other_are_named(
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
