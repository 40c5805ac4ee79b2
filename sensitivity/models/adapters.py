"""Were a component's weights saved with adapters around them, such as LoRA?

    describe_stored_adapters(folder / "transformer", files)
    # "an adapter such as LoRA (transformer_blocks.0.attn.to_q.lora_A.default.weight, in ...)"

An adapter stands around a Linear: its weight is under another name (`base_layer`), and its output
is the sum of two products. A skip-list names the model's own Linears, so adapters are fused into
them, or unloaded, first.

What it does not do: recognise adapters that were fused already; these are weights like others.
Adapters of a loaded model are seen where a recipe is applied (`formats.patches`).
"""

import re
from collections.abc import Iterable
from pathlib import Path

from sensitivity.core.words import printable
from sensitivity.models.weight_headers import read_header

ADAPTER_CONFIG = "adapter_config.json"
"""The file that PEFT writes beside adapters."""
NAMES = re.compile(
    r"(^|\.)(lora_(A|B|E|down|up|magnitude_vector|embedding_[AB])|lokr_\w+|loha_\w+|hada_w\w+"
    r"|oft_\w+|dora_scale|base_layer|vera_lambda_\w+|ia3_l)(\.|$)"
)
"""Parts of names that adapters have, those of PEFT and of the usual trainers."""
NEXT_STEP = (
    "fuse it (`pipeline.fuse_lora()`, then `pipeline.unload_lora_weights()`) or unload it alone,"
    " and save the pipeline with `pipeline.save_pretrained(folder)`"
)
"""What to do about an adapter, for messages."""


def describe_stored_adapters(folder: Path, files: Iterable[Path]) -> str | None:
    """The adapter in a component's folder, with where it shows; None if there is none.

    Raises:
        OSError, ValueError: a header cannot be read.
    """
    if (folder / ADAPTER_CONFIG).is_file():
        return f"an adapter such as LoRA ({ADAPTER_CONFIG})"
    for path in files:
        found = next((name for name in read_header(path).tensors if NAMES.search(name)), None)
        if found is not None:
            return f"an adapter such as LoRA ({printable(found)[:200]}, in {path.name})"
    return None
