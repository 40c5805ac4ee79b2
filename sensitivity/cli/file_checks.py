"""May a command write where it was told to? Decided before anything is read for long or computed.

Every command's options are held against one another when it starts (`checking_files`). An output

- is a path on this machine (`s3://...` is refused, not made into a folder named "s3:"),
- can be written; what counts is the path without symbolic links and "..", which is written too,
- is not a file that the command reads or keeps, under whatever name (symbolic and hard links are
  followed),
- replaces no file but one that this program wrote (`is_ours`), unless `--force` is given,
- never replaces a database, and in a model's folder only results of this program.

What a command reads beyond its options (the prompts, devices and weights that its study names) is
held against the outputs by `keep_apart`.

What this module does not do: create folders, or write.
"""

import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sensitivity.core.file_names import url_scheme
from sensitivity.core.storage_url import Storage, parse_storage
from sensitivity.errors import OutputError, UserError

OUTPUTS = ("out", "nearest", "fix", "junit", "json_path", "save_study")
"""Parameters of commands that name a file to write."""

PATHS_AS_TEXT = ("json_path", "model", "target", "listed", "subject")
"""Parameters that are text, since they may be something other than a path."""

JSON_KEYS: tuple[frozenset[str], ...] = (
    frozenset({"schema_version", "layers", "block_patterns"}),  # a recipe
    frozenset({"name", "title", "keys"}),  # models show
    frozenset({"environment", "native", "why_not"}),  # doctor
    frozenset({"schema", "gemms", "quantizers", "compile_mode"}),  # device measure
    frozenset({"model", "batch_size", "linears", "uncalled"}),  # profile
    frozenset({"target", "source", "bf16_s", "quantized_s"}),  # latency
    frozenset({"estimator", "sensitivities"}),  # calibrate
    frozenset({"model", "memory", "pictures_a_trial"}),  # search --dry-run
    frozenset({"databases", "read"}),  # status
    frozenset({"lpips", "per_prompt", "recipe_lpips"}),  # verify
    frozenset({"decision", "criteria", "gate"}),  # check
    frozenset({"to", "form", "path"}),  # export
    frozenset({"identical", "a", "b", "changes"}),  # diff
    frozenset({"findings", "form_guessed"}),  # audit
    frozenset({"verdict", "trials", "layers", "gaps"}),  # report
    frozenset({"url", "study", "database"}),  # dashboard
)
"""Keys at the top of each JSON that this program writes; a file that has them all is ours."""

_COMMENT = re.compile(r"# .*\bof \d+ Linears\b")  # in the heading of every text that we write
_FOR_OTHERS = re.compile(
    r'"(method|quant_method|quant_algo|quantization|fqn_to_config|layers|config_groups)":'
)
"""A key of every JSON that we write for other tools."""
_PAGE = '<meta name="generator" content="sensitivity report">'
_JUNIT = '<testsuites name="sensitivity check"'
_PNG, _PNG_MARK = b"\x89PNG", b"sensitivity report"
_DATABASE = b"SQLite format 3\0"
_BESIDE_DATABASE = ("-wal", "-shm", "-journal")
_MOST_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class CommandFiles:
    """Files of the running command: {how the command line names it: path}.

    Attributes:
        outputs: files that it writes.
        force: whether a file that is not ours may be replaced.
    """

    outputs: Mapping[str, Path] = field(default_factory=dict)
    force: bool = False


_files: ContextVar[CommandFiles] = ContextVar("files", default=CommandFiles())  # noqa: B039


@contextmanager
def checking_files(
    values: Mapping[str, Any], flags: Mapping[str, str], *, force: bool
) -> Iterator[None]:
    """Check a command's files, and inside let `keep_apart` and `check_output` know them.

    Args:
        values: {parameter: value} of the command.
        flags: {parameter: how the command line names it}.
        force: whether a file that is not ours may be replaced.

    Raises:
        OutputError: an output cannot be written, or would replace what must stay.
    """
    named = [
        (flags[name], name, path)
        for name, value in values.items()
        for path in _paths(value, may_be_text=name in PATHS_AS_TEXT)
    ]
    for flag, name, path in named:
        if name not in ("model", "subject"):  # `models` knows the URLs of the Hub
            check_path(path, flag)
        if name in OUTPUTS and name != "json_path" and str(path) == "-":
            raise UserError(
                f"{flag} is -; expected the path of a file: name one, or leave {flag} out"
            )
    outputs = {flag: path for flag, name, path in named if name in OUTPUTS and str(path) != "-"}
    token = _files.set(CommandFiles(outputs, force))
    try:
        _check_distinct(outputs)
        keep_apart((flag, path) for flag, name, path in named if name not in (*OUTPUTS, "storage"))
        for flag, path in outputs.items():
            if flag != flags.get("save_study"):  # it replaces no other study by its own rule
                check_output(path, flag)
        if (storage := values.get("storage")) is not None:
            keep_database_apart(storage_of(storage, flags["storage"]), flags["storage"])
        yield
    finally:
        _files.reset(token)


def check_path(path: Path | str, flag: str) -> None:
    """Raise UserError for a URL where a path on this machine is expected; no password is shown."""
    scheme = url_scheme(path)
    if scheme is not None:
        raise UserError(
            f"{flag}: found a {scheme}:// URL; expected a path on this machine: name a file"
        )


def storage_of(text: str | Path, flag: str) -> Storage:
    """The database that an option names. Raises UserError where that can be none."""
    storage = parse_storage(text)
    if isinstance(storage, Path) and any(0xD800 <= ord(sign) < 0xE000 for sign in str(text)):
        raise UserError(
            f"{flag}: found a name that is not UTF-8; expected one that is: name another"
        )
    return storage


