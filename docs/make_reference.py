"""The reference pages that can be read from the code: commands, recipe, study, other JSON, library.

    uv run python docs/make_reference.py            # writes docs/reference/*.md
    uv run python docs/make_reference.py --check    # exits with 1 where a page is not current

Commands come from the typer app, the recipe from its JSON Schema, the keys of a study from the
pydantic models, the library from `sensitivity.__all__`. What such a source does not say, the
meaning of a key, stands in `docs/meanings.toml`. Each page is a function that returns its text, so
that a test can compare without writing.
"""

import inspect
import json
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import typer
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

import sensitivity
import sensitivity.cli
from sensitivity.cli.app import app
from sensitivity.consumers.readers import READERS

DOCS = Path(__file__).parent
REFERENCE = DOCS / "reference"
SCHEMA = Path(sensitivity.__file__).parent / "recipes" / "recipe.schema.json"
MEANINGS = tomllib.loads((DOCS / "meanings.toml").read_text(encoding="utf-8"))
NOTE = "<!-- written by docs/make_reference.py; do not edit -->\n\n"


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; bars inside of cells are escaped."""
    heads = list(heads)
    cells = ([plain(cell).replace("|", "\\|") for cell in row] for row in rows)
    lines = [heads, ["---"] * len(heads), *cells]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def plain(text: str) -> str:
    """A text in which "<" begins no HTML, but for inline code, which Markdown leaves alone."""
    return "".join(
        part if part.startswith("`") else part.replace("<", "&lt;")
        for part in re.split(r"(`[^`]*`)", text)
    )


def code(value: object) -> str:
    """A value as inline code, nothing for an empty one."""
    return "" if value in ("", None, PydanticUndefined) else f"`{value}`"


# --- commands ------------------------------------------------------------------------------------


def commands_page() -> str:
    """Every command with every argument and option."""
    group: Any = typer.main.get_command(app)
    parts = [
        "# Commands\n",
        f"{group.help}\n",
        "Every command takes `--json PATH`; `-` writes the JSON to stdout and everything else to"
        " stderr. [Other JSON](json.md) explains the keys. The exit code is 0 on success, 2 for a"
        " mistake that you can mend, and 1 otherwise. `audit` also exits with 1 for findings. A"
        " search that SIGTERM ended exits with 143. 75 says that a new process may go on where this"
        " one cannot: its GPU no longer answers, or the database has been away for long.\n",
        "A file that is written never replaces one that the command reads, a database, or a file of"
        " a model's folder. Results of this program are replaced; other files only with `--force`."
        " Texts that cannot carry a heading, as the JSON that `export` writes for other tools, are"
        " not known as this program's.\n",
        "`--model` takes a study's name, the path of a study TOML, a folder that"
        " `pipeline.save_pretrained` wrote, or a Hub id.\n",
    ]
    if general := _options(group.params):
        parts += ["## sensitivity\n", general]
    parts += [_command(name, command) for name, command in group.commands.items()]
    return NOTE + "\n".join(parts)


def _command(name: str, command: Any) -> str:
    arguments = [p for p in command.params if _is_argument(p)]
    usage = " ".join([name, *(_metavar(p) for p in arguments), "[OPTIONS]"])
    rows = table(["argument", "help"], [[code(_metavar(p)), p.help] for p in arguments])
    return "\n".join(
        [
            f"## {name}\n",
            f"```text\nsensitivity {usage}\n```\n",
            _unwrap(command.help) + "\n",
            *([rows] if arguments else []),
            _options(command.params),
        ]
    )


def _options(params: Iterable[Any]) -> str:
    rows = [_option(p) for p in params if not _is_argument(p) and not p.hidden]
    return table(["option", "value", "default", "help"], rows) if rows else ""


def _option(param: Any) -> list[str]:
    kind = _kind(param)
    flags = ", ".join(f"`{flag}`" for flag in [*param.opts, *param.secondary_opts])
    default = "required" if param.required else ""
    if not param.required and param.default not in (None, "", (), [], False):
        default = code(param.default if kind else param.opts[0])
    return [flags, kind, default, _unwrap(param.help).replace("\n", " ")]


def _kind(param: Any) -> str:
    """What a value is called; nothing for a flag."""
    annotation = param.type_descriptor.annotation
    inner = [kind for kind in get_args(annotation) if kind is not type(None)] or [annotation]
    kind = inner[0]
    if kind is bool:
        return ""
    name = {str: "text", int: "integer", float: "number", Path: "path"}.get(kind, "text")
    several = annotation is list or getattr(annotation, "__origin__", None) is list
    return f"{name}, repeatable" if several or param.multiple else name


def _is_argument(param: Any) -> bool:
    return not param.opts[0].startswith("-")


def _metavar(param: Any) -> str:
    return str(param.metavar or param.name).upper()


def _unwrap(text: str) -> str:
    """A docstring's paragraphs, each on one line."""
    paragraphs = re.split(r"\n\s*\n", inspect.cleandoc(text))
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


