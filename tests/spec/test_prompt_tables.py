"""Prompts in tables and JSON are found by their column's name, whole; what is no such table is
refused with what was found in it.
"""

import json
from pathlib import Path

import pytest

from sensitivity.errors import SpecError
from sensitivity.spec.prompts import PromptSource, read_prompts

TEXTS = [f'a fox, number {i}, "in snow"' for i in range(9)]
OTHERS = [{"seed": i, "negative_prompt": "ugly, bad", "category": "x"} for i in range(9)]


def quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def rows(header: str, *, before: str = "", after: str = ",x", end: str = "\n") -> str:
    return end.join([header, *(before + quoted(text) + after for text in TEXTS)])


def objects(field: str) -> list[dict[str, object]]:
    return [{**other, field: text} for other, text in zip(OTHERS, TEXTS, strict=True)]


def read(folder: Path, name: str, content: str | bytes) -> tuple[set[str], PromptSource]:
    """All prompts of a file of this name and content, and what was read."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    section = read_prompts(path)
    assert section.source is not None
    return {*section.search, *section.held_out}, section.source


@pytest.mark.parametrize(
    ("name", "content", "field"),
    [
        ("drawbench.csv", rows("Prompts,Category"), "Prompts"),
        ("by-looks.txt", rows("Prompts,Category"), "Prompts"),
        ("no-ending", rows("id,Caption", before="7,", after=""), "Caption"),
        ("parti.tsv", rows("Prompt\tCategory\tNote", after="\tx\t"), "Prompt"),
        ("parti.txt", rows("Prompt\tCategory\tNote", after="\tx\t"), "Prompt"),
        ("excel.csv", "sep=;\r\n" + rows("id;Text", before="1;", after="", end="\r\n"), "Text"),
        ("semicolons.csv", rows("id;prompt;seed", before="1;", after=";2"), "prompt"),
        ("spaces.csv", rows("id, prompt, seed", before="1, ", after=", 2"), "prompt"),
        ("alone.csv", rows("prompt", after=""), "prompt"),
        ("empty-rows.csv", "prompt,x\n,,,\n\n" + rows("", after=",").strip() + "\n,\n", "prompt"),
        ("utf16.csv", rows("Prompt\tx", after="\tx").encode("utf-16"), "Prompt"),
        ("excel-utf8.csv", ("\ufeff" + rows("prompt,x")).encode(), "prompt"),
        ("several.csv", rows("text,negative_prompt,prompt", before="a,b,", after=""), "prompt"),
        ("unquoted.tsv", "prompt\tn\n" + "\n".join(f"{text}\t1" for text in TEXTS), "prompt"),
    ],
)
def test_tables(tmp_path: Path, name: str, content: str | bytes, field: str) -> None:
    """Commas and quotes inside of a cell are part of the prompt; other columns, the negative prompt
    among them, are none.
    """
    texts, source = read(tmp_path, name, content)
    assert texts == set(TEXTS)
    assert (source.field, source.count, source.first) == (field, 9, tuple(TEXTS[:3]))
    assert not {"prompt", "Prompt", "x"} & texts


@pytest.mark.parametrize(
    ("name", "value", "field"),
    [
        ("list.json", TEXTS, ""),
        ("list.txt", TEXTS, ""),
        ("objects.json", objects("Prompt"), "Prompt"),
        ("vbench.json", objects("prompt_en"), "prompt_en"),
        ("held.json", {"version": 3, "prompts": TEXTS}, "prompts"),
        ("deep.json", {"info": {"a": 1}, "data": {"items": objects("text")}}, "data.items.text"),
        (
            "coco.json",
            {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": objects("caption")},
            "annotations.caption",
        ),
        ("ids.json", {str(i): text for i, text in enumerate(TEXTS)}, ""),
        ("mjhq.json", {str(i): row for i, row in enumerate(objects("prompt"))}, "prompt"),
        ("columns.json", {"seed": list(range(9)), "prompt": TEXTS}, "prompt"),
        ("pandas.json", {"prompt": {str(i): text for i, text in enumerate(TEXTS)}}, "prompt"),
    ],
)
def test_json(tmp_path: Path, name: str, value: object, field: str) -> None:
    """A list, objects in it, columns, objects by id, and what holds one of these."""
    for content in (json.dumps(value), json.dumps(value, indent=2)):
        texts, source = read(tmp_path, name, content)
        assert texts == set(TEXTS)
        assert (source.kind, source.field) == ("JSON", field)


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.json", "a.txt"])
@pytest.mark.parametrize("field", ["text", None])
def test_json_lines(tmp_path: Path, name: str, field: str | None) -> None:
    """One object or text a line, blank lines too; a separator that Unicode counts as a line break
    is part of its text.
    """
    values = TEXTS if field is None else objects(field)
    lines = [json.dumps(value) for value in values]
    lines[0] = lines[0].replace("fox", "fox\u2028")
    texts, source = read(tmp_path, name, "\n\n".join(lines) + "\n")
    assert texts == {TEXTS[0].replace("fox", "fox\u2028"), *TEXTS[1:]}
    assert (source.kind, source.field) == ("JSON Lines", field or "")


def test_line_breaks_in_cells_are_part_of_a_prompt(tmp_path: Path) -> None:
    """A quoted cell may have several lines; the table does not end there."""
    texts = [f"{text}\nand a moon" for text in TEXTS]
    table = "prompt,x\n" + "\n".join(f"{quoted(text)},1" for text in texts)
    assert read(tmp_path, "a.csv", table)[0] == set(texts)
    assert read(tmp_path, "a.json", json.dumps(texts))[0] == set(texts)


def test_repeats_in_tables_count_once_and_are_said(tmp_path: Path) -> None:
    """A table with a row for each question on a picture has a prompt many times."""
    texts, source = read(tmp_path, "dpg.csv", rows("text,question") + "\n" + rows("", after=",y"))
    assert texts == set(TEXTS)
    assert source.repeats == 9
    assert "9 prompts of dpg.csv (CSV, 'text'; left out: question; 9 repeats left out):" in (
        source.describe()
    )


def test_what_was_read_is_one_line(tmp_path: Path) -> None:
    """Line breaks and direction marks of names and prompts do not reach the terminal; what is long
    is cut.
    """
    texts = [f"{i} {'x' * 90}\n\u202e" for i in range(9)]
    _, source = read(tmp_path, "a.json", json.dumps([{"text": t, "a\u202eb": 1} for t in texts]))
    assert source.describe().isprintable()
    assert source.describe().count("x" * 58 + "...") == 3
    assert source.to_json()["left_out"] == ["a\u202eb"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "found nothing as columns"),
        ("a.csv", rows("id,words", before="1,", after=""), "found 'id', 'words' as columns"),
        ("a.csv", rows("prompt,Prompt"), "found the columns 'prompt', 'Prompt'; expected one"),
        ("a.csv", "prompt\na fox, in snow", "found 2 cells .* line 2; expected 1"),
        ("a.csv", 'prompt,x\n"a,1\n', "found no valid table"),
        ("a.csv", "x,prompt\n1,a\n2,\n", "found no 'prompt' in the row that ends in line 3"),
        ("a.txt", "x,prompt\n1,a\n2\n", "found no 'prompt' in the row that ends in line 3"),
        ("a.md", "| n | prompt |\n| - | ------ |\n|1|a fox|\n", "a table of Markdown"),
        ("a.json", "", "has 0 prompts"),
        ("a.json", '["a",', "found no valid JSON at line 1"),
        ("a.json", '"a"', "found a text; expected a list of prompts"),
        ("a.json", "[1, 2]", "found a list with a number; expected texts alone"),
        ("a.json", '["a", {"prompt": "b"}]', "found a list with a text and an object"),
        ("a.json", '[{"query": "a"}]', "found objects with 'query'; expected one of prompt"),
        ("a.txt", '[{"query": "a"}]', "found objects with 'query'; expected one of prompt"),
        ("a.json", '[{"prompt": "a"}, {"prompt": 3}]', "found a number as 'prompt' of object 2"),
        ("a.json", '[{"prompt": "a"}, {}]', "found nothing as 'prompt' of object 2"),
        ("a.json", '[{"prompt": ""}]', "found an empty prompt"),
        ("a.json", '{"search": ["a"], "held_out": ["b"]}', "prompts in 'search', 'held_out'"),
        ("a.json", '{"model": {"a": 1}}', "found an object with 'model'"),
        ("a.json", '["\\ud800"]', "found a lone surrogate"),
        ("a.jsonl", '{"prompt": "a"}\n{"prompt": "b"', "line 2: found no valid JSON"),
        ("a.jsonl", "[" * 100_000, "found nesting deeper than 64 levels"),
        ("a.csv", "," * 1_000_000, "found nothing as columns"),
    ],
)
def test_tables_that_cannot_be_meant_are_refused(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    """The message says what was found, in which row, and what was expected."""
    with pytest.raises(SpecError, match=message):
        read(tmp_path, name, content)


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.json"])
def test_many_prompts_are_read_soon(tmp_path: Path, name: str) -> None:
    """The time is linear in their number: 40,000 took a minute once."""
    texts = [f"a fox, number {i}" for i in range(40_000)]
    text = {
        "a.txt": "\n".join(texts),
        "a.csv": "prompt\n" + "\n".join(map(quoted, texts)),
        "a.json": json.dumps(texts),
    }[name]
    assert read(tmp_path, name, text)[1].count == 40_000
