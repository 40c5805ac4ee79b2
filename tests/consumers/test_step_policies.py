"""Step policies of checkpoints: what is written is what each tool's parser takes, and what a parser
refuses is refused here.

diffusers' own parser runs beside ours. The cases of the others are those of their own tests:
vLLM-Omni's `test_cosmos3_mixed_precision.py`, SGLang's `test_modelopt_fp8_step_precision.py`,
TensorRT-LLM's `test_step_precision.py`.
"""

import copy
import inspect
import json
from typing import Any

import diffusers
import pytest
import torch
from diffusers.models.transformers import transformer_cosmos3
from diffusers.pipelines.cosmos.mixed_precision import (
    FIRST_LAST_N_FP8_POLICY,
    Cosmos3MixedPrecisionConfig,
    _classify_cosmos3_linear,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from sensitivity.consumers.exporters import get_exporter
from sensitivity.consumers.served_names import unknown_linears
from sensitivity.consumers.step_policies import (
    COSMOS3,
    FIELDS,
    POLICY_TOOLS,
    CheckpointPolicy,
    ignored_because,
    policy_object,
    read_policy,
)
from sensitivity.core.step_policy import PLAIN, EdgeMode, StepPolicy
from sensitivity.errors import PatternError, RecipeError
from sensitivity.recipes.recipe import Recipe
from sensitivity.recipes.without_policy import without_step_policy

from support.policies import ATTENTION, COSMOS3_LINEARS, cosmos3_recipe
from support.served import tree

STRICT = ("vllm-omni", "sglang", "tensorrt-llm")
every_tool = pytest.mark.parametrize("tool", POLICY_TOOLS)


def config(policy: Any, **changes: Any) -> dict[str, Any]:
    """A `quantization_config` with a policy."""
    return {
        "quant_method": "modelopt",
        "quant_algo": "FP8",
        "runtime": {"diffusion_step_policy": policy},
        **changes,
    }


def published(**changes: Any) -> dict[str, Any]:
    """NVIDIA's policy of the FP8 checkpoints of Cosmos3, with changes."""
    return {**copy.deepcopy(FIRST_LAST_N_FP8_POLICY), **changes}


def of_diffusers(value: dict[str, Any]) -> CheckpointPolicy | None:
    """What diffusers' own code makes of a config; its errors are raised."""
    found = Cosmos3MixedPrecisionConfig.resolve(quantization_config=value)
    if not found.enabled:
        return None
    return CheckpointPolicy(
        first_steps=found.first_steps,
        last_steps=found.last_steps,
        reasoner="a16" if found.reasoner_policy == "high_precision" else "native",
        overlap=found.overlap,
    )


@every_tool
def test_the_published_policy_is_what_we_write(tool: str) -> None:
    """NVIDIA's own object comes out for its counts, and every tool reads them back."""
    policy = StepPolicy(first_steps=3, last_steps=3, mode=EdgeMode.A16)
    assert policy_object(policy) == published()
    found = read_policy(tool, config(policy_object(policy)))
    assert found == CheckpointPolicy(first_steps=3, last_steps=3)
    assert found is not None
    assert found.policy == policy


def test_a_checkpoint_says_nothing_of_bf16_steps() -> None:
    """Edge steps in bf16, and a policy without steps, are refused when they are written."""
    for policy in (PLAIN, StepPolicy(first_steps=1, mode=EdgeMode.BF16)):
        with pytest.raises(PatternError, match="16-bit activations"):
            policy_object(policy)


CHANGES: list[dict[str, Any]] = [
    {"schema_version": 2},
    {"schema_version": True},
    {"schema_version": 1.0},
    {"schema_version": "1"},
    {"type": "sigma_ranges"},
    {"index_space": "scheduler_timestep"},
    {"default_mode": "a16"},
    {"overlap": "native"},
    {"overlap": "A16"},
    {"overlap": None},
    {"reasoner": "fp8"},
    {"reasoner": "native"},
    {"reasoner": ["a16"]},
    {"scope": []},
    {"scope": ["vae"]},
    {"scope": ["transformer", "vae"]},
    {"scope": "transformer"},
    {"scope": [1]},
    {"future_knob": "x"},
    {"first_steps": {"count": -1, "mode": "a16"}},
    {"first_steps": {"count": True, "mode": "a16"}},
    {"first_steps": {"count": 3.0, "mode": "a16"}},
    {"first_steps": {"count": float("nan"), "mode": "a16"}},
    {"first_steps": {"count": "3", "mode": "a16"}},
    {"first_steps": {"count": None, "mode": "a16"}},
    {"first_steps": {"count": 10**30, "mode": "a16"}},
    {"last_steps": {"count": 3, "mode": "native"}},
    {"last_steps": {"count": 3, "mode": "bf16"}},
    {"last_steps": {"count": 3, "mode": ["a16"]}},
    {"last_steps": {"count": 3}},
    {"last_steps": {"count": 3, "mode": "a16", "sigma": 1.0}},
    {"last_steps": 3},
    {"last_steps": None},
]
DROPPED = [{name: ...} for name in FIELDS]


def changed(changes: dict[str, Any]) -> dict[str, Any]:
    """The published policy with changes; `...` takes a field out."""
    return {name: value for name, value in published(**changes).items() if value is not ...}


@pytest.mark.parametrize("changes", [*CHANGES, *DROPPED], ids=str)
def test_we_read_as_diffusers_does(changes: dict[str, Any]) -> None:
    """Ours gives diffusers' result, and refuses what its parser refuses."""
    value = config(changed(changes))
    try:
        expected = of_diffusers(value)
    except (TypeError, ValueError):
        with pytest.raises(PatternError, match=r"diffusers 0\.42\.1 refuses"):
            read_policy("diffusers", value)
    else:
        assert read_policy("diffusers", value) == expected


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"runtime": None},
        config(None),
        config([]),
        config(published(), runtime=True),
        config(published(), quant_method="torchao"),
        config(published(), quant_method="modelopt", quant_algo="NVFP4"),
        config(published(), quant_algo=None, quant_type="fp8"),
        config(published(), quant_algo="MXFP8"),
    ],
    ids=str,
)
def test_we_look_where_diffusers_looks(value: dict[str, Any]) -> None:
    """Other backends and formats have no policy there; a runtime that is no object is an error."""
    try:
        expected = of_diffusers(value)
    except (TypeError, ValueError):
        with pytest.raises(PatternError, match="refuses"):
            read_policy("diffusers", value)
    else:
        assert read_policy("diffusers", value) == expected


