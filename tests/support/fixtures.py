"""Fixtures of all tests: a random FluxPipeline that generates a picture in a second, a study of it,
and an Evaluator of that study.

The pipeline has every kind of Linear that tiny-flux has, in two double and three single blocks,
with random weights: its pictures mean nothing, but they change when a Linear is quantized. Its
autoencoder is narrow. Scenes and networks come from `studies/tiny-flux/training`.

`tests/conftest.py` loads this module where tests run.
"""

import json
import os
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from optuna.storages._rdb import storage
from sqlalchemy import Engine, event

from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.fidelity.judges.panel import Panel
from sensitivity.fidelity.judges.wishes import JudgeWishes
from sensitivity.latency.timing import run_timing
from sensitivity.models.loading import LoadedPipeline, load_pipeline
from sensitivity.search import store
from sensitivity.search.calibration import choosing
from sensitivity.search.calibration.jobs import EstimatorName
from sensitivity.shapes.run import run_shapes
from sensitivity.shapes.shape_run import ShapeRun
from sensitivity.spec.loading import load_spec
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows import comparing, conclude, plan, prepare

from support.clip_pipelines import save_ltx2
from support.media import changed
from support.paths import TRAINING, TRUNK

# One thread, here and in every process that a test starts: the tiny pipeline's operations take
# microseconds, threads that wait for a busy core take far longer, and results are compared bit for
# bit.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


@event.listens_for(Engine, "connect")
def without_fsync(connection: object, _record: object) -> None:
    """Let SQLite not wait for the disk after each commit: only a power cut could lose data then."""
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous = OFF")


@pytest.fixture(scope="session", autouse=True)
def without_native_rounding() -> Iterator[None]:
    """Let searches not measure native rounding, which costs each of them two trials more. The tests
    of it put it back.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conclude, "native_rounding", lambda *_parts, **_options: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def own_spool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let results that a database refuses wait in a folder of the tests, not in the user's."""
    folder = tmp_path_factory.mktemp("spool")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "default_spool_folder", lambda: folder)
        yield


@pytest.fixture(scope="session", autouse=True)
def one_pass_for_all_groups() -> Iterator[None]:
    """Let searches calibrate by gradients, which take two passes: a rollout takes one a group. The
    tests of it put it back.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choosing, "DEFAULT", EstimatorName.GRADIENT)
        yield


@pytest.fixture(scope="session", autouse=True)
def one_call_a_burst() -> Iterator[None]:
    """Let a timed repetition be one call: what it takes on a CPU says nothing anyway."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_timing, "BURST_S", 0.0)
        yield


@pytest.fixture(scope="session", autouse=True)
def judges_look_where_asked() -> Iterator[None]:
    """Let judges look at what a search draws only where a test asks for one, since they read models
    of their own. `tests/fidelity/judges` tests which look by default.
    """
    plain = comparing.Panel

    def panel(wishes: JudgeWishes, **more: Any) -> Panel:
        asked = wishes.asked if wishes.required else ("none",)
        return plain(replace(wishes, asked=asked), **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparing, "Panel", panel)
        yield


@pytest.fixture(scope="session", autouse=True)
def shapes_known() -> Iterator[None]:
    """Let a search or its plan not run a study without weights that was run so before, with the
    same config files: most searches here are of one study. `tests/shapes` tests such runs.
    """
    known: dict[object, ShapeRun] = {}

    def once(spec: StudySpec, **how: Any) -> ShapeRun:
        folders = (spec.model.path, spec.model.config)
        files = [file for folder in folders if folder for file in sorted(folder.rglob("*.json"))]
        stamps = tuple((file, file.stat().st_mtime_ns) for file in files)
        key = (spec.model_dump_json(), tuple(how.items()), stamps)
        if key not in known:
            known[key] = run_shapes(spec, **how)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        for module in (prepare, plan):
            patch.setattr(module, "run_shapes", once)
        yield


@pytest.fixture(scope="session", autouse=True)
def files_without_fsync() -> Iterator[None]:
    """Let files not wait for the disk either."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _file: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> Iterator[None]:
    """Let SIGINT raise KeyboardInterrupt, also where the tests run in the background: a shell
    starts such a process with SIGINT ignored.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session", autouse=True)
