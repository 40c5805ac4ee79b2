"""How the tools that quantize read lists:

`get_reader("diffusers").read(text)` says what becomes of each Linear.

One file a consumer. Nothing here runs a consumer; tests compare with the real ones, or with what
their source says.
"""

import difflib
from collections.abc import Mapping
from types import MappingProxyType

from sensitivity.consumers.lists import ConsumerList, Entry, ModelTree
from sensitivity.consumers.readers._base import Reader
from sensitivity.consumers.readers.comfyui import ComfyuiReader
from sensitivity.consumers.readers.compressed_tensors import CompressedTensorsReader
from sensitivity.consumers.readers.diffusers import DiffusersReader
from sensitivity.consumers.readers.filter_fn import FilterFnReader
from sensitivity.consumers.readers.modelopt import ModelOptReader
from sensitivity.consumers.readers.plain import PLAIN_READERS
from sensitivity.consumers.readers.sglang import SglangReader
from sensitivity.consumers.readers.torchao import TorchaoReader
from sensitivity.consumers.readers.vllm_omni import VllmOmniReader
from sensitivity.errors import PatternError

__all__ = ["READERS", "ConsumerList", "Entry", "ModelTree", "Reader", "get_reader", "guess_reader"]

READERS: Mapping[str, Reader] = MappingProxyType(
    {
        **PLAIN_READERS,
        **{
            reader.name: reader
            for reader in (
                VllmOmniReader(),
                SglangReader(),
                ComfyuiReader(),
                TorchaoReader(),
                DiffusersReader(),
                FilterFnReader(),
                ModelOptReader(),
                CompressedTensorsReader(),
            )
        },
    }
)
"""Name after `--as` -> reader."""


def get_reader(name: str) -> Reader:
    """The reader called `name`.

    Raises:
        PatternError: there is none; the message has the closest name.
    """
    if name in READERS:
        return READERS[name]
    close = difflib.get_close_matches(name.lower().replace("_", "-"), READERS, n=1, cutoff=0.4)
    hint = f"did you mean {close[0]!r}?" if close else "name one of them"
    raise PatternError(f"found the form {name!r}; allowed are {', '.join(READERS)}; {hint}")


def guess_reader(text: str) -> Reader:
    """The reader whose form a text is in; that of globs where no consumer's form is recognised."""
    return next((reader for reader in READERS.values() if reader.looks_like(text)), READERS["glob"])
