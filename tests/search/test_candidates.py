"""What may change format, what changes together, and what each change gains, on a toy transformer
whose every number is known.
"""

import dataclasses
import hashlib
import json
import random
from collections.abc import Mapping

import pytest
from torch import nn

from sensitivity.core.format_name import FormatName
from sensitivity.errors import FormatError
from sensitivity.latency import LatencyModel, ShapeScale, stand_for
from sensitivity.latency.devices import get_device
from sensitivity.latency.predicted import PredictedLatency
from sensitivity.models.skeleton import build_component
from sensitivity.search.candidates import Candidates, baselines
from sensitivity.search.grouping import make_candidates
from sensitivity.shapes.table import LinearProfile, ShapeTable
from sensitivity.spec.hand_lists import PublishedList, Reasoned, RuleOfThumb
from sensitivity.spec.loading import load_spec
from sensitivity.spec.prompts import PromptSection
from sensitivity.spec.shipped import list_studies
from sensitivity.spec.study_spec import ModelSection, SearchSection, StudySpec

BF16, MXFP8, NVFP4, FP8 = FormatName.BF16, FormatName.MXFP8, FormatName.NVFP4, FormatName.FP8


class OneMicrosecondARow(LatencyModel):
    """bf16 takes M us a call, mxfp8 half of that, nvfp4 a quarter of that and 10 us more; the rest
    of a run takes 1 ms.
    """

    target, source, compile_mode, covers = "toy", "predicted", "default", "a constant"

    def linear_us(self, *, m: int, k: int, n: int, format: FormatName) -> float:  # noqa: ARG002
        return {BF16: float(m), MXFP8: m / 2, NVFP4: m / 4 + 10}[format]

    def rest_s(self, table: ShapeTable) -> float:  # noqa: ARG002  # the same
        return 1e-3


def linear(
    fqn: str,
    k: int = 64,
    n: int = 64,
    m_values: Mapping[int, int] | None = None,
    dtype: str = "bfloat16",
) -> LinearProfile:
    return LinearProfile.observed(
        fqn=fqn, k=k, n=n, m_values=m_values or {100: 10}, dtype=dtype, bias=True
    )


def table_of(*linears: LinearProfile, uncalled: tuple[str, ...] = ()) -> ShapeTable:
    return ShapeTable(model="toy", batch_size=1, settings={}, linears=linears, uncalled=uncalled)


def spec_of(*, stands_for: int = 1, min_dim: int = 50, **search: object) -> StudySpec:
    return StudySpec.model_validate(
        {
            "name": "toy",
            "model": ModelSection(hub="a/b"),
            "prompts": PromptSection(search=("a",), held_out=("b",)),
            "search": SearchSection.model_validate(search),
            "pricing": {"stands_for": stands_for},
            "rule_of_thumb": RuleOfThumb(
                min_dim=min_dim,
                skip=(
                    Reasoned(pattern="*norm*", reason="norms"),
                    Reasoned(pattern="out", reason="out"),
                ),
            ),
        }
    )


def transformer(blocks: int = 6) -> ShapeTable:
    """An embedder, blocks of q, k, v, a projection of 24 outputs that only fp8's K takes, and a
    modulation with one row, an output, a spare.
    """
    inside = [
        part
        for i in range(blocks)
        for part in (
            linear(f"blocks.{i}.attn.to_q"),
            linear(f"blocks.{i}.attn.to_k"),
            linear(f"blocks.{i}.attn.to_v"),
            linear(f"blocks.{i}.narrow", n=24),
            linear(f"blocks.{i}.norm.linear", n=128, m_values={1: 10}),
        )
    ]
    return table_of(linear("embed"), *inside, linear("out"), uncalled=("spare",))


def make(table: ShapeTable, spec: StudySpec, *formats: FormatName, **kwargs: object) -> Candidates:
    return make_candidates(
        table, spec, formats=formats or (NVFP4,), latency=OneMicrosecondARow(), **kwargs
    )  # type: ignore[arg-type]


def groups_of(candidates: Candidates) -> dict[str, tuple[str, ...]]:
    return {group.name: group.fqns for group in candidates.groups}


