"""Plain lines are prompts, also odd ones; lines that are a table, a list, YAML, markup or code are
refused, since their marks would be drawn.
"""

import pytest

from sensitivity.spec.prompt_lines import read_lines

TEXTS = [f"a fox, number {i}, in snow" for i in range(9)]


@pytest.mark.parametrize(
    "odd",
    [
        "[cinematic] a fox",
        "{red|blue} car",
        "(masterpiece:1.2), a fox",
        "<lora:style:1> a cat",
        '"Hello" on a sign',
        "E = mc2 on a blackboard",
        "- noir -",
        "1. FC Köln wins the cup",
        "3 cats, 4",
        "{{best quality}}, a fox",
        '("HELLO" in neon) on a wall',
        "Prompt 2: HELLO, on a badge",
        "a fox\u2028in snow",
        "a, b; c | d",
        "Text: HELLO, in neon",
        "prompt engineering, a comic",
        "a tab\there",
        "--- ---",
        "$a = 3$",
        "don't panic",
        "50% off",
    ],
)
def test_odd_prompts_are_prompts(odd: str) -> None:
    """What one prompt has by itself is no structure, wherever it stands."""
    for lines in ([odd, *TEXTS], [*TEXTS, odd]):
        assert read_lines("\n".join(lines)).texts == tuple(lines)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("prompt\n{}", "the header of a table"),
        ("Prompts\n{}", "the header of a table"),
        ("prompts:\n  - {}", "YAML"),
        ("prompts: |\n  {}", "YAML"),
        ("---\n{}", "YAML, or front matter"),
        ("[prompts]\n{}", "a section of TOML or INI"),
        ("prompts = [\n{}\n]", "code or TOML"),
        ("PROMPTS: list[str] = [\n{}\n]", "code or TOML"),
        ("const prompts = [\n{}\n]", "code or TOML"),
        ("import json\n{}", "code"),
        ("#!/bin/sh\n{}", None),  # a comment
        ("<prompts>\n{}\n</prompts>", "markup"),
        ("<!DOCTYPE html>\n{}", "markup"),
        ('["a fox",\n{}', "damaged JSON"),
        ("[\n{}\n]", "damaged JSON"),
        ("{{\n{}\n}}", "damaged JSON"),
        ("```\n{}\n```", "Markdown or LaTeX"),
        ("\\begin{{itemize}}\n{}", "Markdown or LaTeX"),
        ("n | idea\n--- | ---\n{}", "a table of Markdown"),
        ("{{\\rtf1\n{}\n}}", "RTF"),
    ],
)
def test_a_first_line_tells(text: str, what: str | None) -> None:
    """The head of a file in another form is no prompt."""
    text = text.format("\n".join(TEXTS))
    if what is None:
        assert read_lines(text).texts == tuple(TEXTS)
        return
    with pytest.raises(ValueError, match=f"found {what}.*; expected plain text with one prompt a"):
        read_lines(text)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("- {text}", "a list with bullets"),
        ("* {text}", "a list with bullets"),
        ("\u2022 {text}", "a list with bullets"),
        ("\u25cf {text}", "a list with bullets"),
        ("-{text}", "a list with bullets"),
        ("{i}. {text}", "a list with numbers"),
        ("{i} - {text}", "a list with numbers"),
        ("{i}\u3001{text}", "a list with numbers"),
        ("a) {text}", "a list with letters"),
        ("Prompt {i}: {text}", "names before prompts"),
        ("{i}) {text}", "a list with numbers"),
        ("({i}) {text}", "a list with numbers"),
        ("{i}: {text}", "a list with numbers"),
        ("{i}\t{text}", "a list with numbers"),
        ("{i},{text}", "a list with numbers"),
        ("{text},{i}", "a table without a header"),
        ("{text}\tanimals", "a table without a header"),
        ("x{i}|{text}|animals", "a table without a header"),
        ("| {text} | animals |", "a table of Markdown"),
        ("'{text}',", "quotation marks or code"),
        ('"{text}"', "quotation marks or code"),
        ("\u201c{text}\u201d", "quotation marks or code"),
        ("prompt: {text}", "names before prompts"),
        ("- prompt: {text}\n  seed: {i}", "names before prompts"),
        ("Caption = {text}", "names before prompts"),
        ('--prompt "{text}" --steps 3', "options of a command"),
        ("<p>{text}</p>", "markup"),
        ('id{i}: "{text}"', "YAML, or a part of JSON"),
    ],
)
def test_what_all_lines_have_is_structure(line: str, what: str) -> None:
    """A mark that every line has belongs to a list or table; the first line is quoted."""
    text = "\n".join(line.format(i=i, text=text) for i, text in enumerate(TEXTS))
    with pytest.raises(ValueError, match=f"found {what} "):
        read_lines(text)