ALL_TAKE = [{"reasoner": "native"}, {"first_steps": {"count": 10**30, "mode": "a16"}}]
NOT_OURS = [{"scope": ["vae"]}]
"""Another component's policy, which the strict tools leave to it."""
OTHERS_TOO = [{"scope": ["transformer", "vae"]}]


@pytest.mark.parametrize("tool", STRICT)
@pytest.mark.parametrize("changes", [*CHANGES, *DROPPED], ids=str)
def test_the_servers_take_these_fields_and_values_alone(tool: str, changes: dict[str, Any]) -> None:
    """Each unknown or missing field, and each other value, is refused in words."""
    value = config(changed(changes))
    if changes in NOT_OURS:
        assert read_policy(tool, value) is None
    elif changes in ALL_TAKE + OTHERS_TOO:
        assert read_policy(tool, value) is not None
    else:
        with pytest.raises(PatternError, match=f"{POLICY_TOOLS[tool].label} refuses") as refused:
            read_policy(tool, value)
        assert str(refused.value).isprintable()
        assert len(str(refused.value)) < 400


@pytest.mark.parametrize(
    ("tool", "algorithm", "takes"),
    [
        ("vllm-omni", "FP8", True),
        ("vllm-omni", "NVFP4", True),
        ("vllm-omni", "MIXED_PRECISION", False),
        ("sglang", "FP8", True),
        ("sglang", "NVFP4", False),
        ("tensorrt-llm", "NVFP4", False),
    ],
)
def test_the_format_must_be_one_that_is_switched(tool: str, algorithm: str, takes: bool) -> None:
    """vLLM-Omni switches ModelOpt's FP8 and NVFP4, the others its FP8."""
    value = config(published(), quant_algo=algorithm)
    if takes:
        assert read_policy(tool, value) is not None
    else:
        with pytest.raises(PatternError, match=f"quant_algo is '{algorithm}'"):
            read_policy(tool, value)


def test_a_runtime_that_is_no_object() -> None:
    """TensorRT-LLM sees no policy in it, the others fail."""
    value = {"quant_algo": "FP8", "runtime": [1]}
    assert read_policy("tensorrt-llm", value) is None
    for tool in ("vllm-omni", "sglang"):
        with pytest.raises(PatternError, match=r"runtime is \[1\], not an object"):
            read_policy(tool, value)


