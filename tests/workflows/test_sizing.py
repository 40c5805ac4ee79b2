"""What is predicted to be on a device together, against sums by hand; what is free there; and the
message for what does not fit.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from sensitivity.core.devices import free_bytes
from sensitivity.errors import UserError
from sensitivity.shapes.census import ComponentCounts, RunCounts
from sensitivity.shapes.run import ShapeRun
from sensitivity.shapes.table import ShapeTable
from sensitivity.spec.study_spec import ModelSection, SearchSection, StudySpec
from sensitivity.workflows import sizing
from sensitivity.workflows.sizing import CUDA_BYTES, SLACK, check_fits, estimate_sizes

GB = 10**9
COUNTS = {  # {component: (GB of weights, GB of activations)}
    "text_encoder": (10, 1),
    "connectors": (2, 4),
    "transformer": (20, 2),
    "transformer_2": (20, 2),
    "vae": (1, 3),
    "vocoder": (0.5, 0.1),
}


@pytest.fixture
def spec() -> StudySpec:
    """Four pictures together."""
    return StudySpec(
        name="toy", model=ModelSection(hub="org/toy"), search=SearchSection(batch_size=4)
    )


@pytest.fixture
def run() -> ShapeRun:
    """Two denoisers of a class, a text encoder, something between, a VAE and a vocoder; counted for
    two pictures.
    """
    parts = tuple(
        ComponentCounts(
            component=name,
            calls=1,
            weight_bytes=int(weights * GB),
            peak_activation_bytes=int(active * GB),
        )
        for name, (weights, active) in COUNTS.items()
    )
    table = ShapeTable(
        model="toy",
        batch_size=2,
        settings={},
        linears=(),
        uncalled=(),
        run=RunCounts(components=parts),
    )
    return ShapeRun(
        table=table,
        calls=(),
        repeated_blocks=(),
        other_denoisers=("transformer_2",),
        text_encoders=("text_encoder",),
        coders=("vae",),
    )


def stages(spec: StudySpec, run: ShapeRun, device: str, **more: int) -> dict[str, float]:
    """{stage: GB}, whatever is free."""
    return {
        stage.name: stage.nbytes / GB
        for stage in estimate_sizes(spec, run, device=device, free=0, **more).stages
    }


def test_on_a_gpu_parts_take_turns(spec: StudySpec, run: ShapeRun) -> None:
    """Text encoders come first, one prompt at a time; then both denoisers and what is in neither
    camp; then also the VAE. Activations grow with the batch.
    """
    cuda = CUDA_BYTES / GB
    assert stages(spec, run, "cuda") == pytest.approx(
        {
            "encoding text": 10 + 2.5 + 4 * SLACK / 2 + cuda,
            "denoising": 40 + 2.5 + 4 * SLACK * 2 + cuda,
            "decoding": 40 + 2.5 + 1 + 3 * SLACK * 2 + cuda,
        }
    )


def test_on_the_cpu_all_parts_are_there(spec: StudySpec, run: ShapeRun) -> None:
    """Everything at once, and nothing for CUDA."""
    assert stages(spec, run, "cpu") == pytest.approx({"all together": 53.5 + 4 * SLACK * 2})


def test_quantized_weights_and_batches_are_counted(spec: StudySpec, run: ShapeRun) -> None:
    """A cache of quantized weights stands beside the denoisers; a batch of one has a quarter of the
    activations of four.
    """
    plain = stages(spec, run, "cuda")
    cached = stages(spec, run, "cuda", weight_cache_bytes=7 * GB)
    assert {name: cached[name] - plain[name] for name in plain} == pytest.approx(
        {"encoding text": 0, "denoising": 7, "decoding": 7}
    )
    alone = stages(spec, run, "cuda", batch_size=1)
    assert plain["decoding"] - alone["decoding"] == pytest.approx(3 * SLACK * 1.5)


def test_what_fits_says_what_room_is_left(spec: StudySpec, run: ShapeRun) -> None:
    """Nine tenths of what the peak leaves may be filled."""
    sizes = estimate_sizes(spec, run, device="cuda", free=80 * GB)
    assert (sizes.fits, sizes.peak.name, sizes.batch_size) == (True, "denoising", 4)
    assert sizes.room_bytes == pytest.approx((80 * GB - sizes.peak.nbytes) * 0.9, abs=1)
    assert sizes.to_json()["stages"][1]["parts"]["transformer_2"] == 20 * GB


def test_prompts_bound_the_batch(spec: StudySpec, run: ShapeRun) -> None:
    """A batch is never larger than the longest list of prompts."""
    many = spec.model_copy(update={"search": SearchSection(batch_size=500)})
    assert estimate_sizes(many, run, device="cuda", free=0).batch_size == max(
        len(spec.prompts.search), len(spec.prompts.held_out)
    )


@pytest.mark.parametrize(
    ("device", "free", "helps"),
    [
        (
            "cuda",
            51,
            (
                r"`batch_size = 2` under \[search\] in a study TOML fits; a GPU with more memory"
                r" \(.*b200.*\); text encoders and decoders are off"
            ),
        ),
        ("cuda", 40, r"no smaller batch fits, a smaller picture may .*; a GPU with more memory"),
        (
            "cpu",
            60,
            (
                r"`batch_size = 2` under .* fits; a machine with more memory, or --device cuda,"
                r" where text encoders"
            ),
        ),
    ],
)
def test_what_does_not_fit_says_what_would_help(
    device: str,
    free: int,
    helps: str,
    spec: StudySpec,
    run: ShapeRun,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The message has what is needed, by part, what is free, and the largest batch that fits or
    that none does.
    """
    monkeypatch.setattr(sizing, "free_bytes", lambda _device: free * GB)
    need = estimate_sizes(spec, run, device=device).peak.nbytes / GB
    with pytest.raises(
        UserError,
        match=(
            rf"toy does not fit on {device}: .* needs about {need:.3g} GB with 4 pictures together"
            rf" .*{free} GB are free there: {helps}"
        ),
    ):
        check_fits(spec, run, device=device)


