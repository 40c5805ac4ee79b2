"""On a CUDA device text encoders, denoiser and VAE take turns. The peak of memory is that of the
larger turn and below the prediction, and pictures stay the same.

python -m pytest tests/gpu/test_loading_gpu.py -m gpu -s
"""

import json
import shutil
from pathlib import Path

import pytest
import torch

from sensitivity.core.devices import free_bytes
from sensitivity.models.generating import MediaGenerator
from sensitivity.models.loading import LoadedPipeline, load_pipeline
from sensitivity.shapes.run import run_shapes
from sensitivity.spec.loading import resolve_spec
from sensitivity.spec.overrides import with_net, with_random_weights
from sensitivity.spec.shipped import studies_folder
from sensitivity.spec.study_spec import ModelSection, StudySpec
from sensitivity.workflows.sizing import estimate_sizes

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

SMALLER = {
    "transformer": {"num_layers": 2, "num_single_layers": 2},
    "text_encoder_2": {"num_layers": 6},
}
SETTINGS = {"height": 256, "width": 256, "num_inference_steps": 2}


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> StudySpec:
    """FLUX.1-dev with full width and few blocks: 1.9 GB of denoiser, 2.6 GB of text encoders,
    random weights.
    """
    folder = tmp_path_factory.mktemp("flux") / "pipeline"
    shutil.copytree(studies_folder() / "flux1-dev", folder)
    for part, changes in SMALLER.items():
        path = folder / part / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    whole = resolve_spec("flux1-dev")
    few = whole.prompts.model_copy(
        update={"search": whole.prompts.search[:3], "held_out": whole.prompts.held_out[:1]}
    )
    small = whole.model_copy(
        update={
            "model": ModelSection(path=folder),
            "settings": whole.settings | SETTINGS,
            "prompts": few,
            "name": "small-flux",
        }
    )
    return with_net(with_random_weights(small), "tiny")


def weights(loaded: LoadedPipeline, *names: str) -> int:
    """Bytes of components' parameters."""
    return sum(
        p.numel() * p.element_size()
        for name in names
        for p in getattr(loaded.pipe, name).parameters()
    )


def on_gpu(loaded: LoadedPipeline) -> set[str]:
    """Components with parameters on the GPU."""
    parts = {
        name: part
        for name, part in loaded.pipe.components.items()
        if isinstance(part, torch.nn.Module)
    }
    return {
        name
        for name, part in parts.items()
        if any(p.device.type == "cuda" for p in part.parameters())
    }


def generate(loaded: LoadedPipeline, batch_size: int) -> torch.Tensor:
    """Pictures of the first three search prompts."""
    return MediaGenerator(loaded).generate_pictures(
        loaded.spec.prompts.search[:3], [0, 1, 2], batch_size=batch_size
    )


def test_parts_take_turns_and_the_peak_is_the_larger_one(spec: StudySpec) -> None:
    """Encoders and denoiser are never on the GPU together, the denoiser runs alone, and the
    predicted peak is not exceeded.
    """
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    loaded = load_pipeline(spec, device="cuda")
    text, denoiser = (
        weights(loaded, "text_encoder", "text_encoder_2"),
        weights(loaded, "transformer"),
    )
    loading = torch.cuda.max_memory_allocated() - before
    assert loaded.text is not None
    assert loaded.text.works
    assert on_gpu(loaded) == {"transformer"}
    assert torch.cuda.memory_allocated() - before < denoiser * 1.05
    assert loading < max(text, denoiser) * 1.2 < text + denoiser
    seen: list[set[str]] = []
    hook = loaded.denoiser.register_forward_pre_hook(lambda *_: seen.append(on_gpu(loaded)))
    torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        pictures = generate(loaded, 3)
    hook.remove()
    assert all(one == {"transformer"} for one in seen)
    assert on_gpu(loaded) == {"transformer", "vae"}
    assert pictures.isfinite().all()
    sizes = estimate_sizes(run_shapes(spec, batch_size=3), batch_size=3, device="cuda")
    generating = torch.cuda.max_memory_allocated() - before
    print(
        f"loading {loading / 1e9:.2f} GB (text {text / 1e9:.2f}, denoiser {denoiser / 1e9:.2f}),"
        f" generating {generating / 1e9:.2f} GB"
    )
    print({stage.name: round(stage.nbytes / 1e9, 2) for stage in sizes.stages})
    assert generating < sizes.peak.nbytes


def test_pictures_are_those_of_a_resident_pipeline(spec: StudySpec) -> None:
    """Components that take turns change no bit of a picture that is generated alone; an unknown
    text loads the encoders, and they are unloaded again.
    """
    plain, turns = (
        load_pipeline(spec, device="cuda", resident=True),
        load_pipeline(spec, device="cuda"),
    )
    assert torch.equal(generate(plain, 1), generate(turns, 1))
    text = ["a text that the study does not have"]
    assert torch.equal(
        MediaGenerator(plain).generate_pictures(text, [0], batch_size=1),
        MediaGenerator(turns).generate_pictures(text, [0], batch_size=1),
    )
    assert "text_encoder_2" not in on_gpu(turns)


def test_a_saved_pipeline_is_read_to_the_device(tiny_folder: Path) -> None:
    """Weights of files are on the GPU, bit for bit, without hooks of accelerate."""
    study = StudySpec(
        name="tiny",
        model=ModelSection(path=tiny_folder),
        settings={"height": 64, "width": 64, "num_inference_steps": 1},
    )
    here, there = (load_pipeline(study, device=device) for device in ("cpu", "cuda"))
    assert all(
        torch.equal(a, b.cpu())
        for a, b in zip(here.denoiser.parameters(), there.denoiser.parameters(), strict=True)
    )
    assert not any(hasattr(part, "_hf_hook") for part in there.denoiser.modules())
    assert generate(there, 3).isfinite().all()


def test_free_memory_is_what_cuda_says() -> None:
    """It is the number of `torch.cuda.mem_get_info`."""
    assert free_bytes("cuda") == torch.cuda.mem_get_info("cuda")[0]
