"""Where are encoded texts kept, so that the next process need not encode them? `KeptTexts`.

    kept = KeptTexts(folder, texts_key(spec, weights_hash, pipeline="FluxPipeline", device="cuda"))
    rows = kept.read("a red ring")            # [] where nothing is kept
    kept.write("a red ring", rows)

One safetensors file for each prompt, named by the sha256 of all that decides its encoding: weights,
settings, versions, kind of device, prompt. It holds what the pipeline's encoders answered while
that prompt was encoded (`text_memory`), to the last bit, with the digest of each call, and a
checksum. A file that is torn or wrong is set aside (`kept_tensors`), and the text is encoded again.

An answer is a tree of tensors, lists, tuples, plain values and output classes. An output class is
named in the file, and found only in transformers and diffusers, as a subclass of theirs: a file can
name no other code. A tree with anything else, such as a named tuple, is not kept.

Bounds. T5's answer takes 4 MB a prompt (512 tokens x 4096 in bf16). An encoder that gives all of
its hidden states takes a hundred times that. A prompt of more than `MOST_PROMPT_BYTES` is not kept,
and the folder holds at most `MOST_BYTES`. Then prompts that were not read for `UNUSED_S` make room,
the oldest first; where there are none, no more are kept.

What it does not do: spare the loading of the encoders' weights.
"""

import hashlib
import json
import logging
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from sensitivity.core.environment import describe_environment
from sensitivity.models.kept_tensors import bytes_of, read_kept, reason, write_kept
from sensitivity.models.text_rows import Fields, Row
from sensitivity.spec.study_spec import StudySpec

TEXTS = "texts"
"""The name of the folder, beside the references."""
MOST_PROMPT_BYTES = 256 * 2**20
MOST_BYTES = 4 * 2**30
UNUSED_S = 86400.0
VERSION = 1
"""Of the files' form; another one is another key."""
_LIBRARIES = ("transformers", "diffusers")
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class KeptRow:
    """The answer to one row of a call, and what finds it.

    Attributes:
        component: whose answer.
        exact, loose: digests of the row's arguments (`text_rows.TextCall`); None without a mask.
        row: the answer.
    """

    component: str
    exact: bytes
    loose: bytes | None
    row: Row


def texts_key(spec: StudySpec, weights_hash: str, *, pipeline: str, device: str) -> dict[str, Any]:
    """All that decides how a text is encoded, but the text.

    Args:
        spec: whose settings.
        weights_hash: of the pipeline.
        pipeline: its class.
        device: where it runs, as torch names it.
    """
    environment = describe_environment(device)
    names = ("torch", "diffusers", "transformers", "device_type", "device")
    return {
        "version": VERSION,
        "weights": weights_hash,
        "settings": dict(spec.settings),
        "dtype": "bfloat16",
        "pipeline": pipeline,
        "threads": torch.get_num_threads() if device == "cpu" else 0,
        **{name: environment[name] for name in names},
    }