def test_no_gpu_of_that_size_is_said(
    spec: StudySpec, run: ShapeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that no known GPU holds."""
    parts = tuple(replace_weights(part, 400 * GB) for part in run.table.run.components)  # type: ignore[union-attr]
    huge = replace(run, table=replace(run.table, run=RunCounts(components=parts)))
    monkeypatch.setattr(sizing, "free_bytes", lambda _device: 80 * GB)
    with pytest.raises(UserError, match="no GPU that the package knows has as much"):
        check_fits(spec, huge, device="cuda")


def replace_weights(part: ComponentCounts, nbytes: int) -> ComponentCounts:
    """The counts with other weights."""
    return part.model_copy(update={"weight_bytes": nbytes})


def test_where_nobody_says_what_is_free_nothing_is_refused(
    spec: StudySpec, run: ShapeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then there is no room to name either."""
    monkeypatch.setattr(sizing, "free_bytes", lambda _device: None)
    sizes = check_fits(spec, run, device="cpu")
    assert (sizes.fits, sizes.room_bytes) == (True, None)


def test_free_memory_is_what_the_machine_and_its_container_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The smaller of MemAvailable and of the control group's limit less what it uses, pages of
    files apart; without either, what the system says of pages.
    """
    monkeypatch.setattr(sizing, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(sizing, "CGROUP", tmp_path)
    (tmp_path / "meminfo").write_text("MemTotal:       64000000 kB\nMemAvailable:   32000000 kB\n")
    assert free_bytes("cpu") == 32_000_000 * 1024
    (tmp_path / "memory.max").write_text("20000000000\n")
    (tmp_path / "memory.current").write_text("15000000000\n")
    (tmp_path / "memory.stat").write_text("anon 5000000000\nfile 9000000000\n")
    assert free_bytes("cpu") == 14 * GB
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes("cpu") == 32_000_000 * 1024
    (tmp_path / "meminfo").unlink()
    monkeypatch.setattr(
        sizing.os, "sysconf", {"SC_AVPHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}.__getitem__
    )
    assert free_bytes("cpu") == 4_096_000
