"""Every shape gets a result, whatever becomes of the process that tries it.

The children here load no torch: they speak the protocol, and die in the known ways when they come
to a shape whose M says so.
"""

import io
import json
import signal
import sys
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

from sensitivity.core.format_name import FormatName
from sensitivity.errors import FormatError
from sensitivity.latency.shape_times import LinearShape
from sensitivity.latency.timing import probe_child
from sensitivity.latency.timing.probe_child import MARK, needed_bytes, try_shape
from sensitivity.latency.timing.probing import (
    PROBED,
    Prober,
    ProbeResult,
    keep_refusal,
    probe_shapes,
)

from support.latency import FP8, shape

MACHINE = {"device": "toy GPU"}
SEGFAULT, HANG, STICKY, REFUSED, STATUS, OFTEN, TOO_LARGE = 11, 12, 13, 14, 15, 16, 17
CHILD = f"""
import json, os, pathlib, signal, sys, time
def say(**said): print({MARK!r} + json.dumps(said), flush=True)
request = json.load(sys.stdin)
print("a library prints something")
say(ready=True)
for i, key in enumerate(request["shapes"]):
    m = int(key.split("m=")[1].split()[0])
    say(begin=i)
    if m == {SEGFAULT}: os.kill(os.getpid(), signal.SIGSEGV)
    if m == {HANG}: time.sleep(60)
    if m == {STATUS}: sys.exit("cannot open the device")
    if m == {OFTEN} and not pathlib.Path(sys.argv[1]).exists():
        pathlib.Path(sys.argv[1]).touch()
        os.abort()
    if m in ({STICKY}, {REFUSED}):
        say(end=i, outcome="refused", reason=f"refused by the kernel: NO for M={{m}}")
        if m == {STICKY}: sys.exit(0)
    elif m == {TOO_LARGE}: say(end=i, outcome="untried", reason="it needs 9 GB, and 1 GB are free")
    else: say(end=i, outcome="ran", reason=None)
"""


