"""Shape tables, toy latency models, and a bench that needs no GPU."""

from collections.abc import Mapping
from typing import Any

from sensitivity.core.format_name import FormatName
from sensitivity.latency import LatencyModel
from sensitivity.latency.shape_times import (
    LinearShape,
    ShapeTime,
    ShapeTimes,
    attention_key,
    shapes_of,
)
from sensitivity.latency.timing.shape_timing import Bench
from sensitivity.shapes.census import AttentionShape
from sensitivity.shapes.table import LinearProfile, ShapeTable

BF16, MXFP8, NVFP4, FP8 = FormatName.BF16, FormatName.MXFP8, FormatName.NVFP4, FormatName.FP8
MACHINE = {"device": "toy GPU", "torch": "2.15.0"}
ATTENTION = AttentionShape(batch=1, heads=2, q_len=8, kv_len=12, head_dim=4, calls=7)


def linear(
    fqn: str, k: int, n: int, m_values: Mapping[int, int], *, bias: bool = True
) -> LinearProfile:
    return LinearProfile.observed(fqn=fqn, k=k, n=n, m_values=m_values, dtype="bfloat16", bias=bias)


def table_of(
    *linears: LinearProfile, batch_size: int = 1, uncalled: tuple[str, ...] = ()
) -> ShapeTable:
    return ShapeTable(
        model="toy",
        batch_size=batch_size,
        settings={"steps": 2},
        linears=linears,
        uncalled=uncalled,
    )


TOKENS_AND_MODULATION = table_of(
    linear("blocks.0.attn.to_q", 64, 64, {100: 10}),
    linear("blocks.0.attn.to_k", 64, 64, {100: 10}),
    linear("blocks.0.norm.linear", 64, 128, {1: 10}),
    uncalled=("spare",),
)

IN_AND_OUTSIDE_BLOCKS = table_of(
    linear("blocks.0.a", 32, 16, {4: 10}),
    linear("blocks.1.b", 32, 16, {4: 1, 8: 2}),
    linear("c", 16, 16, {4: 5, 0: 1}, bias=False),
)


class MicrosecondARow(LatencyModel):
    """A toy model: bf16 takes M us a call, everything else half of that; the rest takes 1 ms."""

    target, source, compile_mode, covers = "toy", "measured", "default", "a constant"

    def linear_us(self, *, m: int, k: int, n: int, format: FormatName) -> float:  # noqa: ARG002
        return float(m) if format is BF16 else m / 2

    def rest_s(self, table: ShapeTable) -> float:  # noqa: ARG002  # the same
        return 1e-3


class Rest(LatencyModel):
    """Predicts 1 s of rest, and 0.25 s for each call of an attention in the census."""

    target, source, covers = "toy", "predicted", "everything else"
    compile_mode = "reduce-overhead"

    def linear_us(self, *, m: int, k: int, n: int, format: FormatName) -> float:  # noqa: ARG002
        raise AssertionError("a measured table must not ask for predicted Linears")

    def rest_s(self, table: ShapeTable) -> float:
        counts = table.run.components if table.run else ()
        return 1.0 + sum(
            0.25 * shape.calls for component in counts for shape in component.attention
        )


def measured_times(*, attention_us: float | None = None) -> ShapeTimes:
    """Times of `IN_AND_OUTSIDE_BLOCKS` in bf16 and fp8, of 80 to 10 ms, and of `ATTENTION`."""
    shapes = shapes_of(IN_AND_OUTSIDE_BLOCKS, (FP8,))
    rows = [
        ShapeTime(key=str(s), us=(t * 9, t, t / 9))
        for s, t in zip(shapes, (80e3, 40e3, 60e3, 30e3, 20e3, 10e3), strict=True)
    ]
    if attention_us is not None:
        rows.append(ShapeTime(key=attention_key(ATTENTION), us=(attention_us,)))
    return ShapeTimes(
        machine=MACHINE, compile_mode="reduce-overhead", rows={row.key: row for row in rows}
    )


def shape(
    m: int, k: int, n: int, format: FormatName = BF16, *, bias: bool = True, eager: bool = False
) -> LinearShape:
    return LinearShape(m=m, k=k, n=n, bias=bias, format=format, eager=eager)


def bench(**changed: Any) -> Bench:
    """A bench on which every format is native and quantizing changes nothing.

    torch traces, and compiles nothing.
    """
    parts: dict[str, Any] = {
        "backend": "eager",
        "quantize": lambda *_: None,
        "native_refusal": lambda *_: None,
    }
    return Bench(**{**parts, **changed})


def flux(batch: int) -> ShapeTable:
    """The Linears of FLUX.1-dev at 1024 x 1024, 28 steps, written out by hand: 494 in blocks, 10
    outside.
    """
    image, text = 4096 * batch, 512 * batch
    rows = [
        _called("x_embedder", image, 64, 3072),
        _called("context_embedder", text, 4096, 3072),
        _called("proj_out", image, 3072, 64),
        _called("norm_out.linear", batch, 3072, 6144),
    ]
    for name, k in (("timestep_embedder", 256), ("guidance_embedder", 256), ("text_embedder", 768)):
        rows += [
            _called(f"time_text_embed.{name}.linear_{i}", batch, k if i == 1 else 3072, 3072)
            for i in (1, 2)
        ]
    for i in range(19):
        block = f"transformer_blocks.{i}."
        for m, names, ff, norm in (
            (image, ("to_q", "to_k", "to_v", "to_out.0"), "ff", "norm1"),
            (
                text,
                ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
                "ff_context",
                "norm1_context",
            ),
        ):
            rows += [_called(f"{block}attn.{name}", m, 3072, 3072) for name in names]
            rows += [
                _called(f"{block}{ff}.net.0.proj", m, 3072, 12288),
                _called(f"{block}{ff}.net.2", m, 12288, 3072),
                _called(f"{block}{norm}.linear", batch, 3072, 18432),
            ]
    for i in range(38):
        block = f"single_transformer_blocks.{i}."
        rows += [
            _called(f"{block}attn.{name}", 4608 * batch, 3072, 3072)
            for name in ("to_q", "to_k", "to_v")
        ]
        rows += [
            _called(f"{block}proj_mlp", 4608 * batch, 3072, 12288),
            _called(f"{block}proj_out", 4608 * batch, 15360, 3072),
            _called(f"{block}norm.linear", batch, 3072, 9216),
        ]
    return ShapeTable(model="flux", batch_size=batch, settings={}, linears=tuple(rows), uncalled=())


def _called(fqn: str, m: int, k: int, n: int) -> LinearProfile:
    """A Linear that is called once in each of 28 steps."""
    return linear(fqn, k, n, {m: 28})


def flux_published_list(table: ShapeTable, fmt: FormatName) -> dict[str, FormatName]:
    """The published skip-list of FLUX.1-dev: embedders, norm_out and proj_out stay bf16."""
    return {
        row.fqn: fmt
        for row in table.linears
        if "embed" not in row.fqn and row.fqn not in ("norm_out.linear", "proj_out")
    }
