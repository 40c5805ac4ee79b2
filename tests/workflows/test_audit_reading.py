"""Lists are read in the form that they are in, or refused with the reason."""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import pytest

from sensitivity.consumers import timed_regexes
from sensitivity.consumers.exporters import get_exporter
from sensitivity.core.format_name import FormatName
from sensitivity.errors import PatternError, RecipeError, UserError
from sensitivity.spec.loading import resolve_spec
from sensitivity.workflows.audit import AuditRequest, fixed_recipe, fixed_text, read_source
from sensitivity.workflows.audit.auditing import audit_on
from sensitivity.workflows.audit.findings import Kind, Severity
from sensitivity.workflows.audit.model import audited_model

from support.audits import BF16, NVFP4, audited, bad, of
from support.shallow_studies import shallow


def test_the_form_is_guessed_by_looks(tmp_path: Path) -> None:
    """Names and globs, or regular expressions; Python is told how it would be run, and is not."""
    for text, form in (("proj_out\n*embed*\n", "glob"), ("^proj_out$\n.*embed.*\n", "regex")):
        (tmp_path / "list.txt").write_text(text)
        source = read_source(str(tmp_path / "list.txt"))
        assert (source.form, source.guessed) == (form, True)
    (tmp_path / "mine.py").write_text("import os\n\ndef keep(module, fqn):\n    return True\n")
    with pytest.raises(PatternError, match=r"mine.py.*: found Python code.*`form` filter-fn"):
        read_source(str(tmp_path / "mine.py"))


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("torchao", "json"),
        ("diffusers", "json"),
        ("modelopt", "quant-cfg"),
        ("compressed-tensors", "config"),
    ],
)
def test_what_is_exported_for_a_consumer_is_a_list_that_passes(
    name: str, form: str, models: Any, tmp_path: Path
) -> None:
    """A recipe in a consumer's own form is recognised, has the recipe's formats, and has no fault
    in its names.
    """
    model = models("tiny-flux")
    audit = audited(model, "embed\nfqn:proj_out")
    exporter = dataclasses.replace(get_exporter(name), form=form)
    (tmp_path / "list.json").write_text(exporter.export(fixed_recipe(audit)))
    source = read_source(str(tmp_path / "list.json"))
    assert (source.form, source.guessed) == (name, True)
    again = audit_on(model, AuditRequest(source=source, storage=tmp_path / "none.db"), {})
    assert again.subject.formats == audit.fixed.formats
    assert bad(again) == set()


@pytest.mark.parametrize(
    ("content", "form", "message"),
    [
        (b"\x80\xfe\x00\x01", None, "found bytes that are not UTF-8"),
        (None, None, "No such file"),
        (b"x" * (17 * 1024 * 1024), None, "found more than 16777216 bytes"),
        (b"a\n" * 30_000, "substring", "found 30000 entries"),
        (b"[" * 100_000, None, ""),
        (b"GGUF\3\0\0\0", None, "found a GGUF file"),
        (
            (10).to_bytes(8, "little") + b'{"a": {}}\n',
            None,
            "found a header that is not that of a safetensors file",
        ),
        ((2**40).to_bytes(8, "little") + b"{", None, "found a header of 1099511627776 bytes"),
        (b'{"schema_version": "1.0", "layers": ' + b"[" * 100_000, None, ""),
        (b'{"schema_version": "1.0", "layers": {"a": "nvfp4", "a": "bf16"}}', None, ""),
    ],
)
def test_files_that_are_no_lists_are_refused_quickly(
    content: bytes | None, form: str | None, message: str, tmp_path: Path
) -> None:
    """Binary, absent, huge, deep: a message with the file's name, at once."""
    path, start = tmp_path / "list.txt", time.process_time()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises((PatternError, RecipeError), match=f"list.txt.*{message}"):
        read_source(str(path), form=form)
    assert time.process_time() - start < 8


def _safetensors(header: dict[str, Any], data: bytes = b"") -> bytes:
    """A safetensors file."""
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


