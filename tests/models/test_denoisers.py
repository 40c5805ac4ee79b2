"""Several denoisers of a pipeline are one module, which the pipeline does not know of."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.models.denoisers import joined, parts_of
from sensitivity.models.generating import MediaGenerator
from sensitivity.models.loading import load_pipeline
from sensitivity.spec.study_spec import StudySpec

from support.two_denoisers import NAMES, NVFP4, linears, save_two_denoisers


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("two")


@pytest.fixture(scope="module")
def spec(folder: Path) -> StudySpec:
    return save_two_denoisers(folder)


@pytest.fixture
def evaluator(spec: StudySpec, folder: Path) -> Iterator[Evaluator]:
    made = Evaluator(load_pipeline(spec, device="cpu"), cache_folder=folder / "references")
    yield made
    made.close()


def test_one_denoiser_stays_what_it_is() -> None:
    """Alone it is the module itself, with its own names; two are held as they are, under their
    components' names, in the order given.
    """
    one, two = nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2))
    assert joined({"transformer": one}) is one
    assert parts_of(one) == {"": one}
    both = joined({"b": two, "a": one})
    assert linears(both) == ["b.0", "a"]
    assert parts_of(both) == {"b": two, "a": one}
    assert both.get_parameter("a.weight") is one.weight


def test_the_pipeline_keeps_its_modules(spec: StudySpec) -> None:
    """What is studied are the pipeline's own transformers, which it still calls, each for two of
    the four steps; the pipeline has no further component.
    """
    loaded = load_pipeline(spec, device="cpu")
    assert parts_of(loaded.denoiser) == {name: getattr(loaded.pipe, name) for name in NAMES}
    calls: list[str] = []
    for name, part in parts_of(loaded.denoiser).items():
        part.register_forward_pre_hook(lambda *_, name=name: calls.append(name))
    MediaGenerator(loaded).generate(["a ring"], [0], batch_size=1)
    assert calls == ["transformer"] * 4 + ["transformer_2"] * 4
    assert set(loaded.pipe.components) == {"tokenizer", "text_encoder", *NAMES, "vae", "scheduler"}


def test_both_are_loaded_after_the_text_is_encoded(spec: StudySpec, evaluator: Evaluator) -> None:
    """Where components take turns, as on a GPU, the studied modules are those that the pipeline
    calls, and clips are those of a pipeline that is loaded as a whole.
    """
    loaded = load_pipeline(spec, device="cpu", in_turn=True)
    assert parts_of(loaded.denoiser) == {name: getattr(loaded.pipe, name) for name in NAMES}
    other = Evaluator(loaded, cache_folder=Path("unused"))
    formats = dict.fromkeys([f"{name}.blocks.0.ffn.net.2" for name in NAMES], NVFP4)
    in_turn, whole = (x.generate(formats, "held_out").pictures for x in (other, evaluator))
    assert torch.equal(in_turn, whole)
    other.close()
