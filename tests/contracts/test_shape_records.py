"""Every record of a run's shapes survives its JSON, with all fields set."""

import json

from sensitivity.shapes.census import AttentionShape, ComponentCounts, RunCounts
from sensitivity.shapes.table import LinearProfile, ShapeTable

from contracts.round_trip import assert_all_fields_set, assert_round_trip
from support.shape_runs import shape_run

ATTENTION = AttentionShape(batch=2, heads=24, q_len=4608, kv_len=512, head_dim=128, calls=57)
COUNTS = ComponentCounts(
    component="transformer",
    calls=28,
    attention=(ATTENTION,),
    linear_flops=10**15,
    conv_flops=3,
    matmul_flops=5,
    eager_bytes=7,
    group_norm_bytes=5,
    kernels=11,
    regions=("transformer_blocks.0",),
    region_kernels=9,
    weight_bytes=13,
    peak_activation_bytes=17,
)
RUN = RunCounts(components=(COUNTS,))
VARYING = LinearProfile.observed(
    fqn="transformer.blocks.3.attn.to_q",
    k=3072,
    n=1536,
    m_values={6: 50, 14: 50},
    dtype="bfloat16",
    bias=True,
)
FIXED = LinearProfile.observed(
    fqn="transformer.blocks.3.attn.to_k",
    k=3072,
    n=1536,
    m_values={14: 50},
    dtype="float32",
    bias=True,
)
TABLE = ShapeTable(
    model="toy",
    batch_size=2,
    settings={"height": 64, "guidance_scale": 3.5, "negative_prompt": " ", "use_binning": False},
    linears=(VARYING, FIXED),
    uncalled=("transformer.unused",),
    run=RUN,
    shared_inputs=((VARYING.fqn, FIXED.fqn),),
    components=("transformer", "transformer_2"),
)


def test_census_records() -> None:
    """Counts of a run, of a component and of an attention's shape."""
    for record in (ATTENTION, COUNTS, RUN):
        assert_all_fields_set(record)
        assert_round_trip(record, lambda x: x.to_json(), type(record).from_json)


def test_a_table_of_shapes() -> None:
    """A table with its census, groups and components, and rows with one M and with several."""
    assert_all_fields_set(TABLE)
    assert_round_trip(TABLE, ShapeTable.to_json, ShapeTable.from_json)


def test_a_table_of_a_real_run() -> None:
    """LTX-2's 1370 Linears and its census read back equal."""
    table = shape_run("ltx2").table
    assert len(table.linears) == 1370
    assert table.run is not None
    assert ShapeTable.from_json(json.loads(json.dumps(table.to_json()))) == table


def test_what_a_table_does_not_have_is_not_written() -> None:
    """No census, no groups, no components: no such keys."""
    bare = ShapeTable(model="toy", batch_size=1, settings={}, linears=(FIXED,), uncalled=())
    assert list(bare.to_json()) == ["model", "batch_size", "settings", "linears", "uncalled"]
    assert_round_trip(bare, ShapeTable.to_json, ShapeTable.from_json)
