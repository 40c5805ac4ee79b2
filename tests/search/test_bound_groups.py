"""What is proposed for consumers is what they can express: on a toy with limits that are written
down, and on small models of the classes that the servers know, by the exporters themselves.
"""

import itertools
import random

import pytest

from sensitivity.consumers.exporters import EXPORTERS
from sensitivity.consumers.limits import Limits
from sensitivity.consumers.named_consumers import (
    check_consumers,
    exporter_for,
    exporters_for,
    limits_of,
)
from sensitivity.core.format_name import FormatName
from sensitivity.errors import FormatError, RecipeError
from sensitivity.latency import LatencyModel
from sensitivity.search.candidates import Candidates
from sensitivity.search.grouping import make_candidates
from sensitivity.shapes.table import LinearProfile, ShapeTable
from sensitivity.spec.study_spec import StudySpec

from support.served import CONFIGS, linears_of, recipe_of

BF16, MXFP8, NVFP4, FP8 = FormatName.BF16, FormatName.MXFP8, FormatName.NVFP4, FormatName.FP8


class ASecondARow(LatencyModel):
    """bf16 takes a second a call for each row, any other format half of that."""

    target, source, compile_mode, covers = "toy", "predicted", "default", "a constant"

    def linear_us(self, *, m: int, k: int, n: int, format: FormatName) -> float:  # noqa: ARG002
        return m * (1e6 if format is BF16 else 5e5)

    def rest_s(self, table: ShapeTable) -> float:  # noqa: ARG002
        return 1.0


def candidates_of(
    shapes: dict[str, tuple[int, int]], formats: tuple[FormatName, ...], limits: tuple[Limits, ...]
) -> Candidates:
    spec = StudySpec.model_validate(
        {
            "name": "toy",
            "model": {"hub": "a/b"},
            "prompts": {"search": ("a",), "held_out": ("b",)},
            "rule_of_thumb": {"min_dim": 1, "skip": [{"pattern": "*q", "reason": "toy"}]},
        }
    )
    linears = tuple(
        LinearProfile.observed(fqn=fqn, k=k, n=n, m_values={8: 1}, dtype="bfloat16", bias=True)
        for fqn, (k, n) in shapes.items()
    )
    table = ShapeTable(model="toy", batch_size=1, settings={}, linears=linears, uncalled=())
    return make_candidates(table, spec, formats=formats, latency=ASecondARow(), limits=limits)


TOY = dict.fromkeys(("q", "k", "out", "final", "deep.final"), (64, 64)) | {"odd": (60, 64)}


def test_what_a_consumer_runs_as_one_is_one_group() -> None:
    """q and k are one group, and bf16 by the rule of thumb since q is; a final layer whose entry
    hits another goes with it; what is always bf16 is no group, with its reason.
    """
    limits = Limits(
        consumer="toy",
        fused=[("q", "k")],
        kept={"out": "no config"},
        kept_with={"final": ("deep.final",)},
    )
    made = candidates_of(TOY, (MXFP8, FP8), (limits,))
    assert [(group.name, group.fqns) for group in made.groups] == [
        ("q and k", ("q", "k")),
        ("final and deep.final", ("final", "deep.final")),
    ]
    assert made.fixed["out"] == "toy always runs it in bf16 (no config)"
    assert made.rule_of_thumb == (0, 2)
    assert [group.gains_s for group in made.groups] == [(0.0, 8.0, 8.0)] * 2


def test_a_refusal_holds_for_all_that_runs_as_one_and_for_what_an_entry_hits() -> None:
    """MXFP8 does not take K = 60, FP8 neither: its partner stays bf16 too, and what an entry for
    that hits; an entry the other way round binds nothing.
    """
    limits = Limits(
        consumer="toy",
        fused=[("odd", "q")],
        kept_with={"q": ("deep.final",), "final": ("q",)},
    )
    made = candidates_of(TOY, (MXFP8,), (limits,))
    assert set(made.fixed) == {"odd", "q", "deep.final"}
    assert made.fixed["q"] == "toy runs it as one with odd, which stays bf16"
    assert made.fixed["deep.final"] == "an entry for q in a list for toy hits it as well"
    assert [group.fqns for group in made.groups] == [("k",), ("out",), ("final",)]


