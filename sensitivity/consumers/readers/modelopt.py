"""How NVIDIA ModelOpt reads a list:

`quant_cfg` for `mtq.quantize`, and the `hf_quant_config.json` of a checkpoint.

    {"quant_cfg": [{"quantizer_name": "*", "enable": False},
                   {"quantizer_name": "blocks.*.weight_quantizer", "parent_class": "nn.Linear", "cfg": {...}}, ...], "algorithm": "max"}
    {"quantization": {"quant_algo": "NVFP4", "exclude_modules": ["proj_out"]}}

A Linear has a weight_quantizer, an input_quantizer and an output_quantizer. Entries are shell
patterns (Python's `fnmatch`) on the names of quantizers, such as
`blocks.0.attn.to_q.weight_quantizer`; all of them are applied in order, so the last that matches
decides. A quantizer that no entry turns off is on, in ModelOpt's own default (int8). An entry
without `cfg` only turns quantizers on or off. A list that gives no `cfg` at all is read as an
addition to the config of the format that the user names.

Since ModelOpt 0.44 `quant_cfg` is a list. Up to 0.43 it is a dict, whose key `default` comes first
wherever it stands, and whose cfgs turn nothing on without `enable`. Later releases still take a
dict, and read it as they read a list.

In `hf_quant_config.json`, `exclude_modules` are shell patterns on module names, or
`quantized_layers` gives each Linear its `quant_algo` (MIXED_PRECISION). The form that ModelOpt
writes into `config.json` (`quant_method: modelopt`, `ignore`) is read alike.

Read in ModelOpt 0.47.0 (`torch/quantization/conversion.py`: `set_quantizer_by_cfg`,
`_match_quantizer`; `config.py`: `normalize_quant_cfg_list`; `torch/export/quant_utils.py`:
`process_layer_quant_config`) and 0.43.0 (the dict), and run with 0.47.0. The filters of its
diffusers examples (`pattern.match(name)`) are regular expressions: the reader `regex` reads them. A
Python text is parsed, never run (`literals`).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from sensitivity.consumers.lists import ConsumerList, Entry, ModelTree
from sensitivity.consumers.readers._base import Reader
from sensitivity.consumers.readers.literals import MAX_ITEMS, parse_literal
from sensitivity.consumers.rules import MAX_ENTRY, hits
from sensitivity.core.format_name import FormatName
from sensitivity.core.patterns import META
from sensitivity.errors import PatternError

QUANTIZERS = ("weight_quantizer", "input_quantizer", "output_quantizer")
LINEAR = "nn.Linear"

ALGORITHMS: Mapping[str, FormatName] = {
    "NVFP4": FormatName.NVFP4,
    "MXFP8": FormatName.MXFP8,
    "FP8_PER_CHANNEL_PER_TOKEN": FormatName.FP8,
    "FP8": FormatName.FP8,
}
"""`quant_algo` -> format."""

PER_TENSOR = (
    "fp8 there has one scale a tensor, or scales from calibration; this tool knows fp8 with a scale"
    " a row, computed at run time"
)


class Numerics(NamedTuple):
    """What a `cfg` makes of a tensor.

    `rowwise`: one fp8 scale a row of the weight, or a token computed at run time.
    """

    format: FormatName
    rowwise: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizerEntry(Entry):
    """One entry of a `quant_cfg`.

    `numerics` is None where it only turns quantizers on or off, `enable` where it leaves that;
    `parent` is the modules' class.
    """

    numerics: Numerics | None = None
    enable: bool | None = True
    parent: str = ""

    @property
    def is_about_linears(self) -> bool:
        """Whether it could hit the weight or the input of a Linear, if the names were right."""
        tail = self.text[max(self.text.rfind(sign) for sign in "*?]") + 1 :]
        others = tail.endswith("_quantizer") and not tail.endswith(
            ("weight_quantizer", "input_quantizer")
        )
        return self.parent in ("", LINEAR) and not (
            others and not any(name.endswith(tail) for name in QUANTIZERS[:2])
        )


class State(NamedTuple):
    """What has become of a quantizer so far."""

    numerics: Numerics | None
    on: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizerList(ConsumerList):
    """A `quant_cfg`:

    `steps` are all of its entries, `entries` those about the weights and inputs of Linears.
    """

    steps: tuple[QuantizerEntry, ...]

    def hits(self, entry: Entry, tree: ModelTree) -> frozenset[str]:
        """The Linears of which an entry names the weight_quantizer or the input_quantizer."""
        names = self.names(tree)
        return frozenset().union(
            *(self._matched(entry, kind, names, tree) for kind in QUANTIZERS[:2])
        )

    def assign(self, tree: ModelTree, *, quantized: FormatName) -> dict[str, FormatName]:
        """Raises PatternError as well where a Linear would be quantized in half, in two formats, or
        in one that this tool does not have.
        """
        states = self.states(tree)
        default = None if any(step.numerics for step in self.steps) else quantized
        decided: dict[str, FormatName] = {}
        problems = []
        for fqn in tree.fqns:
            found = _decide(*(states[kind][fqn] for kind in QUANTIZERS), default=default)
            if isinstance(found, FormatName):
                decided[fqn] = found
            else:
                problems.append(f"{fqn} {found}")
        if problems:
            more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
            raise PatternError(
                f"found {len(problems)} Linear(s) that this quant_cfg leaves in no format of this"
                f" tool: {'; '.join(problems[:3])}{more}. Allowed are weights and inputs in one"
                ' format, or both off; begin with {"quantizer_name": "*", "enable": False}'
                " and name both quantizers"
            )
        return decided

    def states(self, tree: ModelTree) -> dict[str, dict[str, State]]:
        """{quantizer: {FQN: what it is in the end}}."""
        names = self.names(tree)
        states = {
            kind: dict.fromkeys(tree.fqns, State(None, on=kind != "output_quantizer"))
            for kind in QUANTIZERS
        }
        for step in self.steps:
            for kind, state in states.items():
                for fqn in self._matched(step, kind, names, tree):
                    state[fqn] = State(
                        step.numerics or state[fqn].numerics,
                        state[fqn].on if step.enable is None else step.enable,
                    )
        return states

    def _matched(
        self, entry: Entry, kind: str, names: Mapping[str, set[str]], tree: ModelTree
    ) -> frozenset[str]:
        if getattr(entry, "parent", "") not in ("", LINEAR):
            return frozenset()
        if META.isdisjoint(entry.text):
            module, _, quantizer = entry.text.rpartition(".")
            found = names.get(module, set()) if quantizer == kind else set()
        else:
            seen = {f"{name}.{kind}": name for name in names}
            found = set().union(*(names[seen[name]] for name in hits("fnmatch", entry.text, seen)))
        return frozenset(
            fqn
            for fqn in found
            if not (entry.component and tree.classes) or tree.component_of(fqn) == entry.component
        )


def _decide(
    weight: State, inputs: State, output: State, *, default: FormatName | None
) -> FormatName | str:
    """A Linear's format, or what is wrong."""
    if output.on:
        return "has its output quantized"
    if not weight.on and not inputs.on:
        return FormatName.BF16
    if weight.on != inputs.on:
        return f"has only its {'weight' if weight.on else 'input'} quantized"
    formats = {state.numerics.format if state.numerics else default for state in (weight, inputs)}
    if None in formats:
        return "is left in ModelOpt's default (int8)"
    return (
        formats.pop() or FormatName.BF16
        if len(formats) == 1
        else f"has {' and '.join(sorted(f for f in formats if f))} mixed"
    )