# --- recipe --------------------------------------------------------------------------------------


def recipe_page() -> str:
    """The recipe's fields from its JSON Schema."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    parts = [
        "# Recipe JSON\n",
        "A recipe gives every Linear of a denoiser its format, and states what that saves and"
        " costs. `search`, `select`, `audit --fix` and `export --nearest` write one.\n",
        "A recipe is data. Loading one runs nothing. Files over 8 MiB, deep or ambiguous JSON, NaN"
        " and slow patterns are refused within a second.\n",
        "Keys carry their units: `_s` is seconds of one whole pipeline call, `_bytes` is bytes."
        " `source` says whether a number was predicted or measured. `patterns` says in globs"
        " which Linears stay in bf16, and why; `layers` names every Linear once. Where the pipeline"
        " has several denoisers, names begin with the component's.\n",
        "A reader of version 2.x reads every 2.y, and every 1.x. Later minor versions only add"
        " optional fields, and unknown fields are kept through load and save. New words in a list,"
        " changed meanings, and required fields more or less take a new major version, which is"
        " refused. Files of 1.x name the Linears in bf16 a second time, as `skip`.\n",
        "The JSON Schema is `sensitivity/recipes/recipe.schema.json`.\n",
        "## Recipe\n",
        _fields(schema),
    ]
    for name, record in schema["$defs"].items():
        if "properties" in record:
            parts += [f"## {name}\n", _docstring(record.get("description", "")), _fields(record)]
        elif "enum" in record:
            words = ", ".join(f"`{word}`" for word in record["enum"])
            parts += [f"## {name}\n", f"One of {words}.\n"]
    return NOTE + "\n".join(parts)


def _fields(record: Mapping[str, Any]) -> str:
    required = set(record.get("required", ()))
    rows = [
        [code(name), _type(field), "required" if name in required else _default(field)]
        for name, field in record["properties"].items()
    ]
    return table(["field", "type", "default"], rows)


def _default(field: Mapping[str, Any]) -> str:
    return code(json.dumps(field["default"])) if "default" in field else "optional"


def _type(field: Mapping[str, Any]) -> str:
    """A JSON Schema type in words."""
    if "$ref" in field:
        name = field["$ref"].rsplit("/", 1)[-1]
        return "anything" if name == "JsonValue" else f"[{name}](#{name.lower()})"
    if "anyOf" in field:
        return " or ".join(_type(option) for option in field["anyOf"])
    if "enum" in field or "const" in field:
        return ", ".join(f"`{word}`" for word in field.get("enum", [field.get("const")]))
    kind = field.get("type", "anything")
    if kind == "array":
        items = field.get("items") or (field.get("prefixItems") or [{}])[0]
        count = field.get("maxItems") if field.get("maxItems") == field.get("minItems") else None
        return f"list of {f'{count} ' if count else ''}{_type(items)}"
    if kind == "object" and isinstance(field.get("additionalProperties"), dict):
        return f"object of {_type(field['additionalProperties'])}"
    return str(kind)


# --- study ---------------------------------------------------------------------------------------


def study_page() -> str:
    """The keys of a study from its pydantic models, with their meanings."""
    parts = [
        "# Study TOML\n",
        "A study says which model is searched, how it is called, with which prompts, and for which"
        " GPU. `--model my-study.toml` takes one. The files in `studies/` are examples:"
        " `flux1-dev.toml` (pictures), `wan2.2.toml` (videos, two denoisers), `sdxl.toml` (a"
        " UNet), `tiny-flux.toml` (everything spelled out)."
        " [Search your own model](../how-to/own-model.md) lets one be derived.\n",
        "Paths are relative to the TOML. Unknown keys are refused.\n",
    ]
    sections = {"": sensitivity.StudySpec} | {
        name: kind
        for name, field in sensitivity.StudySpec.model_fields.items()
        if (kind := _section(field.annotation)) is not None
    }
    for name, model in sections.items():
        title = {"": "Top level", "published": "`[[published]]`"}.get(name, f"`[{name}]`")
        parts += [f"## {title}\n", _study_rows(name, model, sections)]
    parts += [
        "## `[settings]`\n",
        MEANINGS["study"]["settings"]["*"] + ".\n",
        "## Roles and patterns\n",
        "A **role** is a Linear's name without the index of its block:"
        " `transformer_blocks.attn.to_q`. In UNets, whose blocks hold blocks, it is the name"
        " without any of their indices: `down_blocks.attentions.transformer_blocks.attn1.to_q`."
        " `fused` is about roles.\n",
        "A **pattern** is a shell glob on a whole name. `*` spans dots, so `proj_out` is one Linear"
        " and `*proj_out` may be many; `blocks.1.*` does not match `blocks.10.x`. Names of several"
        " denoisers begin with the component's (`transformer_2.blocks.0.attn1.to_q`). A pattern"
        " may leave that out, and then means all of them.\n",
        "Good reasons for `always_skip`: it costs nothing and saves nothing; or the score cannot"
        " see what it does.\n",
    ]
    return NOTE + "\n".join(parts)


def _section(annotation: Any) -> type[BaseModel] | None:
    """The section that a field of the study holds, one or several."""
    kinds = [annotation, *get_args(annotation)]
    models = (kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel))
    return next(models, None)


def _study_rows(name: str, model: type[BaseModel], sections: Mapping[str, Any]) -> str:
    said = dict(MEANINGS["study"][name])
    fields = {
        key: field
        for key, field in model.model_fields.items()
        if name or (key not in sections and key != "settings")
    }
    extra = {"file"} if name == "prompts" else set()
    if set(said) - extra != set(fields):
        odd = sorted((set(said) - extra) ^ set(fields))
        raise SystemExit(f"meanings.toml and the study differ in [{name}]: {', '.join(odd)}")
    rows = [
        [code(key), _value(fields[key]) if key in fields else "", said[key]]
        for key in [*fields, *extra]
    ]
    return table(["key", "default", "meaning"], rows)


def _value(field: Any) -> str:
    """A default as TOML writes it."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value in (None, (), ""):
        return ""
    if isinstance(value, bool):
        return code(str(value).lower())
    if isinstance(value, tuple):
        if isinstance(value[0], BaseModel):
            return ", ".join(f"`{entry.pattern}`" for entry in value)
        return code(json.dumps(value))
    return code(json.dumps(value)) if isinstance(value, str) else code(value)


