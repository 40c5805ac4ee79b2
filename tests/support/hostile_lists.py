"""Texts that try to stop whoever reads them as a list, and a fuzzer over every reader.

    for name, text in hostile_texts(scale=1): ...
    python -m support.hostile_lists 300       # five minutes of mutated lists, from tests/

Each hostile text is small beside what it asks for: deep nesting, values that double, patterns that
backtrack, numbers and strings without end. `scale` makes them larger.
"""

import json
import random
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Any

from sensitivity.consumers.lists import ModelTree
from sensitivity.consumers.readers import READERS, guess_reader
from sensitivity.core.format_name import FormatName
from sensitivity.errors import SensitivityError
from sensitivity.workflows.audit.bare_lists import config_of

SECONDS = 1.5
"""CPU seconds that reading and matching one text may take, a pattern's own limit included."""

MAX_MESSAGE = 4000
"""Characters of an error's message."""

FQNS = tuple(
    f"{stack}.{block}.{name}"
    for stack in ("transformer_blocks", "single_transformer_blocks")
    for block in range(4)
    for name in ("attn.to_q", "attn.to_k", "attn.to_v", "ff.net.2", "proj_out")
)
TREE = ModelTree(fqns=FQNS, classes={"transformer": "FluxTransformer2DModel"}, others=("vae",))

FP8 = {"method": "fp8", "ignored_layers": ["transformer_blocks.0.attn.to_qkv"]}
NVFP4 = {"num_bits": (2, 1), "block_sizes": {-1: 16, "type": "dynamic", "scale_bits": (4, 3)}}
SEEDS: tuple[str, ...] = (
    "proj_out\nfqn:transformer_blocks.0.attn.to_q  # why\n*embed*\n",
    json.dumps({"transformer": FP8, "text_encoder": "fp8", "vae": None}),
    json.dumps({"quantization": "fp8", "quantization_ignored_layers": ["to_out", "attn.to_q"]}),
    json.dumps({"quantization_config": {"quant_algo": "NVFP4", "ignore": ["*.to_q"]}}),
    json.dumps({"_quantization_metadata": {"layers": {"double_blocks.0.img_mlp.2": {
        "format": "nvfp4", "full_precision_matrix_mult": True}}}}),
    json.dumps({"_type": "FqnToConfig", "_data": {"fqn_to_config": {
        "re:.*to_q": {"_type": "Int8WeightOnlyConfig", "_data": {}}, "proj_out": None}}}),
    json.dumps({"quant_mapping": {"transformer": {
        "quant_method": "bitsandbytes", "load_in_4bit": True,
        "llm_int8_skip_modules": ["proj_out"]}}}),
    json.dumps({"transformer": {"quant_method": "torchao", "modules_to_not_convert": ["to_q"],
                                "quant_type": {"default": {
                                    "_type": "NVFP4DynamicActivationNVFP4WeightConfig",
                                    "_data": {}}}}}),
    repr([{"quantizer_name": "*", "enable": False},
          {"quantizer_name": "*weight_quantizer", "cfg": NVFP4},
          {"quantizer_name": "*input_quantizer", "cfg": NVFP4}]),
    f"import x\nN = {NVFP4}\nC = {{'quant_cfg': [{{'quantizer_name': '*', 'cfg': N}}]}}",
    "imports:\n  n: configs/numerics/nvfp4\nquantize:\n  algorithm: max\n  quant_cfg:\n"
    "    - quantizer_name: '*weight_quantizer'\n      cfg: {$import: n}\n",
    json.dumps({"quantization": {"quant_algo": "MIXED_PRECISION",
                                 "quantized_layers": {"proj_out": {"quant_algo": "W4A16_AWQ"}}}}),
    json.dumps({"config_groups": {"group_0": {
        "targets": ["Linear", "re:.*to_q"], "weights": {"num_bits": 4, "type": "int"},
        "input_activations": None}}, "ignore": ["proj_out"]}),
    "default_stage:\n  default_modifiers:\n    QuantizationModifier:\n"
    "      {targets: [Linear], scheme: W4A16, ignore: ['re:.*proj']}\n",
    '[transformer]\nmethod = "fp8"\nignored_layers = ["transformer_blocks.0.attn.to_qkv"]\n',
    "['proj_out', 'norm']",
)  # fmt: skip
"""A list in every form."""