class ModelOptReader(Reader):
    """`quant_cfg` as Python or JSON, and `hf_quant_config.json`."""

    name: ClassVar[str] = "modelopt"
    words: ClassVar[str] = (
        "ModelOpt's quant_cfg (Python or JSON): fnmatch on quantizers' names, the last match"
        " decides; or hf_quant_config.json"
    )

    def read(self, text: str) -> ConsumerList:
        """A config, or {component: config}."""
        value = parse_literal(text, wanted=_is_config)
        if _is_config(value):
            lists = {"": _read_config(value, "")}
        elif (
            isinstance(value, Mapping)
            and value
            and all(_is_config(child) for child in value.values())
        ):
            lists = {
                str(component): _read_config(child, str(component))
                for component, child in value.items()
            }
        else:
            raise PatternError(
                f"found a {type(value).__name__} that is no ModelOpt config; allowed are a dict"
                " with quant_cfg, its list of entries with quantizer_name, the JSON of"
                " hf_quant_config.json, or one of these for each component; print the config and"
                " save what it prints"
            )
        return _joined(lists)

    def looks_like(self, text: str) -> bool:
        """By the words that the forms are made of."""
        return any(
            word in text
            for word in ("quantizer_name", "weight_quantizer", '"quant_algo"', '"quantized_layers"')
        )