# --- other JSON ----------------------------------------------------------------------------------


def json_page() -> str:
    """The keys that each command writes."""
    parts = [
        "# Other JSON\n",
        "What each command writes with `--json`. `search`, `worker` and `select` write the"
        " [recipe](recipe.md). `[]` is an element of a list. `.*` stands for keys that depend on"
        " the model or the machine. A key with `?` is left out where it says nothing.\n",
        "Keys carry their units: `_s` seconds of one whole run, `_ms` milliseconds of one whole"
        " run, `_us` microseconds of one call, `_bytes` bytes.\n",
    ]
    for command, keys in MEANINGS["json"].items():
        rows = [[code(key), meaning] for key, meaning in keys.items()]
        parts += [f"## {command}\n", table(["key", "meaning"], rows)]
    return NOTE + "\n".join(parts)


def documented(command: str) -> dict[str, bool]:
    """{path of a key as plain text: whether it may be left out} of a command's JSON."""
    return {key.replace("?", ""): "?" in key for key in MEANINGS["json"][command]}


# --- forms of lists ------------------------------------------------------------------------------


def readers_page() -> str:
    """The forms in which `audit` reads a list."""
    rows = [[code(name), reader.description] for name, reader in READERS.items()]
    return NOTE + "\n".join(
        [
            "# Forms of lists\n",
            "What `sensitivity audit --as` takes, and how each form matches names."
            " [Audit the list you have](../how-to/audit.md) uses it.\n",
            table(["form", "what it is"], rows),
            "In the plain forms (`fqn` to `regex-search`) `#` starts a comment, and a line may"
            " name another rule for itself: `fqn:norm_out.linear`.\n",
        ]
    )


