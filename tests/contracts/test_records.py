"""Every record of core, spec and recipes survives a round trip through JSON with all fields set."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from sensitivity.core.patterns import Pattern
from sensitivity.recipes.recipe import Recipe
from sensitivity.recipes.records import ModelInfo
from sensitivity.spec.hand_lists import PublishedList, Reasoned, RuleOfThumb
from sensitivity.spec.prompts import PromptSection
from sensitivity.spec.study_spec import (
    FidelitySection,
    ModelSection,
    PricingSection,
    SearchSection,
    StudySpec,
)

from contracts.round_trip import assert_all_fields_set, assert_round_trip
from support.two_blocks import recipe_data

FOLDER = ModelSection(
    path=Path("weights"),
    config=Path("configs"),
    component="unet",
    components=("unet", "unet_2"),
    variant="fp16",
    weights="random",
    random_seed=3,
    vae_tiling=True,
)
HUB = ModelSection(hub="org/name", revision="main", component="unet")
ONE_SOURCE = {"ModelSection.path", "ModelSection.hub", "ModelSection.revision"}
"""A model has a path, or else a hub and a revision."""

STUDY = StudySpec(
    name="toy",
    title="A toy",
    model=FOLDER,
    settings={"height": 64, "guidance_scale": 2.5, "tiled": True, "negative_prompt": " "},
    prompts=PromptSection(search=("a", "b"), held_out=("c",), seed=5, held_out_seed=6),
    fidelity=FidelitySection(
        net="tiny",
        weights=Path("trunk.safetensors"),
        frame_stride=2,
        audio_weight=0.25,
        max_audio_distance=0.75,
    ),
    search=SearchSection(
        batch_size=4,
        chunk=2,
        order=(1, 0),
        depth_bands=2,
        fused=(("to_q", "to_k"),),
        always_skip=(Reasoned(pattern="*norm*", reason="norms"),),
    ),
    pricing=PricingSection(
        target="h100", batch_size=2, stands_for=16, prompt_tokens=20, negative_prompt_tokens=10
    ),
    rule_of_thumb=RuleOfThumb(min_dim=512, skip=(Reasoned(pattern="head", reason="the last"),)),
    published=(PublishedList(name="list", source="a blog", min_width=64, skip=("head",)),),
)


def full_gate() -> dict[str, Any]:
    """The record of a gate whose every field says something."""
    criterion = {
        "field": "max_typical",
        "asked": "typical LPIPS <= 0.2",
        "decision": "undecided",
        "value": 0.2,
        "interval": [0.1, 0.3],
        "found": "0.2 [0.1, 0.3]",
        "why": "not enough prompts",
        "prompts": 2,
        "prompts_needed": 24,
    }
    return {
        "date": "2026-11-29",
        "decision": "undecided",
        "gate": {"max_typical": 0.2},
        "criteria": [criterion],
        "layers_sha256": "a" * 64,
        "against": "old",
        "net": "alex",
        "per_prompt": [0.1, 0.3],
        "against_per_prompt": [0.1, 0.2],
        "kernels": "native",
        "weights_sha256": "b" * 64,
        "environment": {"torch": "2.15.0"},
    }


def full_recipe() -> Recipe:
    """A recipe of two denoisers whose every field says something."""
    data = recipe_data(notice="for a test")
    layers = {f"{part}.{fqn}": name for part in ("a", "b") for fqn, name in data["layers"].items()}
    shapes = {"bf16_s": 2.8, "quantized_s": 2.0, "speedup": 1.4, "source": "measured"}
    latency = data["latency"] | {
        "compile_mode": "default",
        "stands_for": 16,
        "runtime": "torchao-compiled",
        "covers": "the whole pipeline call",
        "speedup_interval90": [1.4, 1.6],
        "shapes": shapes,
        "whole_run": shapes | {"bf16_s": 3.5, "quantized_s": 2.5},
        "note": "the run saves more",
    }
    timing = {
        "name": "t7",
        "seconds": [2.0, 2.1],
        "bf16_seconds": [3.0, 3.2],
        "source": "measured",
        "covers": "the whole pipeline call",
        "speedup": 1.5,
        "speedup_interval90": [1.4, 1.6],
        "failure": "the third round",
    }
    data["fidelity"]["kernels"] = "native"
    data["model"] |= {
        "revision": "main",
        "component": "a",
        "component_class": "Net",
        "components": {"a": "Net", "b": "Net"},
    }
    data["fidelity"]["lpips"]["simultaneous"] = 3
    data["fidelity"]["lpips"]["native_rounding"] = {
        "lpips": 0.02,
        "change": 0.1,
        "arithmetic": "mslk",
        "skip_list": "rule of thumb",
        "prompts": 8,
    }
    data["fidelity"]["objective"] = "mine:distance"
    data["fidelity"]["judges"] = {
        "psnr": {
            "mean": 31.0,
            "noise_floor": 50.0,
            "higher_is_better": True,
            "unit": "dB",
            "per_prompt": [31.0],
            "prompts": [1],
            "made_by": "scikit-image 0.26",
        }
    }
    data["fidelity"]["motion"] |= {"noise_floor": 0.01}
    data["fidelity"]["audio"]["max_distance"] = 0.75
    data["memory"] |= {
        "peak_bytes": 23_000_000_000,
        "bf16_peak_bytes": 36_000_000_000,
        "peak_source": "measured",
    }
    data["gate"] = full_gate()
    steps = {"first_steps": 2, "last_steps": 1, "mode": "a16", "steps": 28}
    data["step_policy"] = steps
    data["memory"]["beside_bytes"] = 64
    choice = {
        "rule": "knee",
        "max_lpips": 0.2,
        "max_typical": 0.1,
        "max_flips": 2,
        "max_judge": {"flip": 0.1},
        "min_judge": {"psnr": 30.0},
        "min_speedup": 1.2,
        "max_seconds": 3.0,
        "max_memory_bytes": 24_000_000_000,
        "first": "t1",
        "shortlist": ["t1", "t7"],
        "passed_over": ["t9"],
    }
    return Recipe.from_mapping(
        data
        | {
            "layers": layers,
            "skip": [fqn for fqn, name in layers.items() if name == "bf16"],
            "patterns": [{"pattern": "*.down", "reason": "costs quality"}],
            "latency": latency,
            "choice": choice,
            "verified": {"split": "held_out", "prompts": 2},
            "environment": {"torch": "2.15", "gpus": [1, 2.5, True]},
            "front": [
                data["front"][0]
                | {"latency": latency, "memory_bytes": 21_000_000_000, "step_policy": steps}
            ],
            "timings": [timing],
            "refused": {"a.blocks.0.down": "refused by the kernel"},
        }
    )


def test_a_study_survives() -> None:
    """A study of a folder, with every section."""
    assert_all_fields_set(STUDY, only_value=ONE_SOURCE - {"ModelSection.path"})
    assert_round_trip(STUDY, StudySpec.model_dump_json, StudySpec.model_validate_json)


def test_a_model_of_the_hub_survives() -> None:
    """A study of a Hub id."""
    study = STUDY.model_copy(update={"model": HUB})
    assert_round_trip(study, StudySpec.model_dump_json, StudySpec.model_validate_json)


def test_a_recipe_survives() -> None:
    """A recipe of two denoisers, with every part."""
    recipe = full_recipe()
    assert_all_fields_set(recipe, only_value={"Recipe.schema_version"})
    assert_round_trip(recipe, Recipe.to_json, Recipe.model_validate_json)


@pytest.mark.parametrize("record", [Pattern, Recipe, ModelInfo])
def test_unknown_fields_survive(record: type[Any]) -> None:
    """Fields of a later version are there again after a round trip."""
    recipe = full_recipe()
    known = {Pattern: recipe.patterns[0], Recipe: recipe, ModelInfo: recipe.model}[record]
    later = record.model_validate(known.model_dump(mode="json") | {"later": {"a": [1, None]}})
    assert_round_trip(later, record.model_dump_json, record.model_validate_json)
    assert later.model_extra == {"later": {"a": [1, None]}}


# What the helpers themselves notice.


class Pair(NamedTuple):
    left: str
    right: int = 7


@dataclass(frozen=True)
class Box:
    name: str
    pairs: tuple[Pair, ...] = ()
    notes: dict[str, Pair] = field(default_factory=dict)


BOX = Box(name="box", pairs=(Pair("a", 8),), notes={"n": Pair("b", 9)})


def test_fields_with_their_defaults_are_found() -> None:
    """At the top, in a sequence and in a mapping; a field that can have one value may be named."""
    assert_all_fields_set(BOX)
    for unset, named in (
        (replace(BOX, name=""), "Box.name = "),
        (replace(BOX, notes={}), "Box.notes = {}"),
        (replace(BOX, pairs=(Pair("a"),)), r"Box.pairs\[0\].right = 7"),
        (replace(BOX, notes={"n": Pair("b")}), r"Box.notes\['n'\].right = 7"),
    ):
        with pytest.raises(AssertionError, match=named):
            assert_all_fields_set(unset)
    assert_all_fields_set(replace(BOX, pairs=(Pair("a"),)), only_value={"Pair.right"})


def test_losses_and_other_types_are_found() -> None:
    """A field that is not written, and one that comes back equal but of another type."""

    def read(value: Any) -> Pair:
        return Pair(*value)

    assert_round_trip(Pair("a", 8), list, read)
    with pytest.raises(AssertionError):
        assert_round_trip(Pair("a", 8), lambda pair: [pair.left], read)
    with pytest.raises(AssertionError, match="of other types"):
        assert_round_trip(Pair("a", 8), list, lambda value: Pair(value[0], float(value[1])))