LAYERS = {"double_blocks.0.img_mlp.2": {"format": "nvfp4"}}
FP8 = {"quant_method": "fp8", "ignored_layers": ["transformer_blocks.0.attn.to_out.0"]}
MODELOPT = {"quant_algo": "NVFP4", "quant_method": "modelopt", "ignore": ["proj_out"]}
BITSANDBYTES = {"quant_method": "bitsandbytes_4bit", "llm_int8_skip_modules": ["proj_out"]}
WRAPPED: dict[str, tuple[bytes, str | None, str]] = {
    "a checkpoint's config.json": (
        json.dumps({"_class_name": "X", "dim": 3, "quantization_config": MODELOPT}).encode(),
        "sglang",
        "proj_out",
    ),
    "compression_config around quantization_config": (
        json.dumps(
            {"compression_config": {"quantization_config": {
                "config_groups": {"NVFP4": ["Linear"]}, "ignore": ["proj_out"]}}}
        ).encode(),
        None,
        "proj_out",
    ),
    "ModelOpt's list in a safetensors file's metadata, twice": (
        _safetensors({"__metadata__": {
            "format": "pt", "quantization_config": json.dumps(MODELOPT),
            "_quantization_metadata": json.dumps(MODELOPT)}}, b""),
        None,
        "proj_out",
    ),
    "vLLM-Omni's method of a component, without a list": (
        json.dumps({"transformer": {"method": "fp8"}, "vae": None}).encode(),
        None,
        "",
    ),
    "a pipeline's quant_mapping": (
        json.dumps({"quant_mapping": {"transformer": BITSANDBYTES, "vae": None}}).encode(),
        None,
        "proj_out",
    ),
    "a pipeline's quant_backend": (
        json.dumps(
            {"quant_backend": "quanto", "components_to_quantize": ["transformer", "text_encoder"],
             "quant_kwargs": {"weights_dtype": "int8", "modules_to_not_convert": ["proj_out"]}}
        ).encode(),
        None,
        "proj_out",
    ),
    "a server's option, in YAML": (
        b"diffusion-quantization-config:\n  transformer:\n    method: fp8\n"
        b"    ignored_layers: [transformer_blocks.0.attn.to_out.0]\n  vae:\n",
        None,
        "transformer_blocks.0.attn.to_out.0",
    ),
    "TOML": (
        b'[quantization_config]\nmethod = "fp8"\n'
        b'ignored_layers = ["transformer_blocks.0.attn.to_out.0"]\n',
        None,
        "transformer_blocks.0.attn.to_out.0",
    ),
    "each component's config.json": (
        json.dumps({"transformer": {"quantization_config": FP8}}).encode(),
        None,
        "transformer_blocks.0.attn.to_out.0",
    ),
    "a safetensors file's metadata": (
        _safetensors({"__metadata__": {"format": "pt", "_quantization_metadata": json.dumps(
            {"layers": LAYERS})}, "x": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}},
            b"0"),
        None,
        "double_blocks.0.img_mlp.2",
    ),
    "a safetensors file's quantization_config": (
        _safetensors({"__metadata__": {"quantization_config": json.dumps(MODELOPT)}}),
        "modelopt",
        "proj_out",
    ),
    "layers' own tensors in a safetensors file": (
        _safetensors(
            {"double_blocks.0.img_mlp.2.weight": {
                "dtype": "U8", "shape": [3], "data_offsets": [0, 3]},
             "double_blocks.0.img_mlp.2.comfy_quant": {
                "dtype": "U8", "shape": [19], "data_offsets": [3, 22]}},
            b"WWW" + b'{"format": "nvfp4"}',
        ),
        None,
        "double_blocks.0.img_mlp.2",
    ),
}  # fmt: skip
"""{what tools write around a list: the file, the form or None, an entry of the list}."""


@pytest.mark.parametrize("name", WRAPPED)
def test_lists_are_found_in_what_tools_write(name: str, models: Any, tmp_path: Path) -> None:
    """Wrappers are peeled off, in every syntax; the list's own entries hit Linears."""
    content, form, entry = WRAPPED[name]
    path = tmp_path / ("list.safetensors" if "safetensors" in name else "list.txt")
    path.write_bytes(content)
    source = read_source(str(path), form=form)
    audit = audit_on(
        models("flux1-dev"), AuditRequest(source=source, storage=tmp_path / "n.db"), {}
    )
    assert entry in [one.text for one in audit.subject.listed.entries] or not entry
    assert all(audit.subject.hits)
    assert not audit.failed("error")