# --- library -------------------------------------------------------------------------------------


def library_page() -> str:
    """The public names, with signatures and docstrings."""
    parts = [
        "# Library\n",
        f"The {len(sensitivity.__all__)} public names of `import sensitivity`. Importing the"
        " package loads no torch. Only these names are promised to stay."
        " [Use the library](../how-to/library.md) has examples.\n",
    ]
    for name in sensitivity.__all__:
        value = getattr(sensitivity, name)
        parts += [f"## {name}\n", _signature(name, value), _docstring(value.__doc__ or "")]
        if inspect.isclass(value):
            parts += [_methods(value)]
    return NOTE + "\n".join(part for part in parts if part)


def _signature(name: str, value: Any) -> str:
    if inspect.isclass(value) and (issubclass(value, (BaseModel, str, Exception))):
        return ""
    shown = []
    for parameter in inspect.signature(value).parameters.values():
        text = parameter.name
        if parameter.default is not inspect.Parameter.empty:
            text += f"={_short(parameter.default)}"
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}
        shown.append(stars.get(parameter.kind, "") + text)
    text = f"{name}({', '.join(shown)})"
    if len(text) > 88:
        text = f"{name}(\n    " + ",\n    ".join(shown) + ",\n)"
    return f"```text\n{text}\n```\n"


def _short(value: object) -> str:
    """A default that is the same on every machine."""
    text = str(value) if hasattr(value, "value") else repr(value)
    return "..." if " object at " in text or "<" in text or "/" in text else text


def _methods(kind: type) -> str:
    rows = []
    for name, value in vars(kind).items():
        inner = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        inner = inner.fget if isinstance(inner, property) else inner
        if name.startswith(("_", "model_")) or not inspect.isfunction(inner) or not inner.__doc__:
            continue
        if inner.__name__.startswith("_"):  # a validator of pydantic
            continue
        rows.append([code(name), _unwrap(inner.__doc__).split("\n\n")[0]])
    return table(["attribute or method", ""], rows) if rows else ""


def _docstring(text: str) -> str:
    """A docstring as Markdown: sections become lists, examples stay as they are."""
    lines, section = [], False
    for line in inspect.cleandoc(text).splitlines():
        if line in ("Args:", "Raises:", "Attributes:", "Returns:"):
            lines += [f"**{line[:-1]}**", ""]
            section = True
        elif section and line.startswith("    "):
            entry = line.strip()
            head, mark, rest = entry.partition(": ")
            fits = not line.startswith("     ") and mark and re.fullmatch(r"[\w, ]+", head)
            lines += [f"- `{head}`: {rest}" if fits else f"  {entry}"]
        else:
            section = section and not line
            lines.append(line if line.startswith("    ") else plain(line))
    return "\n".join(lines) + "\n" if lines else ""


PAGES = {
    "commands.md": commands_page,
    "recipe.md": recipe_page,
    "study.md": study_page,
    "json.md": json_page,
    "readers.md": readers_page,
    "library.md": library_page,
}
"""Page -> what writes it."""


def main() -> None:
    """Write every page, or say which ones are not current."""
    stale = []
    for name, page in PAGES.items():
        path, text = REFERENCE / name, page().rstrip() + "\n"
        if "--check" not in sys.argv[1:]:
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
    if stale:
        raise SystemExit(
            f"not current: {', '.join(stale)}; run uv run python docs/make_reference.py"
        )


if __name__ == "__main__":
    main()
