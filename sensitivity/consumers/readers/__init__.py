"""How the tools that quantize read lists.

    get_reader("diffusers").read(text)          # the list as diffusers understands it
    guess_reader(text).read(text)               # in whichever form the text is

Each form has one reader. No reader runs its consumer; the tests compare readers with the real
consumers, or with results that were recorded from them.
"""

from collections.abc import Mapping
from types import MappingProxyType

from sensitivity.consumers.lists import ConsumerList, Entry, ModelTree
from sensitivity.consumers.readers._base import Reader
from sensitivity.consumers.readers.comfyui import ComfyuiReader
from sensitivity.consumers.readers.compressed_tensors import CompressedTensorsReader
from sensitivity.consumers.readers.convert_to_quant import ConvertToQuantReader
from sensitivity.consumers.readers.diffusers import DiffusersReader
from sensitivity.consumers.readers.filter_fn import FilterFnReader
from sensitivity.consumers.readers.modelopt import ModelOptReader
from sensitivity.consumers.readers.plain import PLAIN_READERS
from sensitivity.consumers.readers.sdnq import SdnqReader
from sensitivity.consumers.readers.sglang import SglangReader
from sensitivity.consumers.readers.torchao import TorchaoReader
from sensitivity.consumers.readers.vllm_omni import VllmOmniReader
from sensitivity.core.words import did_you_mean
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
                ConvertToQuantReader(),
                TorchaoReader(),
                SdnqReader(),  # before diffusers, whose backend it is as well
                DiffusersReader(),
                FilterFnReader(),
                ModelOptReader(),
                CompressedTensorsReader(),
            )
        },
    }
)
"""{name of the form: reader}."""


def get_reader(name: str) -> Reader:
    """The reader of the form called `name`.

    Raises:
        PatternError: there is none; the message has the closest name.
    """
    if name in READERS:
        return READERS[name]
    hint = did_you_mean(
        name.lower().replace("_", "-"), READERS, otherwise="name one of them", cutoff=0.4
    )
    raise PatternError(f"found the form {name!r}; expected one of {', '.join(READERS)}; {hint}")


def guess_reader(text: str) -> Reader:
    """The reader of the form that a text is in; the reader of globs if no form is recognised."""
    return next((reader for reader in READERS.values() if reader.looks_like(text)), READERS["glob"])