def test_groups_are_roles_by_depth_band_and_fused_roles_together() -> None:
    """Six blocks in three bands: q, k and v of two neighbouring blocks are one group, each other
    role another.
    """
    found = groups_of(make(transformer(), spec_of(depth_bands=3)))
    qkv = {
        f"blocks.attn.to_q+to_k+to_v[{i}-{i + 1}]": tuple(
            f"blocks.{b}.attn.to_{x}" for b in (i, i + 1) for x in "qkv"
        )
        for i in (0, 2, 4)
    }
    norms = {
        f"blocks.norm.linear[{i}-{i + 1}]": (
            f"blocks.{i}.norm.linear",
            f"blocks.{i + 1}.norm.linear",
        )
        for i in (0, 2, 4)
    }
    assert found == {"embed": ("embed",), "out": ("out",), **qkv, **norms}


@pytest.mark.parametrize(
    ("blocks", "bands", "expected"),
    [
        (6, 1, ["0-5"]),
        (6, 2, ["0-2", "3-5"]),
        (5, 2, ["0-2", "3-4"]),
        (2, 3, ["0", "1"]),
        (1, 3, ["0"]),
        (4, 4, ["0", "1", "2", "3"]),
    ],
)
def test_depth_bands_are_runs_of_equal_length(blocks: int, bands: int, expected: list[str]) -> None:
    """Bands differ by one block at most, in order; more bands than blocks make one a block."""
    found = groups_of(make(transformer(blocks), spec_of(depth_bands=bands)))
    assert [name.split("[")[1].rstrip("]") for name in found if "norm" in name] == expected


def test_layers_are_groups_of_their_own_with_fused_roles_together() -> None:
    """With granularity "layer" only q, k and v of one block share a group."""
    found = groups_of(make(transformer(2), spec_of(), granularity="layer"))
    assert found == {
        "embed": ("embed",),
        "out": ("out",),
        **{
            f"blocks.attn.to_q+to_k+to_v[{i}]": tuple(f"blocks.{i}.attn.to_{x}" for x in "qkv")
            for i in range(2)
        },
        **{f"blocks.norm.linear[{i}]": (f"blocks.{i}.norm.linear",) for i in range(2)},
    }


def table_of_study(name: str) -> tuple[ShapeTable, StudySpec]:
    """Every Linear of a study's denoiser, called once with one row, at the priced scale."""
    spec = load_spec(list_studies()[name])
    linears = [
        LinearProfile.observed(
            fqn=fqn,
            k=part.in_features,
            n=part.out_features,
            m_values={1: 1},
            dtype=str(part.weight.dtype)[6:],
            bias=part.bias is not None,
        )
        for fqn, part in build_component(spec).named_modules()
        if isinstance(part, nn.Linear)
    ]
    return stand_for(table_of(*linears), ShapeScale(factor=spec.pricing.stands_for)), spec


@pytest.mark.parametrize(
    ("name", "groups", "layers", "digest"),
    [
        ("tiny-flux", 52, 64, "e76085bd086c2f40"),
        ("flux1-dev", 44, 344, "1344f5aa0454b9c9"),
        ("qwen-image", 32, 602, "adec2f02f9a2199d"),
        ("ltx2", 58, 868, "658d8e619d5e9efd"),
    ],
)
def test_groups_of_the_studies_stay_what_they_were(
    name: str, groups: int, layers: int, digest: str
) -> None:
    """Names and members of groups are in the fingerprint of every kept search, so they do not
    change.
    """
    table, spec = table_of_study(name)
    made = make_candidates(
        table, spec, formats=(FP8, NVFP4), latency=PredictedLatency(get_device("b200"))
    )
    said = json.dumps([[group.name, list(group.fqns)] for group in made.groups])
    assert (len(made.groups), hashlib.sha256(said.encode()).hexdigest()[:16]) == (groups, digest)
    each = make_candidates(
        table,
        spec,
        formats=(FP8, NVFP4),
        latency=PredictedLatency(get_device("b200")),
        granularity="layer",
    )
    assert len(each.groups) == layers