def _joined(parts: Mapping[str, ConsumerList]) -> ConsumerList:
    """One list of {component: its list}."""
    lists = list(parts.values())
    first = lists[0]
    notes = tuple(dict.fromkeys(note for one in lists for note in one.notes))
    entries = tuple(entry for one in lists for entry in one.entries)
    if len(entries) > MAX_ITEMS:
        raise PatternError(
            f"found {len(entries)} entries; allowed are {MAX_ITEMS}; a model has fewer quantizers:"
            " name another file"
        )
    if any(type(one) is not type(first) for one in lists):
        raise PatternError(
            "found components in different forms; allowed is one form; read one component's at a"
            " time"
        )
    if isinstance(first, QuantizerList):
        steps = tuple(step for one in lists if isinstance(one, QuantizerList) for step in one.steps)
        return QuantizerList(
            consumer=first.consumer, entries=entries, steps=steps, last_wins=True, notes=notes
        )
    if len(lists) == 1:
        return first
    defaults = {component: one.default for component, one in parts.items()}
    return ConsumerList(
        consumer=first.consumer,
        entries=entries,
        default=FormatName.BF16,
        defaults=defaults,
        notes=notes,
    )


def _is_config(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(
            key in value
            for key in ("quant_cfg", "quantization", "quant_algo", "quantization_config")
        ) or (
            bool(value)
            and any(
                isinstance(key, str) and (key.endswith("quantizer") or "*" in key) for key in value
            )
        )
    return (
        isinstance(value, list) and bool(value) and all(isinstance(item, Mapping) for item in value)
    )


def _read_config(value: Any, component: str) -> ConsumerList:
    if isinstance(value, Mapping) and isinstance(value.get("quantization_config"), Mapping):
        value = value["quantization_config"]
    if isinstance(value, Mapping) and ("quantization" in value or "quant_algo" in value):
        return _read_checkpoint(value, component)
    steps, notes = [], []
    raw = value.get("quant_cfg", value) if isinstance(value, Mapping) else value
    if not isinstance(raw, (Mapping, list)):
        raise PatternError(
            f"found a quant_cfg that is a {type(raw).__name__}; allowed are a list of entries, or a"
            " dict; print the config and save that"
        )
    for name, parent, cfg, enable in _flat(raw):
        steps.append(_entry(name, parent, cfg, enable, component))
    if isinstance(raw, Mapping) and "default" in raw:
        notes.append(
            "read as ModelOpt up to 0.43 does: `default` comes first, and a cfg without enable"
            " turns nothing on; later releases apply `default` where it stands, over all before it,"
            " and turn on what gets a cfg"
        )
    if not any(step.numerics for step in steps):
        notes.append(
            "no entry has a cfg: read as an addition to the config of the format that is named;"
            " what that one turns off by itself is not seen"
        )
    if any(step.numerics and not step.numerics.rowwise for step in steps if step.is_about_linears):
        notes.append(PER_TENSOR)
    others = [step for step in steps if not step.is_about_linears]
    if others:
        notes.append(
            f"{len(others)} entries are about other quantizers or modules than the weights and"
            f" inputs of Linears ({others[0].text}, ...)"
        )
    entries = tuple(step for step in steps if step.is_about_linears)
    return QuantizerList(
        consumer="modelopt", entries=entries, steps=tuple(steps), last_wins=True, notes=tuple(notes)
    )


def _flat(raw: Mapping[Any, Any] | list[Any]) -> Iterator[tuple[Any, Any, Any, Any]]:
    """(quantizer's name, parent class, cfg, enable) of each entry, in the order of their effect."""
    if isinstance(raw, Mapping):
        items: Iterable[tuple[Any, Any]] = sorted(
            raw.items(), key=lambda item: item[0] != "default"
        )
        for key, value in items:
            yield from _flat_legacy(key, value)
        return
    for entry in raw:
        if isinstance(entry, Mapping) and "quantizer_name" in entry:
            enable = entry.get("enable", True) if entry.get("cfg") or "enable" in entry else None
            yield (
                entry["quantizer_name"],
                entry.get("parent_class"),
                entry.get("cfg") or None,
                enable,
            )
        elif isinstance(entry, Mapping) and len(entry) == 1:
            for name, parent, cfg, enable in _flat_legacy(*next(iter(entry.items()))):
                yield name, parent, cfg, True if cfg and enable is None else enable
        else:
            raise PatternError(
                f'found the entry {str(entry)[:80]}; allowed are {{"quantizer_name": ..., "cfg":'
                ' {...}, "enable": ...}; write each entry so'
            )


def _flat_legacy(key: Any, value: Any) -> Iterator[tuple[Any, Any, Any, Any]]:
    if isinstance(key, str) and key.startswith("nn.") and isinstance(value, Mapping):
        for name, cfg in value.items():
            yield from (
                (found, key, attributes, enable)
                for found, _, attributes, enable in _flat_legacy(name, cfg)
            )
        return
    attributes = (
        {name: item for name, item in value.items() if name != "enable"}
        if isinstance(value, Mapping)
        else value
    )
    enable = value.get("enable") if isinstance(value, Mapping) else True
    yield "*" if key == "default" else key, None, attributes or None, enable


def _entry(name: Any, parent: Any, cfg: Any, enable: Any, component: str) -> QuantizerEntry:
    if (
        not isinstance(name, str)
        or not 0 < len(name) <= MAX_ENTRY
        or not isinstance(parent, (str, type(None)))
    ):
        raise PatternError(
            f"found the quantizer_name {str(name)[:80]!r} with parent_class {str(parent)[:80]!r};"
            f" allowed are texts of 1 to {MAX_ENTRY} characters; write the name of a quantizer, or"
            " a shell pattern"
        )
    if not isinstance(enable, bool) and (cfg is None or enable is not None):
        raise PatternError(
            f"found {name[:80]!r} with neither cfg nor enable, or an enable of {enable!r}; allowed"
            " are True and False; write what it does"
        )
    entry = QuantizerEntry(
        text=name, rule="fnmatch", component=component, enable=enable, parent=parent or ""
    )
    numerics = _numerics(name, cfg) if cfg is not None and entry.is_about_linears else None
    becomes = FormatName.BF16 if enable is False else numerics.format if numerics else None
    return QuantizerEntry(
        text=name,
        rule="fnmatch",
        format=becomes,
        component=component,
        numerics=numerics,
        enable=enable,
        parent=parent or "",
    )


def _numerics(name: str, cfg: Any) -> Numerics:
    """The format that the attributes of a quantizer give."""
    blocks = cfg.get("block_sizes") or {} if isinstance(cfg, Mapping) else None
    if isinstance(cfg, Mapping) and isinstance(blocks, Mapping):
        bits, size, scale = (
            _bits(cfg.get("num_bits")),
            blocks.get(-1, blocks.get("-1")),
            _bits(blocks.get("scale_bits")),
        )
        if (bits, size, scale) == ((2, 1), 16, (4, 3)):
            return Numerics(FormatName.NVFP4)
        if (bits, size, scale) == ((4, 3), 32, (8, 0)):
            return Numerics(FormatName.MXFP8)
        if bits == (4, 3) and scale is None:
            a_token = (
                cfg.get("type") == "dynamic" and (-1 in blocks or "-1" in blocks) and size is None
            )
            return Numerics(
                FormatName.FP8, rowwise=a_token or (not blocks and cfg.get("axis") == 0)
            )
    raise PatternError(
        f"found {name[:80]!r} with the cfg {str(cfg)[:120]}; allowed are NVFP4 (num_bits (2, 1),"
        " blocks of 16 with scale_bits (4, 3)), MXFP8 ((4, 3), blocks of 32 with scale_bits (8,"
        " 0)) and FP8 ((4, 3)); this tool has no other formats: take the entry out, or turn it off"
    )


def _bits(value: Any) -> Any:
    """num_bits as ModelOpt takes them: (4, 3), [4, 3] or "e4m3"."""
    if (
        isinstance(value, str)
        and len(value) == 4
        and value[0] == "e"
        and value[2] == "m"
        and value[1::2].isdigit()
    ):
        return int(value[1]), int(value[3])
    return tuple(value) if isinstance(value, list) else value


def _read_checkpoint(value: Mapping[str, Any], component: str) -> ConsumerList:
    """`hf_quant_config.json`, or what of it stands in `config.json`."""
    inner = value.get("quantization", value)
    if not isinstance(inner, Mapping):
        raise PatternError(
            f"found quantization {str(inner)[:80]!r}; allowed is a mapping with quant_algo; save"
            " ModelOpt's own hf_quant_config.json"
        )
    algorithm = inner.get("quant_algo")
    excluded = inner.get("exclude_modules", inner.get("ignore")) or []
    layers = inner.get("quantized_layers") or {}
    if not isinstance(excluded, list) or not isinstance(layers, Mapping):
        raise PatternError(
            "found exclude_modules that is no list, or quantized_layers that is no mapping; allowed"
            " are those; save ModelOpt's own file"
        )
    mixed = algorithm == "MIXED_PRECISION"
    if mixed and not layers:
        raise PatternError(
            "found MIXED_PRECISION without quantized_layers; each quantized Linear stands there;"
            " add them, or name one quant_algo"
        )
    entries = [_named(name, FormatName.BF16, component) for name in excluded]
    used = {algorithm} if not mixed else set()
    for name, layer in layers.items() if mixed else ():
        own = layer.get("quant_algo") if isinstance(layer, Mapping) else layer
        entries.append(_named(name, _format(own), component))
        used.add(own)
    notes = [PER_TENSOR] if "FP8" in used else []
    if any(META.isdisjoint(entry.text) for entry in entries[: len(excluded)]):
        notes.append(
            "vLLM also skips every Linear whose name merely contains an entry of exclude_modules;"
            " `--as substring` shows what that means"
        )
    default = FormatName.BF16 if mixed or algorithm is None else _format(algorithm)
    return ConsumerList(
        consumer="modelopt", entries=tuple(entries), default=default, notes=tuple(notes)
    )


def _named(name: Any, becomes: FormatName, component: str) -> Entry:
    if not isinstance(name, str) or not 0 < len(name) <= MAX_ENTRY:
        raise PatternError(
            f"found the module {str(name)[:80]!r}; allowed are texts of 1 to {MAX_ENTRY}"
            " characters; write its name, or a shell pattern"
        )
    return Entry(
        text=name,
        rule="fqn" if META.isdisjoint(name) else "fnmatch",
        format=becomes,
        component=component,
    )


def _format(algorithm: Any) -> FormatName:
    found = ALGORITHMS.get(algorithm.upper()) if isinstance(algorithm, str) else None
    if found is None:
        raise PatternError(
            f"found the quant_algo {str(algorithm)[:80]!r}; allowed are {', '.join(ALGORITHMS)} and"
            " MIXED_PRECISION; this tool has no other formats"
        )
    return found