def hostile_texts(scale: int = 1) -> Iterator[tuple[str, str]]:
    """(what it tries, the text); `scale` 1 makes texts of some kilobytes."""
    n = 1000 * scale
    yield "comments in a bracket", "[" + "#" * 30
    yield "comments in a bracket, each a line", "[" + "#\n" * n + "x"
    yield "white space in a bracket", "[" + " \n#" * n
    for bracket in ("[", "(", "{", '{"a":', "- ", "a:\n ", "[[", "{'a': [", "<", "a.", "a = ["):
        yield f"deep {bracket!r}", bracket * n
    yield "closed deep", "[" * n + "]" * n
    for sign in ("-", "not ", "~", "lambda:", "1 if 1 else ", "2**", "1<", "1+", "a.b.", "await "):
        yield f"a chain of {sign!r}", sign * n + "1"
    yield "f-strings", 'f"' + "{1}" * n + '"'
    yield "f-strings in f-strings", 'f"{' * n
    yield "a text times a number", '"a" * 10**9'
    yield "a list times a number", "[0] * 10**9"
    yield "a power", "9**9**9"
    yield "a number of many digits", "[" + "9" * 40 * n + "]"
    yield "a hexadecimal number", "x = [0x" + "f" * 40 * n + "]"
    yield "an exponent", '{"method": "fp8", "ignored_layers": [1e999]}'
    yield "imaginary", "[1j, b'a', ..., None]"
    names = "abcdefghijklmnopqrstuvwxyz"
    doubling = "a = ['quantizer_name'] * 1\n".replace(" * 1", "")
    for one, other in zip(names[1:], names, strict=False):
        doubling += f"{one} = [{', '.join([other] * 8)}]\n"
    yield "names of names", doubling
    yield "names of names in dicts", doubling.replace("[", "{0: [").replace("]", "]}")
    yield "names of names, last a config", doubling + "{'quant_cfg': z}"
    yield (
        "stars",
        "a = ['x', 'y']\n"
        + "".join(
            f"{one} = [*{other}, *{other}]\n" for one, other in zip(names[1:], names, strict=False)
        ),
    )
    yield "a long text named often", f"a = '{'x' * 100 * n}'\nb = [{'a, ' * n}]"
    yield "many statements", "a = 1\n" * n
    yield "many docstrings", "'a';" * n
    yield "aliases", "a: &a [x, x]\n" + "".join(f"{x}: &{x} [*a, *a]\n" for x in names[1:])
    yield "merge keys", "a: &a {b: 1}\nc: {<<: *a}"
    yield "a tag", "quant_cfg: !!python/object/apply:os.system ['true']"
    yield "wrong tags", "config_groups: !!timestamp x\na: !!int ''\nb: !!bool x"
    yield "a number of sixties", "config_groups: 1" + ":59" * n
    yield "many documents", "---\na: 1\n" * n
    yield "flow in flow", "config_groups: " + "{a: " * n
    yield "anchors", "".join(f"&a{i} " for i in range(n)) + "x"
    yield "dotted keys of TOML", ".".join(["a"] * n) + " = 1"
    yield "tables of TOML", "".join(f"[{'.'.join(['a'] * 30)}.b{i}]\n" for i in range(n // 10))
    yield "arrays of TOML", "a = " + "[" * n
    for pattern in ("(a+)+$", "(a|a)*$", "(?:(?:a?){50}){50}$", "(.*)*x", "(x+x+)+y", "(" * 90):
        yield f"the pattern {pattern[:9]!r}", f"regex:{pattern}\nregex-search:{pattern}"
        target = {"config_groups": {"NVFP4": [f"re:{'t' * 9}", f"re:.*{pattern}"]}}
        yield f"the target {pattern[:9]!r}", json.dumps(target)
    yield "stars in a glob", "*a*" * 100 + "\n" + "[!a]*" * 90
    yield "sets without end", "fnmatch" + "[" * n
    yield (
        "stars of SDNQ",
        json.dumps(
            {"quant_method": "sdnq", "modules_to_not_convert": ["*t" * 30 + "#", ".*" * 200]}
        ),
    )
    yield "wrappers in wrappers", '{"quantization_config": ' * n + "{}" + "}" * n
    yield "wrappers in texts", json.dumps({"__metadata__": json.dumps(
        {"quantization_config": json.dumps({"compression_config": "{" * n})})})  # fmt: skip
    yield "many parts", json.dumps({f"part_{i}": None for i in range(n)} | {"x": FP8})
    yield "many names alike", json.dumps({f"transforme{i}": FP8 for i in range(n)})
    yield "one long name", json.dumps({"method": "fp8", "ignored_layers": ["a" * 40 * n]})
    yield "a method without end", json.dumps({"method": "fp8" * 10 * n, "ignored_layers": []})
    yield "control characters", '{"\\u001b[31m": {"method": "\\u0000", "ignored_layers": []}}'
    yield "a lone surrogate", '{"method": "\\ud800"}'
    yield "a lone surrogate in Python", "['\\ud800']"
    yield "a lone surrogate in YAML", 'config_groups: "\\ud800"'
    yield "keys that are no texts", "quant_cfg: {1: {2: 3}, ? [a] : b, null: {on: off}}"
    yield "keys of several kinds", "1: a\nnull: b\ntrue: {method: fp8}\n1.5: {quant_algo: FP8}"


def read_everywhere(text: str) -> Iterator[tuple[str, float]]:
    """(reader, CPU seconds) of reading a text in every form and matching it with a small model.

    Every error must be one of the program's own.
    """
    for name, reader in READERS.items():
        if name == "filter-fn":
            continue
        started = time.process_time()
        try:
            listed = reader.read(config_of(text, name, FormatName.FP8) or text)
            listed.unknown_parts(TREE)
            for entry in listed.entries[:50]:
                listed.hits(entry, TREE)
            if len(listed.entries) <= 50:
                listed.assign(TREE, quantized=FormatName.NVFP4)
        except SensitivityError as error:
            message = str(error)
            message.encode()
            if len(message) > MAX_MESSAGE:
                raise AssertionError(f"{name}: a message of {len(message)} characters") from error
        yield name, time.process_time() - started
    guess_reader(text)


def mutated(text: str, rng: random.Random) -> str:
    """A text with a few random changes."""
    fragments = (
        "[",
        "{",
        "}",
        "*",
        '"',
        "'",
        ":",
        "\n",
        "null",
        "&a ",
        "*a",
        "$import",
        "re:(a+)+",
    )
    for _ in range(rng.randint(1, 4)):
        start, end = sorted(rng.randrange(len(text) + 1) for _ in range(2))
        piece = text[start : min(end, start + 40)]
        match rng.randrange(5):
            case 0:
                text = text[:start] + text[start + len(piece) :]
            case 1:
                text = text[:start] + piece * rng.choice((2, 3, 400)) + text[start:]
            case 2:
                text = text[:start] + rng.choice(fragments) + text[start:]
            case 3:
                text = text[:start] + chr(rng.choice((0, 27, 0x202E, 0x85, 0xFEFF))) + text[start:]
            case _:
                text = _with_another_value(text, rng)
    return text[:200_000]


def _with_another_value(text: str, rng: random.Random) -> str:
    """A JSON text with one value of another kind; other texts as they are."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    item, places = value, list[tuple[Any, Any]]()
    pending = [item]
    while pending:
        item = pending.pop()
        children = (
            list(item.items()) if isinstance(item, dict)
            else list(enumerate(item)) if isinstance(item, list) else []
        )  # fmt: skip
        places += [(item, key) for key, _ in children]
        pending += [child for _, child in children]
    if places:
        holder, key = rng.choice(places)
        holder[key] = rng.choice(
            [None, 3, -1.5, True, "", "x", [], {}, [[]], {"a": None}, "re:(a+)+"]
        )
    return json.dumps(value)


def main(seconds: float, seed: int = 0) -> None:
    """Read hostile and mutated texts until the time is over; print what is slow or breaks."""
    rng, ends, count = random.Random(seed), time.monotonic() + seconds, 0
    texts = [text for scale in (1, 20) for _, text in hostile_texts(scale)]
    while time.monotonic() < ends:
        text = texts[count] if count < len(texts) else mutated(rng.choice(SEEDS), rng)
        count += 1
        started = time.process_time()
        try:
            for name, spent in read_everywhere(text):
                if spent > SECONDS:
                    print(f"{name}: {spent:.1f} s for {text[:100]!r} ({len(text)} characters)")
            rest = time.process_time() - started
            if rest > 5 * SECONDS:
                print(f"all: {rest:.1f} s for {text[:100]!r}")
        except Exception:
            print(f"{text[:300]!r}\n{traceback.format_exc(limit=-3)}", flush=True)
    print(f"{count} texts")


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
