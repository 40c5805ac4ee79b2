"""How does torchao read a list?

The JSON of an `FqnToConfig`: {key: config}, or of any config for `quantize_`, or {component: one of
these}.

    listed = get_reader("torchao").read(json.dumps(config_to_dict(FqnToConfig({"re:.*to_q": config, "proj_out": None}))))
    listed.assign(tree, quantized=FormatName.NVFP4)

Rule, of `quantize_(model, FqnToConfig(...), filter_fn=None)`; torchao 0.18 was read
(`quantization/quant_api.py`: `quantize_`, `_fqn_to_config_handler`) and is run in tests. For each
Linear, in this order:

1. keys that are the whole name of a parameter, `x.weight` or `x.bias`: if there is one, 2, 4 and 5
  are off;
2. a key that is the whole name of the Linear decides;
3. `re:` keys that fullmatch a parameter's name: all of them are applied, not the first, and None
  takes nothing back. Then 4 and 5 are off;
4. the first `re:` key that fullmatches the Linear's name decides;
5. `_default` decides, else the Linear stays as it is.

So `x.bias: None` keeps the weight in bf16, and `re:blocks.*` with a config stops torchao: it fits a
container such as `blocks.0`, or a bias, and `quantize_` fails on both. Where the tree shows such a
failure, `assign` raises: the list does nothing but that. Keys that fit nothing are ignored in
silence.

What it does not see: parameters and modules that are no Linears (a norm that a `re:` key fits fails
as well). Configs are recognised by type: mxfp8, nvfp4, fp8 row-wise; others are refused by name.
Nothing in the JSON is run or imported.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from sensitivity.consumers.lists import ConsumerList, Entry, ModelTree
from sensitivity.consumers.readers._base import Reader
from sensitivity.consumers.rules import hits
from sensitivity.core.format_name import FormatName
from sensitivity.core.json_files import parse_json
from sensitivity.errors import PatternError

_CONFIGS = (
    "MXDynamicActivationMXWeightConfig in float8_e4m3fn, NVFP4DynamicActivationNVFP4WeightConfig,"
    " Float8DynamicActivationFloat8WeightConfig with PerRow, null"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class FqnConfigList(ConsumerList):
    """Keys of an `FqnToConfig`, under torchao's order of precedence.

    `default` of the base is not used.

    Attributes:
        defaults: {component: what becomes of a Linear that no key names}; the component is "" where
            the list names none, and is meant for each then.
    """

    defaults: Mapping[str, FormatName] = field(default_factory=dict)

    def assign(self, tree: ModelTree, *, quantized: FormatName) -> dict[str, FormatName]:
        """{FQN: format} of every Linear.

        Components that the list does not name stay bf16; configs name their formats, `quantized` is
        not asked.

        Raises:
            PatternError: a key is malformed or takes too long to match, or torchao fails on this
                list.
        """
        del quantized
        components = dict.fromkeys(tree.component_of(fqn) for fqn in tree.fqns)
        found: dict[str, FormatName] = {}
        for component in components:
            names = {
                fqn: tree.inside(fqn) for fqn in tree.fqns if tree.component_of(fqn) == component
            }
            part = self._part_for(component)
            found |= (
                dict.fromkeys(names, FormatName.BF16)
                if part is None
                else self._assign_part(part, names, tree)
            )
        return {fqn: found[fqn] for fqn in tree.fqns}

    def _part_for(self, component: str) -> str | None:
        """The list's part for a component of the tree; None if it has none."""
        if "" in self.defaults or component in self.defaults:
            return "" if "" in self.defaults else component
        return next(iter(self.defaults)) if not component and len(self.defaults) == 1 else None

    def _keys(self, part: str) -> dict[str, FormatName]:
        return {
            entry.text: entry.format or FormatName.BF16
            for entry in self.entries
            if entry.rule == "weight-key" and entry.component == part
        }

    def _assign_part(
        self, part: str, names: Mapping[str, str], tree: ModelTree
    ) -> dict[str, FormatName]:
        """{FQN: format} of one component's Linears, for `names` {FQN: name inside it}."""
        keys = self._keys(part)
        biased = {
            name
            for fqn, name in names.items()
            if (f"{name}.bias" in keys if tree.biased is None else fqn in tree.biased)
        }
        parameters = [f"{name}.weight" for name in names.values()] + [
            f"{name}.bias" for name in biased
        ]
        around = containers(names.values())
        matcher = KeyMatcher(keys, [*names.values(), *parameters, *around])
        for name in around:
            _check_container(matcher, name)
        return {
            fqn: _decide(matcher, name, name in biased) or self.defaults[part]
            for fqn, name in names.items()
        }


