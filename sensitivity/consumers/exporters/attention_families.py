"""Which Linears does ModelOpt's `export_hf_checkpoint` fuse, and so need in one format?

    attention_families(["attn1.to_q", "attn1.to_k", "attn1.to_v", "attn2.to_q", "attn2.to_k"])
    # [("attn1.to_q", "attn1.to_k", "attn1.to_v")]; the q of attn2 reads another tensor

It fuses q, k and v of an attention where they read one tensor. ModelOpt sees which tensor they read
in a forward pass. A recipe has names only, so cross-attentions are recognised by diffusers' names.

Source: ModelOpt 0.47.0 (`torch/export/diffusers_utils.py`: `is_qkv_projection`).
"""

import re
from collections import defaultdict
from collections.abc import Iterable

FUSED = (
    ("to_q", "to_k", "to_v"),
    ("q_proj", "k_proj", "v_proj"),
    ("query", "key", "value"),
    ("add_q_proj", "add_k_proj", "add_v_proj"),
    ("to_added_q", "to_added_k", "to_added_v"),
)
"""The last parts of names that are fused: q, k and v."""

CROSS = re.compile(r"(\w+_)?attn2|\w+_to_\w+_attn|\w*cross_?att\w*")
"""The names of attentions whose q reads another tensor than k and v."""


def attention_families(fqns: Iterable[str]) -> list[tuple[str, ...]]:
    """The Linears that read one tensor in an attention: q, k and v, or k and v of a
    cross-attention.
    """
    families: dict[tuple[str, int], list[str]] = defaultdict(list)
    for fqn in fqns:
        parent, _, last = fqn.rpartition(".")
        is_cross = CROSS.fullmatch(parent.rpartition(".")[2]) is not None
        for place, names in enumerate(FUSED):
            if last in names and not (last == names[0] and is_cross):
                families[parent, place].append(fqn)
    return [tuple(family) for family in families.values() if len(family) > 1]
