"""Latents after each step are those of the pipeline's own run, and nothing is decoded or left."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from sensitivity.errors import CalibrationError
from sensitivity.models.generating import MediaGenerator
from sensitivity.models.loading import LoadedPipeline, load_pipeline
from sensitivity.models.step_latents import refusal, run_steps
from sensitivity.spec.loading import load_spec

TEXTS, SEEDS = ["a red ring", "a blue star"], [0, 1]


def steps_of(generator: MediaGenerator, steps: int) -> list[tuple[Tensor, ...]]:
    """The latents after each step of a run of two prompts."""
    found: list[tuple[Tensor, ...]] = []
    with torch.no_grad():
        done = run_steps(
            generator,
            TEXTS,
            SEEDS,
            steps=steps,
            after_step=lambda step, latents: found.insert(step, tuple(x.clone() for x in latents)),
        )
    assert done == len(found)
    return found


def inputs_of(loaded: LoadedPipeline, *names: str) -> list[tuple[Tensor, ...]]:
    """What the denoiser is given in each call of a plain run of the two prompts."""
    calls: list[tuple[Tensor, ...]] = []
    handle = loaded.denoiser.register_forward_pre_hook(
        lambda _m, _a, kwargs: calls.append(tuple(kwargs[name].clone() for name in names)),
        with_kwargs=True,
    )
    MediaGenerator(loaded).generate(TEXTS, SEEDS, batch_size=2)
    handle.remove()
    return calls


def test_steps_of_pictures_are_those_of_the_pipeline(
    tiny_study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the first step the latents are what the second one begins with, after the last they are
    what diffusers returns as latents; the VAE is never asked, and nothing stays on the pipeline.
    """
    loaded = load_pipeline(load_spec(tiny_study), device="cpu")
    generator = MediaGenerator(loaded)
    ((first,), (second,)) = inputs_of(loaded, "hidden_states")
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    settings: dict[str, Any] = {**loaded.spec.settings, "output_type": "latent"}
    with torch.no_grad():
        final = loaded.pipe(prompt=TEXTS, generator=generators, **settings).images
    monkeypatch.setattr(loaded.pipe.vae, "decode", lambda *_a, **_k: pytest.fail("decoded"))
    for steps, expected in ((1, [second]), (2, [second, final]), (9, [second, final])):
        if steps == 9:  # more than there are: the run goes on to its end
            monkeypatch.undo()
        found = steps_of(generator, steps)
        assert [len(latents) for latents in found] == [1] * len(expected)
        assert all(torch.equal(a, b) for (a,), b in zip(found, expected, strict=True))
    assert not torch.equal(first, second)
    assert "_callback_tensor_inputs" not in vars(loaded.pipe)


def test_steps_of_sound_are_seen_beside_those_of_pictures(ltx2: LoadedPipeline) -> None:
    """LTX-2's callback has the latents of the clip alone; those of its sound come too."""
    calls = inputs_of(ltx2, "hidden_states", "audio_hidden_states")
    (found,) = steps_of(MediaGenerator(ltx2), 1)
    assert len(calls) == len(found) == 2
    assert all(torch.equal(a.to(b), b) for a, b in zip(found, calls[1], strict=True))
    assert "_callback_tensor_inputs" not in vars(ltx2.pipe)


@pytest.mark.parametrize("tuples", [True, False])
def test_a_pipeline_without_a_callback_is_seen_through_its_scheduler(tuples: bool) -> None:
    """What each scheduler step returns are the latents, as a tuple or as an output."""

    class Scheduler:
        def step(self, sample: Tensor) -> Any:
            return (sample + 1,) if tuples else SimpleNamespace(prev_sample=sample + 1)

    class Pipe:
        def __init__(self) -> None:
            self.scheduler = Scheduler()

        def __call__(self) -> None:
            sample = torch.zeros(2, 3)
            for _ in range(3):
                result = self.scheduler.step(sample)
                sample = result[0] if tuples else result.prev_sample

    pipe = Pipe()
    generator: Any = SimpleNamespace(
        loaded=SimpleNamespace(pipe=pipe), generate=lambda *_a, **_k: pipe()
    )
    assert [float(latents[0].mean()) for latents in steps_of(generator, 2)] == [1, 2]
    assert [float(latents[0].mean()) for latents in steps_of(generator, 5)] == [1, 2, 3]
    assert "step" not in vars(pipe.scheduler)


def test_a_pipeline_whose_steps_nobody_sees_is_refused() -> None:
    """With neither callback nor scheduler the message says what is missing."""

    class Pipe:
        def __call__(self) -> None:
            """Do nothing."""

    words = "the Pipe has neither `callback_on_step_end` nor a scheduler with a `step`"
    assert words in str(refusal(Pipe()))
    generator: Any = SimpleNamespace(loaded=SimpleNamespace(pipe=Pipe()))
    with pytest.raises(CalibrationError, match=words):
        steps_of(generator, 1)