class KeyMatcher:
    """Looks keys of an `FqnToConfig` up by name.

    Attributes:
        keys: {key: format}, in their order.
        fitting: {name: the `re:` keys that fullmatch it, in their order}.
    """

    def __init__(self, keys: Mapping[str, FormatName], names: Iterable[str]) -> None:
        self.keys, universe = keys, frozenset(names)
        self.fitting: dict[str, list[str]] = {}
        for key in keys:
            for name in (
                hits("regex-full", key.removeprefix("re:"), universe)
                if key.startswith("re:")
                else ()
            ):
                self.fitting.setdefault(name, []).append(key)

    def module(self, name: str) -> str | None:
        """The key that decides by a module's own name, if any: the exact one, else the first `re:`
        key.
        """
        return name if name in self.keys else next(iter(self.fitting.get(name, ())), None)


def containers(names: Iterable[str]) -> list[str]:
    """The modules that Linears lie in, the model itself ("") included."""
    paths: dict[str, None] = {"": None}
    for name in names:
        parts = name.split(".")
        paths |= dict.fromkeys(".".join(parts[:end]) for end in range(1, len(parts)))
    return list(paths)


def _check_container(matcher: KeyMatcher, name: str) -> None:
    key = matcher.module(name)
    if key is not None and matcher.keys[key] is not FormatName.BF16:
        raise PatternError(
            f"found the key {key!r}, which fits"
            f" {f'the module {name!r}' if name else 'the whole model'}, no Linear: torchao's"
            " quantize_ fails there ('no attribute weight'); allowed are keys that fit Linears, or"
            " null; name the Linears, or end a re: key with their last names"
        )


def _decide(matcher: KeyMatcher, name: str, biased: bool) -> FormatName | None:
    """What torchao makes of one Linear; None is its default.

    Numbers are those of the module's docstring.
    """
    parameters = [f"{name}.weight", *([f"{name}.bias"] if biased else [])]
    exact = [parameter for parameter in parameters if parameter in matcher.keys]
    left = [
        parameter for parameter in parameters if matcher.keys.get(parameter) is not FormatName.BF16
    ]
    if biased and not left:
        raise PatternError(
            f"found null for both {name}.weight and {name}.bias: torchao's quantize_ fails on that"
            f" ('pop index out of range'); allowed is one of them; name the Linear instead: {name}"
        )
    if not exact and name in matcher.keys:
        return matcher.keys[name]
    fitting = [(key, parameter) for parameter in left for key in matcher.fitting.get(parameter, ())]
    applied = [
        (key, parameter)
        for key, parameter in [*((p, p) for p in exact), *fitting]
        if matcher.keys[key] is not FormatName.BF16
    ]
    if len(applied) > 1 or any(parameter.endswith(".bias") for _, parameter in applied):
        raise PatternError(
            f"found {', '.join(f'{key!r} for {parameter}' for key, parameter in applied)}:"
            " torchao's quantize_ applies every key that fits a parameter, and fails on a bias and"
            " on a weight that is quantized twice; allowed is one config a weight; let keys name"
            " Linears, or end re: keys with weight"
        )
    if exact or fitting:  # (1) and (3)
        return matcher.keys[applied[0][0]] if applied else FormatName.BF16
    key = matcher.module(name)
    return None if key is None else matcher.keys[key]  # (4)


class TorchaoReader(Reader):
    """JSON of `torchao.core.config.config_to_dict`."""

    name: ClassVar[str] = "torchao"
    words: ClassVar[str] = (
        "JSON of an FqnToConfig (torchao.core.config.config_to_dict), or {component: FqnToConfig}:"
        " exact names, re: by re.fullmatch, _default"
    )

    def read(self, text: str) -> FqnConfigList:
        """The keys of an `FqnToConfig`, or of one a component; another config is what every Linear
        gets.
        """
        data = read_object(text, self.words)
        parts = {"": data} if "_type" in data else data
        entries, defaults = list[Entry](), dict[str, FormatName]()
        for component, config in parts.items():
            found, defaults[component] = read_config(config, component)
            entries += found
        return FqnConfigList(
            consumer=self.name, entries=tuple(entries), defaults=defaults, notes=_notes(entries)
        )

    def looks_like(self, text: str) -> bool:
        """An object with `_type`, or of such objects."""
        data = try_object(text)
        return bool(data) and all(
            isinstance(part, dict) and "_type" in part
            for part in ([data] if "_type" in data else data.values())
        )