class Cache:
    """A ShapeTimeCache in a dictionary."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], dict[str, Any]] = {}

    def find_shape_times(
        self,
        machine: Mapping[str, str],  # noqa: ARG002 - the contract's signature
        compile_mode: str,
    ) -> dict[str, dict[str, Any]]:
        return {key: dict(row) for (mode, key), row in self.rows.items() if mode == compile_mode}

    def save_shape_time(
        self,
        machine: Mapping[str, str],  # noqa: ARG002 - the contract's signature
        compile_mode: str,
        key: str,
        row: Mapping[str, Any],
    ) -> None:
        self.rows[compile_mode, key] = dict(row)


def probe(
    rows: list[int], tmp_path: Any, *, cache: Cache | None = None, **changed: Any
) -> dict[int, ProbeResult]:
    """{M: result} of shapes with these M, tried by children that may die."""
    prober = Prober(
        command=(sys.executable, "-c", CHILD, str(tmp_path / "seen")),
        **{"shape_s": 5.0, "start_s": 5.0, **changed},
    )
    results = probe_shapes(
        [shape(m, 32, 16, FP8) for m in rows],
        device="cuda:0",
        machine=MACHINE,
        cache=cache,
        prober=prober,
    )
    return {found.m: result for found, result in results.items()}


def test_a_crash_names_the_shape_and_the_rest_goes_on(tmp_path: Any) -> None:
    """A shape that kills two processes is refused by name; those around it have run."""
    results = probe([1, SEGFAULT, 2, 3], tmp_path)
    assert [results[m].outcome for m in (1, 2, 3)] == ["ran"] * 3
    assert results[SEGFAULT] == ProbeResult(
        outcome="refused",
        reason="refused by the kernel: the process died (SIGSEGV) for M=11 K=32 N=16 with a bias",
    )


def test_a_crash_that_does_not_come_again_is_no_refusal(tmp_path: Any) -> None:
    """A process may die for a reason of its own; the shape is tried once more."""
    assert probe([OFTEN, 1], tmp_path)[OFTEN] == ProbeResult(outcome="ran")


def test_a_hang_is_killed_and_not_kept(tmp_path: Any) -> None:
    """A shape without an answer is refused for now; the next probe tries it again."""
    cache = Cache()
    results = probe([1, HANG, 2], tmp_path, cache=cache, shape_s=0.5)
    assert results[HANG].outcome == "refused"
    assert "no answer within 0.5 s for M=12" in str(results[HANG].reason)
    assert [results[m].outcome for m in (1, 2)] == ["ran", "ran"]
    assert {key for _, key in cache.rows} == {f"probed {shape(m, 32, 16, FP8)}" for m in (1, 2)}


def test_a_broken_context_costs_only_the_child(tmp_path: Any) -> None:
    """After a sticky error the child ends, and a new one takes the rest."""
    results = probe([1, STICKY, 2, REFUSED, 3], tmp_path)
    assert [results[m].outcome for m in (1, 2, 3)] == ["ran"] * 3
    assert results[STICKY].reason == "refused by the kernel: NO for M=13"
    assert results[REFUSED].reason == "refused by the kernel: NO for M=14"


def test_what_was_found_is_not_tried_again(tmp_path: Any) -> None:
    """Results are read from the cache, refusals too; no process is started for them."""
    cache = Cache()
    first = probe([1, REFUSED, TOO_LARGE], tmp_path, cache=cache)
    prober = Prober(command=("no-such-program",))
    again = probe_shapes(
        [shape(m, 32, 16, FP8, eager=True) for m in (1, REFUSED)],
        device="cuda:0",
        machine=MACHINE,
        cache=cache,
        prober=prober,
    )
    assert {found.m: result for found, result in again.items()} == {
        m: first[m] for m in (1, REFUSED)
    }
    assert first[TOO_LARGE].outcome == "untried"
    assert len(cache.rows) == 2, "what says nothing about the kernel is not kept"
    assert {mode for mode, _ in cache.rows} == {PROBED}


def test_a_child_that_does_not_start_refuses_nothing(tmp_path: Any) -> None:
    """Without an answer from any child, shapes are untried with the reason."""
    prober = Prober(command=(sys.executable, "-c", "raise SystemExit('no driver')"))
    results = probe_shapes([shape(1, 32, 16, FP8)], device="cuda:0", machine=MACHINE, prober=prober)
    (result,) = results.values()
    assert result.outcome == "untried"
    assert "ended with status 1 (no driver)" in str(result.reason)
    code = "import time; time.sleep(30)"
    silent = Prober(command=(sys.executable, "-c", code), start_s=0.3)
    (result,) = probe_shapes(
        [shape(1, 32, 16, FP8)], device="cuda:0", machine=MACHINE, prober=silent
    ).values()
    assert "not ready within 0.3 s" in str(result.reason)
    results_by_m = probe([STATUS, 1], tmp_path)
    assert "ended with status 1 (cannot open the device)" in str(results_by_m[STATUS].reason)
    assert results_by_m[1].outcome == "ran"


def test_shapes_are_told_apart_by_what_the_kernel_sees(tmp_path: Any) -> None:
    """Eager, sibling and compiled Linears of one shape are one probe; bf16 is none."""
    told: list[tuple[int, int, str]] = []
    wanted = [
        shape(1, 32, 16, FP8),
        shape(1, 32, 16, FP8, eager=True),
        shape(1, 32, 16, FP8, bias=False),
        shape(1, 32, 16),
        shape(0, 32, 16, FP8),
    ]
    results = probe_shapes(
        wanted,
        device="cuda:0",
        machine=MACHINE,
        prober=Prober(command=(sys.executable, "-c", CHILD, str(tmp_path / "seen"))),
        progress=lambda *at: told.append(at),
    )
    assert set(results) == {shape(1, 32, 16, FP8), shape(1, 32, 16, FP8, bias=False)}
    assert [(done, total) for done, total, _ in told] == [(0, 2), (1, 2), (2, 2)]


def test_a_refusal_found_while_timing_is_kept() -> None:
    """What broke the context when it was timed compiled is refused from then on."""
    cache = Cache()
    keep_refusal(cache, MACHINE, shape(3, 32, 16, FP8, eager=True), "CUDA error: illegal access")
    (result,) = probe_shapes(
        [shape(3, 32, 16, FP8)], device="cuda:0", machine=MACHINE, cache=cache
    ).values()
    assert result.reason == (
        "refused by the kernel: CUDA error: illegal access for M=3 K=32 N=16 with a bias"
    )


# --- the child's own work ------------------------------------------------------------------------


def quantize_with(error: BaseException | None) -> Any:
    """Stands for torchao: the quantized Linear raises."""

    def quantize(module: nn.Module, formats: Mapping[str, FormatName]) -> None:
        assert formats == {"0": FP8}

        def refuse(*_: object) -> None:
            if error is not None:
                raise error

        module.get_submodule("0").register_forward_pre_hook(refuse)

    return quantize


@pytest.mark.parametrize(
    ("error", "outcome", "reason"),
    [
        (None, "ran", None),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasLtMatmul"),
            "refused",
            "refused by the kernel: CUBLAS_STATUS_NOT_SUPPORTED for M=2 K=32 N=16 with a bias",
        ),
        (AssertionError("mslk is missing"), "refused", None),
        (torch.OutOfMemoryError("CUDA out of memory"), "untried", "out of memory on this device"),
        (FormatError("fp8 is not here"), "untried", "fp8 is not here"),
    ],
)
def test_a_shape_runs_or_says_why_not(
    error: BaseException | None, outcome: str, reason: str | None
) -> None:
    """A kernel's error is a refusal in its own words; too little memory is none."""
    found = try_shape(shape(2, 32, 16, FP8), torch.device("cpu"), quantize_with(error))
    assert found[0] == outcome
    assert reason is None or found[1] == reason


def test_a_shape_that_does_not_fit_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason names both sizes."""
    monkeypatch.setattr(probe_child, "free_bytes", lambda _: 1_000_000_000)
    large = LinearShape(m=100_000, k=16384, n=16384, bias=False, format=FP8)
    assert needed_bytes(large) > 4e9
    outcome, reason = try_shape(large, torch.device("cpu"), quantize_with(None))
    assert outcome == "untried"
    assert "GB, and 1.0 GB are free" in str(reason)


def test_the_child_answers_shape_by_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says when it is ready, when it begins each shape, and what became of it."""
    request = {"device": "cpu", "shapes": [str(shape(2, 32, 16, FP8))]}
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(request)))
    lines: list[str] = []
    probe_child.main(lines.append)
    said = [json.loads(line.removeprefix(MARK)) for line in lines]
    assert said[:2] == [{"ready": True}, {"begin": 0}]
    assert said[2]["outcome"] == "untried"
    assert "fp8 runs natively on CUDA" in said[2]["reason"]
    assert signal.SIGSEGV == SEGFAULT
