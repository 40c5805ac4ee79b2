"""The census of a run counts what independent arithmetic counts."""

from pathlib import Path

import pytest

from sensitivity.errors import UserError
from sensitivity.shapes.census import ComponentCounts, RunCounts
from sensitivity.shapes.run import run_shapes
from sensitivity.spec.loading import resolve_spec

from support.shallow_studies import shallow
from support.shape_runs import shape_run


def test_the_census_of_flux_is_what_arithmetic_gives() -> None:
    """Attention, FLOPs and weights of the whole run, counted by hand."""
    table = shape_run("flux1-dev").table
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


def test_shared_weights_count_once(tmp_path: Path) -> None:
    """T5's and Gemma's embeddings are tied, as in a loaded pipeline: encoders of 4.76, 12.19 and
    8.29 billion parameters. How many blocks the denoiser has does not matter.
    """
    parameters = {
        "flux1-dev": ("text_encoder_2", 4_762_310_656),
        "ltx2": ("text_encoder", 12_187_325_040),
        "qwen-image": ("text_encoder", 8_292_166_656),
    }
    for name, (component, expected) in parameters.items():
        run = run_shapes(shallow(resolve_spec(name), tmp_path / name)).table.run
        assert run is not None
        assert run.component(component).weight_bytes == 2 * expected


def test_malformed_counts_are_refused() -> None:
    """A census that is none is the user's mistake, by the name of its key."""
    counts = RunCounts(components=(ComponentCounts(component="vae", calls=1),))
    good = counts.to_json()
    assert RunCounts.from_json(good).component("vae").calls == 1
    good["components"][0]["calls"] = -1
    with pytest.raises(UserError, match=r"malformed counts of a run: `components\.0\.calls` is -1"):
        RunCounts.from_json(good)
    with pytest.raises(UserError, match="no counts of 'unet'; expected one of vae"):
        counts.component("unet")
