"""Lists are read in the form that they are in, or refused with the reason."""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import pytest

from sensitivity.consumers.exporters import get_exporter
from sensitivity.core.format_name import FormatName
from sensitivity.errors import PatternError, RecipeError, UserError
from sensitivity.spec.loading import resolve_spec
from sensitivity.workflows.audit import AuditRequest, fixed_recipe, read_source
from sensitivity.workflows.audit.auditing import audit_on
from sensitivity.workflows.audit.findings import Kind
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
        (b"\xff\xfe\x00\x01", None, "is no text"),
        (None, None, "No such file"),
        (b"x" * (17 * 1024 * 1024), None, "has more than 16777216 bytes"),
        (b"a\n" * 30_000, "substring", "found 30000 entries"),
        (b"[" * 100_000, None, ""),
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


def test_a_regular_expression_without_end_is_refused_quickly(models: Any) -> None:
    """Catastrophic backtracking ends the audit with the line."""
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