def check_output(path: Path, flag: str) -> None:
    """Raise OutputError where `path` cannot be written, or is a file that is not ours."""
    check_writable(path, flag)
    real = real_path(path)
    if not os.path.isfile(real):
        return
    if _is_database(real):
        raise OutputError(
            f"{flag} {path} is a database, perhaps with a study's trials, which no result may"
            " replace; expected the path of a new file: name another"
        )
    if not _files.get().force and not is_ours(real):
        raise OutputError(
            f"{flag} {path} is a file that this program did not write; expected a new file, or one"
            " that it wrote: name another, or add --force to replace that one"
        )


def check_writable(path: Path | str | None, flag: str) -> None:
    """Raise OutputError now rather than after minutes of work. Nothing is made."""
    if path is None or path == "-":
        return
    real = real_path(path)
    folder = real.parent
    try:
        if real.is_symlink() or (real.exists() and not real.is_file()):
            reason = "is a folder" if real.is_dir() else "is not a regular file"
            reason = "is a symbolic link to itself" if real.is_symlink() else reason
            raise OutputError(
                f"{flag} {path} {reason}; name a file in a folder that can be written"
            )
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OutputError(
            f"{flag} {path} lies in {folder}, which cannot be written ({error.strerror}); name a"
            " file in a folder that can be written"
        ) from None


def keep_apart(inputs: Iterable[tuple[str, Path | str | None]]) -> None:
    """Raise OutputError where an output of the running command is a file that it reads.

    Args:
        inputs: (what messages call it, path); paths of files and folders, None for none; what does
            not exist is something else, such as a study's name. In a folder (a model's), only
            results of this program may be replaced.
    """
    outputs = _files.get().outputs
    if not outputs:
        return
    for name, path in inputs:
        if path is None or not os.path.exists(path):
            continue
        for flag, output in outputs.items():
            if _same_file(output, path):
                raise OutputError(
                    f"{flag} {output} is the file of {name}, which is read; expected a file for"
                    " each: name another"
                )
            real = real_path(output)
            is_inside = os.path.isdir(path) and real.is_relative_to(os.path.realpath(path))
            if is_inside and real.exists() and not is_ours(real):
                raise OutputError(
                    f"{flag} {output} is a file in the folder of {name}, which is read; expected a"
                    " new file: name another"
                )


def keep_database_apart(path: Storage, name: str) -> None:
    """Raise OutputError where an output is a study's database, or a file of SQLite beside it."""
    check_not_database(_files.get().outputs, path, name)


def check_not_database(outputs: Mapping[str, Path], path: Storage, name: str) -> None:
    """Raise OutputError where one of {flag: path} is a study's database, or lies beside it as a
    file of SQLite. No file is a server's.
    """
    if not isinstance(path, Path):
        return
    for flag, output in outputs.items():
        if any(_same_file(output, f"{path}{suffix}") for suffix in ("", *_BESIDE_DATABASE)):
            raise OutputError(
                f"{flag} {output} is the file of {name}, which holds the study's trials; expected a"
                " file for each: name another"
            )


def is_ours(path: Path) -> bool:
    """Whether a file is one that this program writes: a result's JSON or JUnit XML, a text with our
    heading, a page or picture of a report, or JSON for another tool, which we indent by one space
    and others do not.

    An empty file is nobody's work, and counts as ours.
    """
    try:
        if not path.is_file() or path.stat().st_size > _MOST_BYTES:
            return False
        content = path.read_bytes()
        if content.startswith(_PNG):
            return _PNG_MARK in content[:1_000]
        text = content.decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    if not text or any(map(_COMMENT.match, text.split("\n", 8)[:8])):
        return True
    if _PAGE in text[:2_000] or _JUNIT in text[:200]:
        return True
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return False
    if not isinstance(data, dict):
        return False
    if data.keys() in ({"models"}, {"targets"}) or any(keys <= data.keys() for keys in JSON_KEYS):
        return True
    # notebooks are indented so too
    is_for_others = "nbformat" not in data and _FOR_OTHERS.search(text) is not None
    return is_for_others and text == json.dumps(data, indent=1) + "\n"


def real_path(path: Path | str) -> Path:
    """The path without symbolic links and "..", as it is written to.

    A folder that does not exist is not passed through, so `new/../file` is `file`.
    """
    return Path(os.path.realpath(path))


def _check_distinct(outputs: Mapping[str, Path]) -> None:
    """Raise OutputError where two outputs are one file."""
    for flag, path in outputs.items():
        for other, other_path in outputs.items():
            if flag != other and _same_file(path, other_path):
                raise OutputError(
                    f"{flag} {path} is the file of {other}; expected a file for each: name another"
                )


def _paths(value: Any, *, may_be_text: bool) -> Iterator[Path]:
    """The paths in an option's value: one or several, text too if it may be a path."""
    if isinstance(value, Path) or (may_be_text and isinstance(value, str)):
        yield Path(value)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _paths(item, may_be_text=may_be_text)


def _same_file(a: Path | str, b: Path | str) -> bool:
    """Whether two paths name one file, by its inode, or by where a new file would be made."""
    try:
        return os.path.samefile(a, b)
    except (OSError, ValueError):
        return os.path.realpath(a) == os.path.realpath(b)


def _is_database(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_DATABASE)) == _DATABASE
    except OSError:
        return False