def _notes(entries: Iterable[Entry]) -> tuple[str, ...]:
    biases = [
        entry.text
        for entry in entries
        if entry.text.endswith(".bias") and not entry.text.startswith("re:")
    ]
    if not biases:
        return ()
    return (
        (
            f"{len(biases)} key(s) name a bias ({', '.join(biases[:3])}): torchao then looks at no"
            " key for the Linear itself, nor at _default"
        ),
    )


def read_config(config: Any, component: str) -> tuple[list[Entry], FormatName]:
    """(entries, default) of the JSON of an `FqnToConfig`, or of a config for every Linear.

    Raises:
        PatternError: it is no such JSON, or has a config that stands for none of our formats.
    """
    if not isinstance(config, dict) or config.get("_type") not in (
        "FqnToConfig",
        "ModuleFqnToConfig",
    ):
        return [], format_of(config, "every Linear")
    data = config.get("_data")
    maps = (
        [data.get(name) or {} for name in ("fqn_to_config", "module_fqn_to_config")]
        if isinstance(data, dict)
        else []
    )
    if (
        not maps
        or not all(isinstance(keys, dict) for keys in maps)
        or (all(maps) and maps[0] != maps[1])
    ):
        raise PatternError(
            "found an FqnToConfig without one mapping of keys to configs; allowed is fqn_to_config,"
            " or module_fqn_to_config with the same; write it with"
            " torchao.core.config.config_to_dict"
        )
    keys = {key: format_of(value, repr(key)) for key, value in (maps[0] or maps[1]).items()}
    default = keys.pop("_default", FormatName.BF16)
    return [
        Entry(text=key, rule="weight-key", format=value, component=component)
        for key, value in keys.items()
    ], default


def format_of(config: Any, where: str) -> FormatName:
    """The format that a torchao config, as JSON, stands for; null is bf16.

    Raises:
        PatternError: none of ours; the message has its type, and `where` it stands.
    """
    if config is None:
        return FormatName.BF16
    kind = config.get("_type") if isinstance(config, dict) else None
    data = config.get("_data") if isinstance(config, dict) else None
    if not isinstance(kind, str) or not isinstance(data, dict):
        raise PatternError(
            f"found {config!r:.80} for {where}; allowed are configs as"
            f" torchao.core.config.config_to_dict writes them: {_CONFIGS}"
        )
    if kind == "MXDynamicActivationMXWeightConfig":
        dtypes = {
            _name(data.get(side, "float8_e4m3fn")) for side in ("activation_dtype", "weight_dtype")
        }
        if dtypes == {"float8_e4m3fn"} and data.get("block_size", 32) == 32:
            return FormatName.MXFP8
        kind += f" in {' and '.join(sorted(dtypes))}, blocks of {data.get('block_size', 32)}"
    elif kind == "NVFP4DynamicActivationNVFP4WeightConfig":
        return FormatName.NVFP4
    elif kind == "Float8DynamicActivationFloat8WeightConfig":
        granularity = data.get("granularity")
        sides = {
            _name(side)
            for side in (granularity if isinstance(granularity, list) else [granularity])
        }
        if sides == {"PerRow"}:
            return FormatName.FP8
        kind += f" with {' and '.join(sorted(side.replace('None', 'PerTensor') for side in sides))}"
    raise PatternError(
        f"found the config {kind} for {where}; allowed are {_CONFIGS}; the others have no format"
        " here: take them out, or write null"
    )


def _name(value: Any) -> str:
    """The name of a dtype ({"_type":

    "torch.dtype", "_data": name}) or of a granularity ({"_type": name, ...}).
    """
    if not isinstance(value, dict):
        return str(value)
    return str(value.get("_data") if value.get("_type") == "torch.dtype" else value.get("_type"))


def read_object(text: str, words: str) -> dict[str, Any]:
    """The JSON object that a text is.

    Raises PatternError, with what is allowed in `words`, for anything else.
    """
    try:
        data = parse_json(text.removeprefix("\ufeff").encode())
    except ValueError as error:
        raise PatternError(f"{error}; allowed is {words}") from None
    if not isinstance(data, dict) or not data:
        raise PatternError(
            f"found {'an empty object' if data == {} else f'a {type(data).__name__}'}; allowed is"
            f" {words}; name another file or form"
        )
    return data


def try_object(text: str) -> dict[str, Any]:
    """The JSON object that a text is; {} for anything else."""
    if text.removeprefix("\ufeff").lstrip()[:1] != "{":
        return {}
    try:
        return read_object(text, "")
    except PatternError:
        return {}