def unet() -> ShapeTable:
    """Two attentions of two blocks in one down block, one of four in another, one in the middle;
    two Linears a block, one an attention.
    """
    attentions = {
        "down_blocks.1.attentions.0": 2,
        "down_blocks.1.attentions.1": 2,
        "down_blocks.2.attentions.0": 4,
        "mid_block.attentions.0": 1,
    }
    fqns = [
        f"{a}.transformer_blocks.{i}.{role}"
        for a, blocks in attentions.items()
        for i in range(blocks)
        for role in ("attn1.to_out", "ff.net.2")
    ]
    return table_of(*(linear(fqn) for fqn in (*fqns, *(f"{a}.proj_in" for a in attentions))))


def test_blocks_inside_of_blocks_share_their_roles() -> None:
    """A UNet's blocks are split into depth bands for each down, mid and up block, since those
    differ in width; indices that count blocks are in no role.
    """
    stack = "down_blocks.attentions.transformer_blocks"
    found = {
        name: len(fqns) for name, fqns in groups_of(make(unet(), spec_of(depth_bands=2))).items()
    }
    assert found == {
        f"{stack}.attn1.to_out[1.0.0-1.0.1]": 2,
        f"{stack}.ff.net.2[1.0.0-1.0.1]": 2,
        f"{stack}.attn1.to_out[1.1.0-1.1.1]": 2,
        f"{stack}.ff.net.2[1.1.0-1.1.1]": 2,
        f"{stack}.attn1.to_out[2.0.0-2.0.1]": 2,
        f"{stack}.ff.net.2[2.0.0-2.0.1]": 2,
        f"{stack}.attn1.to_out[2.0.2-2.0.3]": 2,
        f"{stack}.ff.net.2[2.0.2-2.0.3]": 2,
        "mid_block.attentions.transformer_blocks.attn1.to_out[0.0]": 1,
        "mid_block.attentions.transformer_blocks.ff.net.2[0.0]": 1,
        "down_blocks.attentions.proj_in[1.0]": 1,
        "down_blocks.attentions.proj_in[1.1]": 1,
        "down_blocks.attentions.proj_in[2.0]": 1,
        "mid_block.attentions.proj_in[0]": 1,
    }
    one = groups_of(make(unet(), spec_of(depth_bands=1)))
    assert one[f"{stack}.ff.net.2[1.0.0-1.1.1]"] == tuple(
        f"down_blocks.1.attentions.{a}.transformer_blocks.{b}.ff.net.2"
        for a in (0, 1)
        for b in (0, 1)
    )
    assert len(make(unet(), spec_of(), granularity="layer").groups) == len(unet().linears)


def test_sdxl_has_as_many_groups_as_other_models() -> None:
    """743 Linears in 45 groups, not one for almost each of them."""
    table, spec = table_of_study("sdxl")
    assert (
        len(
            make_candidates(
                table, spec, formats=(FP8, NVFP4), latency=PredictedLatency(get_device("b200"))
            ).groups
        )
        == 45
    )


@pytest.mark.parametrize(
    ("fused", "expected"),
    [
        (
            [["attn1.to_q", "attn1.to_k"]],
            {
                "blocks.attn1.to_q+to_k[0]",
                "blocks.attn2.to_q[0]",
                "blocks.attn2.to_k[0]",
                "attn1.to_q",
            },
        ),
        (
            [["attn1.to_q", "attn2.to_q"]],
            {
                "blocks.attn1.to_q+attn2.to_q[0]",
                "blocks.attn1.to_k[0]",
                "blocks.attn2.to_k[0]",
                "attn1.to_q",
            },
        ),
        (
            [["attn1.to_q", "attn1.to_k"], ["to_q", "to_k"]],
            {"blocks.attn1.to_q+to_k[0]", "blocks.attn2.to_q+to_k[0]", "attn1.to_q"},
        ),
        (
            [["n1.to_q", "n1.to_k"]],
            {
                "blocks.attn1.to_q[0]",
                "blocks.attn1.to_k[0]",
                "blocks.attn2.to_q[0]",
                "blocks.attn2.to_k[0]",
                "attn1.to_q",
            },
        ),
    ],
)
def test_fused_roles_may_be_the_last_parts_of_a_name(
    fused: list[list[str]], expected: set[str]
) -> None:
    """Whole parts decide, not letters; one attention's q and k can be fused and another's not; the
    first family that has a role counts.
    """
    names = [f"blocks.0.{attn}.{role}" for attn in ("attn1", "attn2") for role in ("to_q", "to_k")]
    assert (
        set(groups_of(make(table_of(*map(linear, [*names, "attn1.to_q"])), spec_of(fused=fused))))
        == expected
    )