def test_parts_that_name_no_component_are_errors(models: Any, tmp_path: Path) -> None:
    """A misspelt part is an error with the name that is meant, in every form; a part for another
    component is a note, and its entries are not dead.
    """
    texts = {
        "vllm-omni": FP8,
        "sglang": {"quant_algo": "NVFP4", "ignore": ["proj_out"]},
        "comfyui": {"layers": LAYERS},
        "torchao": {"_type": "Int8WeightOnlyConfig", "_data": {}},
        "diffusers": BITSANDBYTES,
        "modelopt": {"quant_cfg": [{"quantizer_name": "*", "enable": False}]},
        "compressed-tensors": {"scheme": "W4A16", "ignore": ["proj_out"]},
    }
    for form, part in texts.items():
        own = json.dumps({"transformr": part, "text_encoder": part, "vae": None})
        (tmp_path / "list.json").write_text(own)
        source = read_source(str(tmp_path / "list.json"), form=form)
        audit = audit_on(
            models("flux1-dev"), AuditRequest(source=source, storage=tmp_path / "none.db"), {}
        )
        errors = [finding for finding in audit.findings if finding.severity is Severity.ERROR]
        assert [(finding.kind, finding.entry) for finding in errors] == [(Kind.PART, "transformr")]
        assert "did you mean 'transformer'?" in errors[0].message, form
        assert any("not looked at: text_encoder" in note for note in audit.notes), form
        assert not audit.subject.quantized, form


def test_a_list_in_another_format_has_findings_and_no_price(models: Any, tmp_path: Path) -> None:
    """Names, fused Linears and dead entries are checked; the price is null, and said in words."""
    keys = {name: {"_type": "Int4WeightOnlyConfig", "_data": {}} for name in ("proj_out", "nosuch")}
    keys["transformer_blocks.0.attn.to_q"] = keys["proj_out"]
    config = {"_type": "FqnToConfig", "_data": {"fqn_to_config": keys}}
    (tmp_path / "list.json").write_text(json.dumps(config))
    source = read_source(str(tmp_path / "list.json"))
    audit = audit_on(
        models("flux1-dev"), AuditRequest(source=source, storage=tmp_path / "none.db"), {}
    )
    assert {finding.kind for finding in audit.findings} == {Kind.DEAD, Kind.FUSED}
    assert audit.failed("error")
    said = audit.to_json()
    assert (said["format"], said["quantized"]) == ("int4 weight-only", 2)
    row = said["latency"][0]
    assert (row["name"], row["quantized_s"], row["speedup"]) == ("list.json", None, None)
    assert any(
        "no price: this tool does not have the format int4" in note for note in said["notes"]
    )
    assert "No price: this tool does not have that format." in fixed_text(audit)
    with pytest.raises(PatternError, match="found a list in the format int4 weight-only"):
        fixed_recipe(audit)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"quant_method": "torchao", "quant_method": "x"}', "no strict JSON"),
        ('{"a": NaN}', "no strict JSON"),
        ('{"modules_to_not_convert": ["proj_out"]}', "an object with 'modules_to_not_convert'"),
        ("{}", "nothing in it"),
    ],
)
def test_an_object_in_no_form_is_no_list_of_patterns(text: str, words: str, tmp_path: Path) -> None:
    """What is wrong with a config is said, not what is wrong with it as a glob."""
    (tmp_path / "list.json").write_text(text)
    with pytest.raises(
        PatternError, match=rf"list.json: found .*{words}.*expected the config of .*diffusers"
    ):
        read_source(str(tmp_path / "list.json"))


@pytest.mark.parametrize(
    ("form", "text", "fmt", "quantized"),
    [
        (
            "diffusers",
            '["norm", "proj_out"]',
            NVFP4,
            427,
        ),  # FACTS of `key + "."`: proj_out skips 39, norm 38
        ("diffusers", "['proj_out.weight']", FormatName.FP8, 503),
        ("modelopt", '["*norm*", "proj_out"]', FormatName.FP8, 426),
        ("compressed-tensors", '["re:.*norm.*", "proj_out"]', FormatName.MXFP8, 426),
    ],
)
def test_a_consumers_list_may_come_alone(
    form: str, text: str, fmt: FormatName, quantized: int, models: Any, tmp_path: Path
) -> None:
    """The value of modules_to_not_convert, exclude_modules or ignore is matched as in its config,
    and the rest has the format that is named.
    """
    (tmp_path / "list.json").write_text(text)
    source = read_source(str(tmp_path / "list.json"), form=form, format=fmt)
    audit = audit_on(
        models("flux1-dev"),
        AuditRequest(source=source, format=fmt, storage=tmp_path / "none.db"),
        {},
    )
    assert (len(audit.subject.quantized), set(audit.subject.formats.values())) == (
        quantized,
        {fmt, BF16},
    )
    assert of(audit, Kind.DEAD) == []


