"""The GPU's quantizers give torchao's numbers bit for bit.

Here they run in Triton's interpreter, which runs the same kernels on the CPU; `tests/gpu` runs them
on a GPU.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "support" / "check_triton_kernels.py"


def test_quantizers_are_torchaos_to_the_bit() -> None:
    """Values and scales of all three formats, ties, tiny and large numbers, zeros, NaN and inf, and
    the epilogue.
    """
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(SCRIPT)],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "all the same", done.stderr[-2000:]
