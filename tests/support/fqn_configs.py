"""`FqnToConfig` as JSON, over the names of `SmallNamesakeNet`."""

import json
from collections.abc import Mapping

from sensitivity.consumers.lists import ConsumerList, ModelTree
from sensitivity.core.format_name import FormatName

BF16, MXFP8, NVFP4, FP8 = FormatName.BF16, FormatName.MXFP8, FormatName.NVFP4, FormatName.FP8

MX = {"_type": "MXDynamicActivationMXWeightConfig", "_version": 1, "_data": {}}
"""torchao's config of mxfp8, as JSON."""

INSIDE = ("blocks.0.q", "blocks.0.proj_out", "blocks.1.q", "proj_out")
"""The Linears of `SmallNamesakeNet`."""

BIASED = frozenset({"blocks.0.q", "proj_out"})

KEYS = (
    "proj_out",
    "proj_out.weight",
    "proj_out.bias",
    "blocks.0.q",
    "blocks.0.q.weight",
    "blocks.0.q.bias",
    "blocks.1.q",
    "blocks.1.q.bias",
    "blocks.0",
    "blocks",
    "dead",
    "re:.*q",
    r"re:.*\.q\.weight",
    "re:.*proj_out",
    r"re:blocks\.0.*",
    r"re:.*\.weight",
    r"re:.*\.bias",
    "re:.*",
    r"re:proj_out\..*",
    "re:dead",
    "_default",
)


def fqn_config(keys: Mapping[str, bool]) -> str:
    """JSON of an `FqnToConfig` that has a config where a key's value is true, else None."""
    return json.dumps(
        {
            "_type": "FqnToConfig",
            "_version": 1,
            "_data": {"fqn_to_config": {key: MX if value else None for key, value in keys.items()}},
        }
    )


TREE = ModelTree(fqns=INSIDE, biased=BIASED)


def chosen(listed: ConsumerList, tree: ModelTree = TREE, quantized: FormatName = MXFP8) -> set[str]:
    """The Linears that a list quantizes."""
    return {fqn for fqn, fmt in listed.assign(tree, quantized=quantized).items() if fmt is not BF16}