class KeptTexts:
    """Encoded texts in one folder. What cannot be kept is said once, and encoded every time.

    Args:
        folder: made when there is something to keep.
        key: all that decides an encoding, but the text (`texts_key`).
    """

    def __init__(self, folder: Path, key: Mapping[str, Any]) -> None:
        self.folder = folder
        self._key = dict(key)
        self._gave_up = False

    def path(self, prompt: str) -> Path:
        """The file of a prompt, which may be missing."""
        digest = hashlib.sha256(self._text(prompt).encode()).hexdigest()
        return self.folder / f"{digest[:32]}.safetensors"

    def read(self, prompt: str) -> list[KeptRow]:
        """The rows of a prompt, in the order in which they were made; [] where none are kept."""
        path, text = self.path(prompt), self._text(prompt)

        def is_good(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bool:
            told = (metadata.get("key"), metadata.get("sha256"))
            return told == (text, _checksum(tensors, metadata.get("rows", "")))

        found = read_kept(path, "kept text encodings", "the text is encoded again", is_good)
        if found is None:
            return []
        tensors, metadata = found
        try:
            rows = [_row_of(kept, tensors) for kept in json.loads(metadata["rows"])]
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            log.info("kept text encodings %s are not understood (%s)", path.name, error)
            return []
        with suppress(OSError):
            os.utime(path)  # it is in use
        return rows

    def write(self, prompt: str, rows: Sequence[KeptRow]) -> None:
        """Keep the rows of a prompt, if they can be kept and there is room."""
        if self._gave_up:
            return
        tensors: dict[str, Tensor] = {}
        try:
            described = json.dumps([_described(row, tensors) for row in rows], allow_nan=False)
        except _UnknownError as error:
            self._give_up(f"a text encoder answers with a {error}, which no file holds")
            return
        size = sum(tensor.nbytes for tensor in tensors.values())
        if size > MOST_PROMPT_BYTES:
            self._give_up(f"one prompt takes {size:,} bytes, more than {MOST_PROMPT_BYTES:,}")
        elif not self._has_room(size):
            self._give_up(f"{self.folder} holds {MOST_BYTES:,} bytes already")
        else:
            sha256 = _checksum(tensors, described)
            metadata = {"key": self._text(prompt), "sha256": sha256, "rows": described}
            try:
                write_kept(self.path(prompt), tensors, metadata, durable=False)
            except (OSError, SafetensorError) as error:
                self._give_up(reason(error, self.folder))

    def _text(self, prompt: str) -> str:
        return json.dumps(self._key | {"prompt": prompt}, sort_keys=True)

    def _give_up(self, why: str) -> None:
        self._gave_up = True
        log.info("text encodings are not kept (%s): the next process makes them again", why)

    def _has_room(self, size: int) -> bool:
        """Whether the folder takes so many bytes more, after what is not in use has made room."""
        try:
            with os.scandir(self.folder) as entries:
                files = [(entry.stat(), entry.path) for entry in entries if entry.is_file()]
        except OSError:
            return True  # there is none yet
        held = sum(found.st_size for found, _ in files)
        for found, path in sorted(files, key=lambda file: file[0].st_mtime):
            if held + size <= MOST_BYTES or time.time() - found.st_mtime < UNUSED_S:
                break
            with suppress(OSError):
                os.unlink(path)
                held -= found.st_size
        return held + size <= MOST_BYTES


class _UnknownError(Exception):
    """A part of a tree that a file does not hold; the message is its type."""


def _described(kept: KeptRow, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """A row as JSON; its tensors are added to `tensors`."""
    names: dict[int, str] = {}  # one tensor may appear twice, as a last hidden state does

    def describe(tree: Any) -> Any:
        if isinstance(tree, Tensor):
            if id(tree) not in names:
                names[id(tree)] = str(len(tensors))
                tensors[names[id(tree)]] = tree.contiguous()
            return {"tensor": names[id(tree)]}
        if isinstance(tree, Fields):
            fields = {name: describe(value) for name, value in tree.fields.items()}
            return {"class": _name_of(tree.cls), "fields": fields}
        if type(tree) in (list, tuple):
            return {type(tree).__name__: [describe(value) for value in tree]}
        is_plain = isinstance(tree, bool | int | str | type(None))
        if is_plain or (isinstance(tree, float) and math.isfinite(tree)):
            return {"value": tree}
        raise _UnknownError(type(tree).__name__)

    return {
        "component": kept.component,
        "exact": kept.exact.hex(),
        "loose": None if kept.loose is None else kept.loose.hex(),
        "span": list(kept.row.span),
        "length": kept.row.length,
        "tree": describe(kept.row.tree),
    }


def _row_of(kept: dict[str, Any], tensors: Mapping[str, Tensor]) -> KeptRow:
    def tree_of(part: dict[str, Any]) -> Any:
        match part:
            case {"tensor": name}:
                return tensors[name]
            case {"class": name, "fields": fields}:
                return Fields(_class_of(name), {key: tree_of(x) for key, x in fields.items()})
            case {"list": parts}:
                return [tree_of(x) for x in parts]
            case {"tuple": parts}:
                return tuple(tree_of(x) for x in parts)
        return part["value"]

    start, end = kept["span"]
    return KeptRow(
        component=kept["component"],
        exact=bytes.fromhex(kept["exact"]),
        loose=None if kept["loose"] is None else bytes.fromhex(kept["loose"]),
        row=Row(tree=tree_of(kept["tree"]), span=(start, end), length=kept["length"]),
    )


def _name_of(cls: type) -> str:
    """The name of an output class, by which `_class_of` finds it."""
    name = f"{cls.__module__}:{cls.__qualname__}"
    try:
        is_found = _class_of(name) is cls
    except (LookupError, TypeError, AttributeError):
        is_found = False
    if not is_found:
        raise _UnknownError(cls.__qualname__)
    return name


def _class_of(name: str) -> type:
    """An output class of transformers or diffusers. Nothing is imported for it.

    Raises:
        LookupError, AttributeError: there is none of this name.
        TypeError: it is no output class.
    """
    module, _, cls = name.partition(":")
    if module.partition(".")[0] not in _LIBRARIES:
        raise LookupError(name)
    found = getattr(sys.modules[module], cls)
    if not any(base.__name__ in ("ModelOutput", "BaseOutput") for base in found.__mro__):
        raise TypeError(name)
    kind: type = found
    return kind


def _checksum(tensors: Mapping[str, Tensor], rows: str) -> str:
    """sha256 of the tensors' names, types, shapes and bytes, and of what describes them."""
    digest = hashlib.sha256(rows.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(bytes_of(tensor))
    return digest.hexdigest()