def test_without_consumers_nothing_changes() -> None:
    """No limits: every Linear is a group of its own, and the rule of thumb keeps q alone."""
    made = candidates_of(TOY, (MXFP8,), ())
    assert [group.fqns for group in made.groups] == [(name,) for name in TOY if name != "odd"]
    assert made.rule_of_thumb == (0, 1, 1, 1, 1)


@pytest.mark.parametrize("consumer", EXPORTERS)
def test_whatever_is_proposed_exports(consumer: str) -> None:
    """Bounds, rule of thumb and random choices on small models of each class, in each format or
    pair of formats that the consumer has: every form takes every choice without refusal.
    """
    draw, exported = random.Random(consumer), 0
    for kind, count in itertools.product(CONFIGS, (1, 2)):
        for formats in itertools.combinations((NVFP4, MXFP8, FP8), count):
            shapes = linears_of(kind)
            try:
                limits = limits_of(
                    (consumer,), formats, fqns=tuple(shapes), classes={"transformer": kind}
                )
                made = candidates_of(shapes, formats, limits)
            except FormatError:
                continue  # a format, a class or a Linear that the consumer does not have
            choices = {made.none_quantized, made.all_quantized(), made.rule_of_thumb}
            choices |= {tuple(draw.randrange(count + 1) for _ in made.groups) for _ in range(3)}
            for choice in choices:
                recipe = recipe_of(kind, made.decode(choice))
                for exporter in exporters_for(consumer, formats):
                    assert exporter.obstacles(recipe) == []
                exported += 1
            assert exporter.export(recipe)
    assert exported > 20


@pytest.mark.parametrize("kind", ["FluxTransformer2DModel", "QwenImageTransformer2DModel"])
def test_one_recipe_for_all_of_them(kind: str) -> None:
    """What is proposed for every consumer with the format at once exports to each, in the form that
    is chosen where none is named; something is quantized.
    """
    shapes, formats = linears_of(kind), (NVFP4,)
    takers = [
        name
        for name, cls in EXPORTERS.items()
        if any(NVFP4 in cls(form=form).formats for form in cls.forms)
    ]
    limits = limits_of(takers, formats, fqns=tuple(shapes), classes={"transformer": kind})
    made = candidates_of(shapes, formats, limits)
    recipe = recipe_of(kind, made.decode(made.all_quantized()))
    assert len(recipe.skip) < len(recipe.layers)
    for name in takers:
        assert exporter_for(name, recipe).export(recipe)


def test_consumers_are_names_of_exporters_that_have_the_formats() -> None:
    """Named in any order and twice, they are in the exporters' order; an unknown one, or one that
    lacks the format, is told before anything is loaded.
    """
    assert check_consumers(["comfyui", "torchao", "comfyui"], (NVFP4,)) == ("torchao", "comfyui")
    assert [own.form for own in exporters_for("sglang", (FP8,))] == ["checkpoint", "arguments"]
    with pytest.raises(RecipeError, match="did you mean 'sglang'"):
        check_consumers(["sglan"], (NVFP4,))
    with pytest.raises(FormatError, match=r"vllm-omni with the format mxfp8; .*json: one of fp8"):
        check_consumers(["vllm-omni"], (MXFP8,))
    with pytest.raises(FormatError, match=r"nvfp4 and mxfp8.*one of"):
        check_consumers(["skip-list"], (NVFP4, MXFP8))
    with pytest.raises(FormatError, match="names that it gives the Linears of Unheard"):
        limits_of(("comfyui",), (NVFP4,), fqns=("a",), classes={"transformer": "Unheard"})
