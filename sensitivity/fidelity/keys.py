"""What decides a score? The keys under which pictures and scores are kept.

Two scores of one key are comparable, and a known score may stand for a new one. The formats of the
skip-list are no part of it; by which kernels they run is (`formats.execution`).

    evaluation_digest(evaluator.key("search"), spec, "search", distance=..., execution=...)
"""

from collections.abc import Mapping
from typing import Any

from sensitivity.fidelity.splits import Split
from sensitivity.formats.execution import Execution
from sensitivity.models.generating import digest_of
from sensitivity.spec.study_spec import StudySpec

SECONDARY_VERSION = 1
"""Version of the secondary metrics. It is part of the key of held-out scores."""


def evaluation_digest(
    pictures: Mapping[str, Any],
    spec: StudySpec,
    split: Split,
    *,
    distance: Any,
    execution: Execution,
) -> str:
    """Digest of all that decides a score except the formats.

    Args:
        pictures: all that decides the bf16 pictures of the split.
        spec: the study.
        split: which prompts.
        distance: the key of the perceptual distance.
        execution: how quantized Linears are computed.
    """
    stride = spec.fidelity.frame_stride
    frames = {} if stride == 1 else {"frame_stride": stride}
    secondary = {"beside": SECONDARY_VERSION} if split == "held_out" else {}
    return digest_of(
        {**pictures, "distance": distance, "emulation": execution.key} | frames | secondary
    )