def test_the_q_of_a_cross_attention_stands_alone() -> None:
    """Linears are fused where they read one input: k and v that read the text, of another M or K,
    are fused with one another and not with q.
    """
    roles = {"attn1": (64, 100), "attn2": (64, 16), "attn3": (96, 100)}  # K and M of k and v
    names = [
        linear(
            f"blocks.{i}.{attn}.to_{x}",
            k=64 if x == "q" else k,
            m_values={100 if x == "q" else m: 10},
        )
        for i in range(2)
        for attn, (k, m) in roles.items()
        for x in "qkv"
    ]
    made = groups_of(
        make(table_of(*names), spec_of(fused=[["to_q", "to_k", "to_v"]], depth_bands=1))
    )
    assert set(made) == {
        "blocks.attn1.to_q+to_k+to_v[0-1]",
        "blocks.attn2.to_q[0-1]",
        "blocks.attn2.to_k+to_v[0-1]",
        "blocks.attn3.to_q[0-1]",
        "blocks.attn3.to_k+to_v[0-1]",
    }


def test_patterns_that_match_nothing_are_reported() -> None:
    """Always-skip patterns that match nothing are listed in their order; the others work."""
    skips = [{"pattern": pattern, "reason": "r"} for pattern in ("adaln_single.*", "out", "proj")]
    candidates = make(transformer(), spec_of(always_skip=skips))
    assert candidates.dead == ("adaln_single.*", "proj")
    assert candidates.fixed["out"] == "always skipped: r"
    assert make(transformer(), spec_of()).dead == ()


def test_each_linear_is_in_one_group_or_fixed() -> None:
    """Groups and fixed Linears partition the model, with a reason for each fixed one."""
    spec = spec_of(always_skip=[{"pattern": "blocks.0.*", "reason": "the first block is fragile"}])
    candidates = make(transformer(), spec)
    grouped = [fqn for group in candidates.groups for fqn in group.fqns]
    assert sorted([*grouped, *candidates.fixed]) == sorted(candidates.fqns)
    assert len(candidates.fqns) == 6 * 5 + 3
    assert candidates.fixed["spare"] == "never called in the profiled run"
    assert candidates.fixed["blocks.0.attn.to_q"] == "always skipped: the first block is fragile"
    assert "N = 24" in candidates.fixed["blocks.1.narrow"]


def test_refused_linears_stay_bf16_and_are_reported() -> None:
    """Where one of two formats takes a Linear its group has that option; where none does it is
    fixed; both are reported with reasons.
    """
    table = table_of(
        linear("both"),
        linear("only_fp8", k=48),
        linear("none", n=24),
        linear("fp32", dtype="float32"),
    )
    candidates = make_candidates(
        table, spec_of(), formats=(FP8, NVFP4), latency=PredictedLatency(get_device("b200"))
    )
    assert {group.name: group.members for group in candidates.groups} == {
        "both": ((), ("both",), ("both",)),
        "only_fp8": ((), ("only_fp8",), ()),
    }
    assert set(candidates.refused) == {"only_fp8", "none", "fp32"}
    assert set(candidates.fixed) == {"none", "fp32"}
    assert "K = 48 is not a multiple of 32, as nvfp4 needs" in candidates.refused["only_fp8"]
    assert "fp8" in candidates.refused["none"]
    assert "nvfp4" in candidates.refused["none"]
    assert candidates.all_quantized() == (2, 0)
    assert candidates.canonical((2, 2)) == (2, 0)
    assert candidates.decode((1, 2)) == {"both": FP8, "only_fp8": BF16, "none": BF16, "fp32": BF16}


def test_fused_linears_take_a_format_together() -> None:
    """Where a format refuses one of q, k and v of a block, the other two stay bf16 too, and say
    because of which; other blocks are free.
    """
    table = table_of(
        linear("blocks.0.to_q"),
        linear("blocks.0.to_k", n=24),
        linear("blocks.0.to_v"),
        linear("blocks.1.to_q"),
        linear("blocks.1.to_k"),
        linear("blocks.1.to_v"),
    )
    candidates = make(table, spec_of(depth_bands=1))
    (group,) = candidates.groups
    assert group.members == ((), ("blocks.1.to_q", "blocks.1.to_k", "blocks.1.to_v"))
    assert set(candidates.refused) == {"blocks.0.to_q", "blocks.0.to_k", "blocks.0.to_v"}
    assert "fused with blocks.0.to_k" in candidates.refused["blocks.0.to_q"]


