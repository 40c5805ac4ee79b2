"""How is a step policy written into a checkpoint, and what does each tool make of it?

    policy_object(StepPolicy(first_steps=2, last_steps=1, mode=EdgeMode.A16))
    # {"schema_version": 1, "type": "first_last_n", ..., "first_steps": {"count": 2, "mode": "a16"},
    #  "last_steps": {"count": 1, "mode": "a16"}, "overlap": "a16", "reasoner": "a16"}
    found = read_policy("vllm-omni", config)       # as vLLM-Omni's own parser, or PatternError

A checkpoint of NVIDIA's Cosmos3 names its policy in `transformer/config.json`, as
`quantization_config.runtime.diffusion_step_policy`: the first and the last denoising steps run
the quantized weights with 16-bit activations (W8A16, W4A16). Four tools read it, and each fails on
what it does not know. All of them read it for Cosmos3 alone; for any other class the key lies in
the file and nothing happens (`ignored_because`).

    tool           formats                  fields           edge modes     one step of a run of one
    diffusers      ModelOpt FP8             others ignored   a16, native    quantized
    vLLM-Omni      ModelOpt FP8, NVFP4      exactly these    a16            16 bits
    SGLang         ModelOpt FP8             exactly these    a16            quantized
    TensorRT-LLM   ModelOpt FP8             exactly these    a16            quantized

`reasoner` is Cosmos3's understanding path, which runs once a request in the last three: its Linears
are in 16 bits at all steps (`a16`) or at none (`native`). A recipe switches all Linears alike, and
is written with `a16`: no Linear runs coarser than the recipe says.

Sources, read and simulated here; diffusers' own parser is run in the tests:

- diffusers 0.42.1, `pipelines/cosmos/mixed_precision.py`. Its `_classify_cosmos3_linear` takes
  `self_attn.to_q`, `to_k`, `to_v` and `to_out` for the generation path and `add_q_proj`, ...,
  `to_add_out` for the reasoner's; in its `transformer_cosmos3.py` it is the other way round. So the
  attention of the generation path follows `reasoner` there, at all steps;
- vLLM-Omni 7a53128c, `diffusion/models/cosmos3/mixed_precision/checkpoint.py` and `config.py`;
- SGLang 081b854c, `multimodal_gen/runtime/layers/quantization/modelopt_fp8_step_precision.py`;
- TensorRT-LLM 6a10f354, `_torch/visual_gen/models/cosmos3/step_precision.py`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from sensitivity.core.step_policy import EdgeMode, StepPolicy
from sensitivity.core.words import did_you_mean, printable
from sensitivity.errors import PatternError

KEY, RUNTIME = "diffusion_step_policy", "runtime"
"""Where a policy lies in a `quantization_config`: `runtime.diffusion_step_policy`."""
TYPE, INDEX_SPACE, COMPONENT = "first_last_n", "denoising_loop_iteration", "transformer"
FIXED: Mapping[str, object] = MappingProxyType(
    {
        "schema_version": 1,
        "type": TYPE,
        "index_space": INDEX_SPACE,
        "default_mode": "native",
        "overlap": "a16",
    }
)
"""Fields with one value that all tools take."""
FIELDS = (*FIXED, "scope", "first_steps", "last_steps", "reasoner")
"""All fields, each of which every tool requires."""
RANGE_FIELDS = ("count", "mode")
COSMOS3 = "Cosmos3OmniTransformer"
"""The one class of diffusers' denoisers for which the tools read a policy."""
REASONER_MODES = ("a16", "native")


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointPolicy:
    """A policy as a tool has understood it.

    Attributes:
        first_steps, last_steps: how many steps run with 16-bit activations.
        reasoner: "a16" or "native", of Cosmos3's understanding path at all steps.
        overlap: what runs where the first and the last steps overlap, "a16" or "native".
    """

    first_steps: int
    last_steps: int
    reasoner: str = "a16"
    overlap: str = "a16"

    @property
    def policy(self) -> StepPolicy:
        """The same as a `StepPolicy`: quantized weights, activations in 16 bits."""
        return StepPolicy(
            first_steps=self.first_steps, last_steps=self.last_steps, mode=EdgeMode.A16
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyTool:
    """A tool that reads policies.

    Attributes:
        label: what it is called in messages.
        algorithms: the `quant_algo` of the checkpoints whose Linears it switches.
        is_lenient: whether it takes other fields, more values of some, and numbers that equal them.
        needs_mapping: whether a `runtime` that is no object is an error; else it is no policy.
    """

    label: str
    algorithms: tuple[str, ...]
    is_lenient: bool = False
    needs_mapping: bool = True


POLICY_TOOLS: Mapping[str, PolicyTool] = MappingProxyType(
    {
        "diffusers": PolicyTool(label="diffusers 0.42.1", algorithms=("FP8",), is_lenient=True),
        "vllm-omni": PolicyTool(label="vLLM-Omni", algorithms=("FP8", "NVFP4")),
        "sglang": PolicyTool(label="SGLang", algorithms=("FP8",)),
        "tensorrt-llm": PolicyTool(label="TensorRT-LLM", algorithms=("FP8",), needs_mapping=False),
    }
)
"""{name: tool} of those that read a checkpoint's policy."""


def policy_object(policy: StepPolicy, *, reasoner: str = "a16") -> dict[str, Any]:
    """The object `diffusion_step_policy`, which every tool of `POLICY_TOOLS` takes.

    Raises:
        PatternError: the policy is plain, or its edge steps run in bf16, which no tool has.
    """
    if policy.is_plain or policy.mode is not EdgeMode.A16:
        raise PatternError(
            f"found the step policy {policy.words!r}; expected one whose first or last steps run"
            " with quantized weights and 16-bit activations, which is all that a checkpoint can"
            " say: search with the edge mode a16"
        )
    return {
        "schema_version": 1,
        "type": TYPE,
        "index_space": INDEX_SPACE,
        "scope": [COMPONENT],
        "default_mode": "native",
        "first_steps": {"count": policy.first_steps, "mode": "a16"},
        "last_steps": {"count": policy.last_steps, "mode": "a16"},
        "overlap": "a16",
        "reasoner": reasoner,
    }


def raw_policy(config: Mapping[str, Any]) -> Any:
    """What a `quantization_config` has as its policy, unchecked; None where there is nothing."""
    runtime = config.get(RUNTIME)
    return runtime.get(KEY) if isinstance(runtime, Mapping) else runtime


def read_policy(tool: str, config: Mapping[str, Any]) -> CheckpointPolicy | None:
    """The policy of a `quantization_config`, as a tool reads it for Cosmos3.

    Args:
        tool: a key of `POLICY_TOOLS`.
        config: the `quantization_config`, or what `hf_quant_config.json` has in its place.

    Returns:
        The policy; None where there is none, or the tool does not apply it to this component.

    Raises:
        PatternError: the tool refuses the policy, or the checkpoint that has it.
    """
    reader = POLICY_TOOLS[tool]
    runtime = config.get(RUNTIME)
    if reader.is_lenient and (runtime is None or not _is_modelopt(config)):
        return None
    if RUNTIME not in config or (not reader.needs_mapping and not isinstance(runtime, Mapping)):
        return None
    if not isinstance(runtime, Mapping):
        raise _refused(reader, f"runtime is {_shown(runtime)}, not an object")
    if KEY not in runtime or (reader.is_lenient and runtime[KEY] is None):
        return None
    raw = runtime[KEY]
    if not isinstance(raw, Mapping):
        raise _refused(reader, f"{KEY} is {_shown(raw)}, not an object")
    found = _lenient(reader, raw, config) if reader.is_lenient else _strict(reader, raw)
    if found is not None and not reader.is_lenient:
        _check_algorithm(reader, config)
    return found


def ignored_because(tool: str, kinds: Iterable[str]) -> str:
    """Why a tool does not apply a checkpoint's policy to denoisers of these classes; "" if it does.

    Classes are those of diffusers.
    """
    others = [kind for kind in kinds if kind != COSMOS3]
    if not others:
        return ""
    return (
        f"{POLICY_TOOLS[tool].label} reads {KEY} for {COSMOS3} alone, and this is"
        f" {', '.join(others)}: every step would run quantized"
    )


def _strict(reader: PolicyTool, raw: Mapping[str, Any]) -> CheckpointPolicy | None:
    """As vLLM-Omni, SGLang and TensorRT-LLM parse it: these fields, these values."""
    _check_fields(reader, raw, FIELDS, KEY)
    if type(raw["schema_version"]) is not int or raw["schema_version"] != 1:
        raise _refused(
            reader, f"schema_version is {_shown(raw['schema_version'])}, not the integer 1"
        )
    for name, value in FIXED.items():
        if raw[name] != value:
            raise _refused(reader, f"{name} is {_shown(raw[name])}, not {value!r}")
    scope = raw["scope"]
    if not isinstance(scope, list) or not scope or not _texts(scope):
        raise _refused(reader, f"scope is {_shown(scope)}, not a list of component names")
    counts = []
    for name in ("first_steps", "last_steps"):
        part = _range(reader, raw, name)
        _check_fields(reader, part, RANGE_FIELDS, name)
        if part["mode"] != "a16":
            raise _refused(reader, f"{name}.mode is {_shown(part['mode'])}, not 'a16'")
        counts.append(_count(reader, part["count"], name))
    reasoner = _reasoner(reader, raw["reasoner"])
    if COMPONENT not in scope:
        return None
    return CheckpointPolicy(first_steps=counts[0], last_steps=counts[1], reasoner=reasoner)


def _range(reader: PolicyTool, raw: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The object of the first or the last steps. Raises as the reader does where it is none."""
    part = raw[name]
    if not isinstance(part, Mapping):
        raise _refused(reader, f"{name} is {_shown(part)}, not an object")
    return part


def _lenient(
    reader: PolicyTool, raw: Mapping[str, Any], config: Mapping[str, Any]
) -> CheckpointPolicy:
    """As diffusers parses it: fields that it does not know are not looked at, `native` is a mode,
    and what equals an expected value is one.
    """
    if missing := [name for name in FIELDS if name not in raw]:
        raise _refused(reader, f"it lacks {', '.join(missing)}")
    for name in ("schema_version", "type", "index_space", "default_mode"):
        if raw[name] != FIXED[name]:
            raise _refused(reader, f"{name} is {_shown(raw[name])}, not {FIXED[name]!r}")
    scope = raw["scope"]
    if not isinstance(scope, list | tuple) or set(scope if _texts(scope) else ()) != {COMPONENT}:
        raise _refused(reader, f"scope is {_shown(scope)}, not ['{COMPONENT}']")
    algorithm = _algorithm(config)
    if algorithm and "FP8" not in algorithm:
        raise _refused(reader, f"the checkpoint is {algorithm}, not ModelOpt FP8")
    counts = []
    for name in ("first_steps", "last_steps"):
        part = _range(reader, raw, name)
        mode = part.get("mode")
        if mode not in REASONER_MODES:
            raise _refused(reader, f"{name}.mode is {_shown(mode)}, not 'a16' or 'native'")
        count = _count(reader, part.get("count"), name)
        counts.append(0 if mode == "native" else count)
    overlap = str(raw["overlap"]).strip().lower()
    if overlap not in REASONER_MODES:
        raise _refused(reader, f"overlap is {_shown(raw['overlap'])}, not 'a16' or 'native'")
    return CheckpointPolicy(
        first_steps=counts[0],
        last_steps=counts[1],
        reasoner=_reasoner(reader, raw["reasoner"]),
        overlap=overlap,
    )


def _check_fields(
    reader: PolicyTool, raw: Mapping[str, Any], fields: Iterable[str], name: str
) -> None:
    known = tuple(fields)
    unknown = [str(key) for key in raw if key not in known]
    if unknown:
        hint = did_you_mean(unknown[0][:80], known, otherwise="take it out")
        raise _refused(reader, f"{name} has {_shown(unknown[0])}, which it does not know; {hint}")
    if missing := [field for field in known if field not in raw]:
        raise _refused(reader, f"{name} lacks {', '.join(missing)}")


def _count(reader: PolicyTool, value: object, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise _refused(reader, f"{name}.count is {_shown(value)}, not a number of steps from 0 on")
    return value


def _reasoner(reader: PolicyTool, value: object) -> str:
    if not isinstance(value, str) or value not in REASONER_MODES:
        raise _refused(reader, f"reasoner is {_shown(value)}, not 'a16' or 'native'")
    return value


def _check_algorithm(reader: PolicyTool, config: Mapping[str, Any]) -> None:
    algorithm = _algorithm(config)
    if algorithm not in reader.algorithms:
        known = " or ".join(reader.algorithms)
        raise _refused(
            reader, f"the checkpoint's quant_algo is {_shown(algorithm)}, not ModelOpt's {known}"
        )


def _algorithm(config: Mapping[str, Any]) -> str:
    return str(config.get("quant_algo") or config.get("quant_type") or "").upper()


def _is_modelopt(config: Mapping[str, Any]) -> bool:
    """Whether diffusers takes the config for one of ModelOpt's FP8; of others it reads no policy.

    Where neither method nor algorithm is named it looks at the weights, which are not seen here.
    """
    method = str(config.get("quant_method") or "modelopt").strip().lower()
    algorithm = _algorithm(config)
    return method == "modelopt" and (not algorithm or "FP8" in algorithm)


def _texts(values: Iterable[object]) -> bool:
    return all(isinstance(value, str) for value in values)


def _shown(value: object) -> str:
    return printable(repr(value)[:80])


def _refused(reader: PolicyTool, why: str) -> PatternError:
    return PatternError(
        f"found a {KEY} that {reader.label} refuses: {why}; expected a policy as it parses it:"
        " export it again, or take it out"
    )