hostile = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(list(POLICY_TOOLS)), st.sampled_from([*FIELDS, "x"]), hostile)
def test_any_value_is_read_or_refused(tool: str, name: str, value: Any) -> None:
    """No value of any field raises another error."""
    for policy in (published(**{name: value}), value):
        try:
            read_policy(tool, config(policy))
        except PatternError as error:
            assert "expected" in str(error)  # noqa: PT017 - any value may also be taken


@every_tool
def test_other_models_run_every_step_alike(tool: str) -> None:
    """The tools look for a policy in the code of one model."""
    assert ignored_because(tool, [COSMOS3]) == ""
    assert "for Cosmos3OmniTransformer alone" in ignored_because(tool, ["FluxTransformer2DModel"])


@pytest.mark.parametrize(
    ("to", "form", "fmt"),
    [
        ("diffusers", "modelopt", "fp8"),
        ("vllm-omni", "checkpoint", "fp8"),
        ("vllm-omni", "checkpoint", "nvfp4"),
        ("sglang", "checkpoint", "fp8"),
    ],
)
def test_an_exported_policy_is_parsed(to: str, form: str, fmt: str) -> None:
    """The checkpoint that is exported for Cosmos3 has the recipe's steps, for diffusers by its own
    parser, and each Linear its format.
    """
    recipe = cosmos3_recipe(fmt, first_steps=2, last_steps=1)
    exporter = type(get_exporter(to))(form=form)
    value = json.loads(exporter.export(recipe))
    expected = CheckpointPolicy(first_steps=2, last_steps=1)
    assert read_policy(to, value) == expected
    if fmt == "fp8":
        assert of_diffusers(value) == expected
        assert value["quant_algo"] == "FP8"
    assert exporter.verify(recipe, COSMOS3_LINEARS) == recipe.layers
    if to == "diffusers":
        assert set(value["ignore"]) == set(recipe.skip)


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        (cosmos3_recipe("fp8", mode="bf16"), "the recipe's run in bf16"),
        (cosmos3_recipe("fp8", kind="FluxTransformer2DModel"), "for Cosmos3OmniTransformer alone"),
        (cosmos3_recipe("nvfp4"), "by step, and none in nvfp4"),
        (cosmos3_recipe("fp8", component="unet"), "for the component 'transformer'"),
    ],
)
def test_a_policy_that_a_checkpoint_cannot_carry_is_refused(recipe: Recipe, reason: str) -> None:
    """Bf16 edge steps, another model, format or component; the message says what can be done."""
    exporter = type(get_exporter("sglang"))(form="checkpoint")
    assert any(
        reason in why for why in exporter.policy_obstacles(recipe.assignment, recipe.model.classes)
    )
    with pytest.raises(RecipeError, match="`without_step_policy`"):
        exporter.export(recipe)


def test_the_list_alone_says_that_its_numbers_are_not_its_own() -> None:
    """In what is exported, and wherever the recipe is shown; a recipe without a policy stays."""
    recipe = cosmos3_recipe("fp8", mode="bf16")
    alone = without_step_policy(recipe)
    text = get_exporter("skip-list").export(alone)
    assert "# notice: without its step policy (first 1 step in bf16)" in text
    assert alone.assignment == recipe.layers
    assert without_step_policy(alone) is alone


def test_cosmos3s_linears_are_those_of_its_class() -> None:
    """The names that the exports are proved on are diffusers' own, and both servers know them."""
    with torch.device("meta"):
        net = diffusers.Cosmos3OmniTransformer(
            num_hidden_layers=2, hidden_size=64, intermediate_size=64, vocab_size=32
        )
    linears = [fqn for fqn, module in net.named_modules() if isinstance(module, torch.nn.Linear)]
    own = [fqn for fqn in linears if "audio" not in fqn and "action" not in fqn]
    assert set(own) == set(COSMOS3_LINEARS)
    for consumer in ("vllm-omni", "sglang"):
        assert unknown_linears(consumer, tree(COSMOS3, linears)) == []


def test_diffusers_takes_the_attention_of_generation_for_the_reasoners() -> None:
    """What the exporter's note says of diffusers 0.42.1: where it fails, take the note out."""
    assert {name: _classify_cosmos3_linear(f"layers.0.self_attn.{name}") for name in ATTENTION} == {
        name: "reasoner" if name.startswith("add_") else "generation" for name in ATTENTION
    }
    source = inspect.getsource(transformer_cosmos3.Cosmos3AttnProcessor.__call__)
    assert "attn.to_q(und_seq)" in source
    assert "attn.add_q_proj(gen_seq)" in source