def test_nothing_to_quantize_is_an_error() -> None:
    """If no Linear takes any format the message gives one of them and its reason."""
    with pytest.raises(
        FormatError,
        match=(
            r"none of the 1 Linears of toy may be quantized to nvfp4 \(x: N = 24.*choose another"
            r" `format`"
        ),
    ):
        make(table_of(linear("x", n=24)), spec_of())


def test_gains_are_seconds_saved_in_a_run() -> None:
    """A group saves the sum over its Linears, calls and row counts of bf16's time less its own;
    negative where it is slower.
    """
    table = table_of(
        linear("blocks.0.a", m_values={100: 10, 20: 3}),
        linear("blocks.1.a"),
        linear("mod", m_values={1: 10}),
    )
    candidates = make(table, spec_of(depth_bands=1), MXFP8, NVFP4)
    mx = (10 * 50 + 3 * 10 + 10 * 50) * 1e-6
    nv = (10 * (75 - 10) + 3 * (15 - 10) + 10 * (75 - 10)) * 1e-6
    assert [group.gains_s for group in candidates.groups] == [
        (0.0, pytest.approx(mx), pytest.approx(nv)),
        (0.0, pytest.approx(5e-6), pytest.approx(10 * (0.75 - 10) * 1e-6)),
    ]
    assert candidates.bf16_s == pytest.approx(1e-3 + (1000 + 60 + 1000 + 10) * 1e-6)
    assert candidates.latency_s((2, 1)) == pytest.approx(candidates.bf16_s - nv - 5e-6)


def test_latency_of_a_choice_is_the_models_own_estimate() -> None:
    """Groups add up: for random choices the priced seconds are those of `LatencyModel.estimate` on
    the decoded formats.
    """
    table, latency = (
        stand_for(transformer(), ShapeScale(factor=16)),
        PredictedLatency(get_device("b200")),
    )
    candidates = make_candidates(
        table, spec_of(stands_for=16), formats=(MXFP8, NVFP4, FP8), latency=latency
    )
    rng = random.Random(0)
    for _ in range(50):
        choice = tuple(rng.randrange(4) for _ in candidates.groups)
        estimate = latency.estimate(table, candidates.decode(choice))
        assert candidates.latency_s(choice) == pytest.approx(estimate.quantized_s, rel=1e-12)
    assert candidates.latency_s(candidates.none_quantized) == candidates.bf16_s == estimate.bf16_s


def test_shapes_are_refused_at_the_models_own_scale() -> None:
    """A model that stands for a larger one is priced large, and refused by the K and N that it
    really has.
    """
    table = table_of(linear("wide", n=64), linear("narrow", n=24))
    scaled = stand_for(table, ShapeScale(factor=16))
    candidates = make(scaled, spec_of(stands_for=16))
    assert set(candidates.fixed) == {"narrow"}
    assert "N = 24" in candidates.fixed["narrow"]
    assert candidates.groups[0].gains_s[1] == pytest.approx(10 * (1600 * 0.75 - 10) * 1e-6)


@pytest.mark.parametrize(
    ("min_dim", "expected"), [(64, {"embed", "qkv"}), (65, set()), (1, {"embed", "qkv"})]
)
def test_rule_of_thumb_is_names_and_smallest_dimension(min_dim: int, expected: set[str]) -> None:
    """It quantizes what its globs do not name and whose M, K and N all reach the limit: 64 here,
    with 100 rows; never the modulation.
    """
    candidates = make(transformer(2), spec_of(min_dim=min_dim, depth_bands=1), MXFP8, NVFP4)
    chosen = {
        g.name: option
        for g, option in zip(candidates.groups, candidates.rule_of_thumb, strict=True)
        if option
    }
    names = {"embed": "embed", "qkv": "blocks.attn.to_q+to_k+to_v[0-1]"}
    assert chosen == {names[short]: 2 for short in expected}