def migrations_read_once() -> Iterator[None]:
    """Let Optuna read its 30 migration scripts once a process, not for each database."""
    manager = storage._VersionManager
    script = manager._create_alembic_script
    with pytest.MonkeyPatch.context() as patch:
        once: list[object] = []

        def read_once(self: object) -> object:
            once[:] = once or [script(self)]
            return once[0]

        patch.setattr(manager, "_create_alembic_script", read_once)
        yield


@pytest.fixture(autouse=True)
def gradients_left_on() -> Iterator[None]:
    """Fail the test that leaves torch's gradients off, not a later one that needs them."""
    yield
    left_on = torch.is_grad_enabled()
    torch.set_grad_enabled(True)
    assert left_on


STUDY = """\
name = "tiny-random"
title = "a random FluxPipeline for tests"

[model]
path = {folder}
weights = "pretrained"

[settings]
height = 64
width = 64
num_inference_steps = 2
guidance_scale = 3.5
max_sequence_length = 32

[fidelity]
net = "tiny"
weights = {trunk}

[search]
batch_size = 3
depth_bands = 2

[pricing]
stands_for = 32

[prompts]
seed = 0
held_out_seed = 1000
search = [
  "a small red circle top left on a plain grey background",
  "a large blue star in the centre on a checked pink background",
  "a ring",
]
held_out = [
  "a large green square top right on a plain navy background",
  "a small white cross bottom left on a plain mint background",
  "a star",
]
"""


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder:

    FluxPipeline in bf16, random weights, two double and three single blocks.
    """
    sys.path.insert(0, str(TRAINING))
    try:
        from networks import untrained_pipeline  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(TRAINING))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipe = untrained_pipeline()
        denoiser = pipe.transformer
        pipe.transformer = type(denoiser).from_config(
            {**denoiser.config, "num_layers": 2, "num_single_layers": 3}
        )
        # a third of the time that decoding takes with tiny-flux's own
        pipe.vae = type(pipe.vae).from_config(
            {**pipe.vae.config, "block_out_channels": (16, 32, 32)}
        )
    folder = tmp_path_factory.mktemp("tiny") / "pipeline"
    pipe.to(dtype=torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_study(tiny_folder: Path) -> Path:
    """A study TOML of `tiny_folder`: 3 search and 3 held-out prompts, 64 x 64 pixels, 2 steps,
    batch 3, net tiny.
    """
    path = tiny_folder.parent / "tiny-random.toml"
    path.write_text(
        STUDY.format(folder=json.dumps(str(tiny_folder)), trunk=json.dumps(str(TRUNK))),
        encoding="utf-8",
    )
    return path


@pytest.fixture(scope="session")
def ltx2(tmp_path_factory: pytest.TempPathFactory) -> LoadedPipeline:
    """A loaded LTX-2 pipeline of clips with sound, small and random."""
    study = save_ltx2(tmp_path_factory.mktemp("clips") / "ltx2")
    return load_pipeline(load_spec(study), device="cpu")


@pytest.fixture(scope="session")
def clip_references(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the references of `ltx2` are kept for all tests."""
    return tmp_path_factory.mktemp("references")


@pytest.fixture
def make_clip_evaluator(
    ltx2: LoadedPipeline, clip_references: Path
) -> Iterator[Callable[..., Evaluator]]:
    """Makes an Evaluator of `ltx2` whose study says other things, as `make(fidelity={"net": ...})`.

    Only the last one that was made may be used. All tests share one cache of references.
    """
    made: list[Evaluator] = []

    def make(**sections: dict[str, Any]) -> Evaluator:
        for old in made:
            old.close()
        spec = changed(ltx2.spec, **sections)
        made.append(Evaluator(replace(ltx2, spec=spec), cache_folder=clip_references))
        return made[-1]

    yield make
    for last in made[-1:]:
        last.close()


@pytest.fixture
def evaluator(tiny_study: Path, tmp_path: Path) -> Iterator[Evaluator]:
    """An Evaluator of `tiny_study` with an empty cache of references."""
    made = Evaluator(
        load_pipeline(load_spec(tiny_study), device="cpu"), cache_folder=tmp_path / "references"
    )
    yield made
    made.close()