def test_servers_lists_may_come_alone(tmp_path: Path) -> None:
    """vLLM-Omni's and SGLang's: run-time names, in the form that is for the format."""
    path = tmp_path / "list.json"
    tree = audited_model(shallow(resolve_spec("qwen-image"), tmp_path / "qwen-image")).tree
    for form, fmt, name, fqns in (
        (
            "vllm-omni",
            FormatName.FP8,
            "transformer_blocks.0.attn.to_qkv",
            {f"transformer_blocks.0.attn.to_{x}" for x in "qkv"},
        ),
        ("sglang", FormatName.FP8, "0.img_mod", {"transformer_blocks.0.img_mod.1"}),
        ("sglang", NVFP4, "transformer_blocks.0.img_mod", {"transformer_blocks.0.img_mod.1"}),
    ):
        path.write_text(json.dumps([name]))
        listed = read_source(str(path), form=form, format=fmt).listed
        assert [listed.hits(entry, tree) for entry in listed.entries] == [fqns]
    with pytest.raises(PatternError, match=r"found the method 'nvfp4'; expected one of fp8"):
        read_source(str(path), form="vllm-omni", format=NVFP4)


def test_a_checkpoints_list_may_be_for_a_server(tmp_path: Path) -> None:
    """Guessed to be ModelOpt's, it comes with what SGLang would do."""
    (tmp_path / "list.json").write_text('{"quant_algo": "NVFP4", "ignore": ["proj_out"]}')
    source = read_source(str(tmp_path / "list.json"))
    assert source.form == "modelopt"
    assert any("`form` sglang" in note for note in source.listed.notes)
    assert not any(
        "`form` sglang" in note
        for note in read_source(str(tmp_path / "list.json"), form="modelopt").listed.notes
    )


def test_a_list_without_entries_says_what_it_does(models: Any) -> None:
    """It quantizes all there is."""
    audit = audited(models("flux1-dev"), "# nothing\n\n", form="glob")
    assert len(audit.subject.quantized) == 504
    assert "no entries" in audit.subject.listed.notes[0]


def test_long_lists_of_run_time_names_are_matched_quickly(models: Any) -> None:
    """A list that ComfyUI reads names each layer of a model with 1370 Linears."""
    model, start = models("ltx2"), time.process_time()
    audit = audited(
        model, get_exporter("comfyui").export(fixed_recipe(audited(model, "zzz"))), form="comfyui"
    )
    assert len(audit.subject.listed.entries) > 800
    assert time.process_time() - start < 15
    assert of(audit, Kind.DEAD) == []


def test_a_regular_expression_without_end_is_refused_quickly(
    models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catastrophic backtracking ends the audit with the line."""
    monkeypatch.setattr(timed_regexes, "REGEX_SECONDS", 0.1)
    start = time.monotonic()
    with pytest.raises(
        PatternError, match=r"mine.txt: line 2: found the regular expression.*without end"
    ):
        audited(
            models("flux1-dev"), r"proj_out" + "\n" + r"(\w|\w\w|\w\w\w)+(?<=\d\d\d)", form="regex"
        )
    assert time.monotonic() - start < 30


def test_a_function_is_run_only_when_that_is_allowed(models: Any, tmp_path: Path) -> None:
    """`filter_fn` lists need `allow_code`; allowed, they are judged like any list."""
    path = tmp_path / "mine.py"
    path.write_text(
        "def keep(module, fqn):\n    return hasattr(module, 'in_features') and 'embed' not in fqn\n"
    )
    with pytest.raises(PatternError, match="`allow_code`"):
        read_source(f"{path}:keep", form="filter-fn")
    with pytest.raises(UserError, match="`form` filter-fn"):
        read_source(str(path), allow_code=True)
    source = read_source(f"{path}:keep", form="filter-fn", allow_code=True)
    audit = audit_on(
        models("flux1-dev"),
        AuditRequest(source=source, min_width=1024, storage=tmp_path / "none.db"),
        {},
    )
    assert len(audit.subject.quantized) == 495  # torchao's list and norm_out.linear
    assert of(audit, Kind.LOSS)


def test_entries_may_be_given_in_python(tmp_path: Path) -> None:
    """A list of texts is read as a file of them would be, and a path may be a `Path`."""
    entries = ["*embed*", "proj_out"]
    path = tmp_path / "mine.txt"
    path.write_text("\n".join(entries) + "\n")
    given, read = read_source(entries), read_source(path)
    assert given.listed == read.listed
    assert (given.name, given.form, given.text) == ("the list", "glob", read.text)
    assert [
        entry.text for entry in read_source(entries, form="substring").listed.entries
    ] == entries
