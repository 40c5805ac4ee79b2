"""What is predicted to be on a device together, against sums by hand, and the message for what
does not fit.
"""

from dataclasses import replace

import pytest

from sensitivity.errors import UserError
from sensitivity.shapes.census import ComponentCounts, RunCounts
from sensitivity.shapes.shape_run import ShapeRun
from sensitivity.shapes.table import ShapeTable
from sensitivity.spec.study_spec import ModelSection, SearchSection, StudySpec
from sensitivity.workflows import sizing
from sensitivity.workflows.sizing import (
    CUDA_BYTES,
    SLACK,
    check_fits,
    estimate_sizes,
    largest_batch,
)

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
    """A study that generates four pictures together."""
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
        classes={"transformer": "ToyTransformer"},
    )


def stages(run: ShapeRun, device: str, batch_size: int = 4, **more: int) -> dict[str, float]:
    """{stage: GB}, whatever is free."""
    sizes = estimate_sizes(run, batch_size=batch_size, device=device, free=0, **more)
    return {stage.name: stage.nbytes / GB for stage in sizes.stages}


def test_on_a_gpu_parts_take_turns(run: ShapeRun) -> None:
    """Text encoders come first, one prompt at a time; then both denoisers and the component of
    no kind; then also the VAE. Activations grow with the batch.
    """
    cuda = CUDA_BYTES / GB
    assert stages(run, "cuda") == pytest.approx(
        {
            "encoding text": 10 + 2.5 + 4 * SLACK / 2 + cuda,
            "denoising": 40 + 2.5 + 4 * SLACK * 2 + cuda,
            "decoding": 40 + 2.5 + 1 + 3 * SLACK * 2 + cuda,
        }
    )


def test_on_the_cpu_all_parts_are_there(run: ShapeRun) -> None:
    """Everything at once, and nothing for CUDA."""
    assert stages(run, "cpu") == pytest.approx({"all together": 53.5 + 4 * SLACK * 2})


def test_quantized_weights_and_batches_are_counted(run: ShapeRun) -> None:
    """A cache of quantized weights stands beside the denoisers; a batch of one has a quarter of the
    activations of four.
    """
    plain = stages(run, "cuda")
    cached = stages(run, "cuda", weight_cache_bytes=7 * GB)
    assert {name: cached[name] - plain[name] for name in plain} == pytest.approx(
        {"encoding text": 0, "denoising": 7, "decoding": 7}
    )
    alone = stages(run, "cuda", batch_size=1)
    assert plain["decoding"] - alone["decoding"] == pytest.approx(3 * SLACK * 1.5)


def test_what_fits_says_what_room_is_left(run: ShapeRun) -> None:
    """Nine tenths of what the peak leaves may be filled."""
    sizes = estimate_sizes(run, batch_size=4, device="cuda", free=80 * GB)
    assert (sizes.fits, sizes.peak.name, sizes.batch_size) == (True, "denoising", 4)
    assert sizes.room_bytes == pytest.approx((80 * GB - sizes.peak.nbytes) * 0.9, abs=1)
    assert sizes.to_json()["stages"][1]["parts"]["transformer_2"] == 20 * GB


def test_prompts_bound_the_batch(spec: StudySpec) -> None:
    """A batch is never larger than the longest list of prompts."""
    many = spec.model_copy(update={"search": SearchSection(batch_size=500)})
    assert largest_batch(spec) == 4
    assert largest_batch(many) == max(len(spec.prompts.search), len(spec.prompts.held_out))


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
                r"`batch_size = 2` under .* fits; a machine with more memory, or `device` cuda,"
                r" where text encoders"
            ),
        ),
    ],
)
def test_what_does_not_fit_says_what_would_help(
    device: str,
    free: int,
    helps: str,
    run: ShapeRun,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The message has what is needed, by part, what is free, and the largest batch that fits or
    that none does.
    """
    monkeypatch.setattr(sizing, "free_bytes", lambda _device: free * GB)
    need = estimate_sizes(run, batch_size=4, device=device).peak.nbytes / GB
    with pytest.raises(
        UserError,
        match=(
            rf"toy does not fit on {device}: .* needs about {need:.3g} GB with 4 pictures together"
            rf" .*{free} GB are free there: {helps}"
        ),
    ):
        check_fits(run, batch_size=4, device=device)


def test_no_gpu_of_that_size_is_said(run: ShapeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that no known GPU holds."""
    parts = tuple(replace_weights(part, 400 * GB) for part in run.table.run.components)
    huge = replace(run, table=replace(run.table, run=RunCounts(components=parts)))
    monkeypatch.setattr(sizing, "free_bytes", lambda _device: 80 * GB)
    with pytest.raises(UserError, match="no GPU that the package knows has as much"):
        check_fits(huge, batch_size=4, device="cuda")


def replace_weights(part: ComponentCounts, nbytes: int) -> ComponentCounts:
    """The counts with other weights."""
    return part.model_copy(update={"weight_bytes": nbytes})


def test_where_nobody_says_what_is_free_nothing_is_refused(
    run: ShapeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then there is no room to name either."""
    monkeypatch.setattr(sizing, "free_bytes", lambda _device: None)
    sizes = check_fits(run, batch_size=4, device="cpu")
    assert (sizes.fits, sizes.room_bytes) == (True, None)