def test_rule_of_thumb_measures_at_the_priced_scale() -> None:
    """A Linear of 64 features that stands for 1024 passes a limit of 1024; rows of the batch axis
    stay few.
    """
    spec = spec_of(stands_for=16, min_dim=1024)
    table = stand_for(
        table_of(linear("mlp"), linear("pooled", m_values={1: 10})), ShapeScale(factor=16)
    )
    assert make(table, spec).rule_of_thumb == (1, 0)


@pytest.mark.parametrize(
    ("listed", "always", "label"),
    [
        (("*norm*", "out", "embed"), (), "theirs"),
        (("*norm*", "out", "embed"), ("blocks.0.*",), "near theirs: 15 of its 18 Linears"),
        (
            ("*norm*", "out", "embed", "blocks.0.*"),
            (),
            "near theirs: 15 of its 15 Linears and 3 others",
        ),
        (("*norm*", "out"), ("embed", "out"), "near theirs: 18 of its 19 Linears"),
    ],
)
def test_a_published_name_is_that_list_alone(
    listed: tuple[str, ...], always: tuple[str, ...], label: str
) -> None:
    """A list that whole groups or the study's always-skip patterns cannot say is not scored under
    its name; Linears that the format refuses are in bf16 whoever writes the list.
    """
    skip = tuple(Reasoned(pattern=pattern, reason="x") for pattern in always)
    spec = spec_of(always_skip=skip).model_copy(
        update={"published": (PublishedList(name="theirs", source="y", skip=listed),)}
    )
    made = make(transformer(), spec)
    ((found, choice),) = made.published
    assert found == label
    assert choice in [scored for _, scored in baselines(made)]


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("tiny-flux", ["torchao's list for FLUX.1-dev"]),
        ("flux1-dev", ["torchao's list for FLUX.1-dev", "ModelOpt's list for FLUX"]),
        ("ltx2", ["near torchao's list for LTX-2: 1344 of its 1356 Linears"]),
        ("qwen-image", ["torchao's list for QwenImage"]),
        ("flux2-dev", ["ModelOpt's list for FLUX"]),
    ],
)
def test_published_lists_of_the_studies(name: str, labels: list[str]) -> None:
    """Which of them are scored whole: LTX-2's study always skips 12 Linears of its list."""
    table, spec = table_of_study(name)
    latency = PredictedLatency(get_device("b200"))
    made = make_candidates(table, spec, formats=(NVFP4,), latency=latency)
    assert [label for label, _ in made.published] == labels


def test_decode_names_every_linear() -> None:
    """A choice says the format of each Linear of the model, called or not."""
    candidates = make(transformer(2), spec_of(depth_bands=1))
    assert set(candidates.decode(candidates.none_quantized)) == set(candidates.fqns)
    assert set(candidates.decode(candidates.none_quantized).values()) == {BF16}
    everything = candidates.decode(candidates.all_quantized())
    assert {fqn for fqn, fmt in everything.items() if fmt is NVFP4} == set(candidates.fqns) - set(
        candidates.fixed
    )


@pytest.mark.parametrize("choice", [(), (0,) * 3, (0,) * 5, (0, 0, 0, 2), (0, 0, 0, -1)])
def test_a_choice_that_does_not_fit_is_refused(choice: tuple[int, ...]) -> None:
    """Too few or too many options, or an option that does not exist, are an error in every method
    that takes a choice.
    """
    candidates = make(transformer(2), spec_of(depth_bands=1))
    assert len(candidates.groups) == 4
    for method in (candidates.canonical, candidates.decode, candidates.latency_s):
        with pytest.raises(FormatError, match="does not fit 4 groups of 2 formats"):
            method(choice)


def test_models_that_are_a_plain_list_of_blocks_are_grouped() -> None:
    """A root that is a Sequential has blocks whose FQN is a bare number; they band like others."""
    table = table_of(linear("0.proj"), linear("1.proj"), linear("2"), linear("proj"))
    found = groups_of(make(table, spec_of(depth_bands=1)))
    assert sorted(sum(found.values(), ())) == ["0.proj", "1.proj", "2", "proj"]
    assert ("0.proj", "1.proj") in found.values()


def test_candidates_are_frozen() -> None:
    """What may be chosen does not change during a search."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        make(transformer(), spec_of()).groups = ()  # type: ignore[misc]
