"""Tables and lines of what was timed end to end."""

from dataclasses import replace
from io import StringIO

from rich.console import Console

from sensitivity.cli.render.measured import end_table
from sensitivity.cli.render.winner import latency_words
from sensitivity.core.format_name import FormatName
from sensitivity.recipes.records import Latency

from support.timed import end_times


def test_the_table_says_what_was_timed() -> None:
    """Device, runtime and what is covered above, speedups over bf16, failures with their reason
    below.
    """
    lists = {"trial 4": {"a": FormatName.FP8}, "all": {"a": FormatName.FP8}}
    out = StringIO()
    Console(file=out, width=120).print(
        end_table(end_times(lists, {"all": "a kernel refused it"}), linears=7)
    )
    text = " ".join(out.getvalue().split())
    assert "seconds and speedups of the whole pipeline call; measured end to end on NVIDIA" in text
    assert "1/7" in text
    assert "1.500x" in text
    assert "2.00" in text
    assert "in turns, 3 rounds in shuffled order; compiled: repeated blocks (Block)" in text
    assert "all failed: a kernel refused it" in text


def test_a_recipe_says_where_its_seconds_come_from() -> None:
    """End to end with the sum of shapes beside it, or as it is priced."""
    priced = Latency(
        bf16_s=3.0,
        quantized_s=2.0,
        speedup=1.5,
        source="measured",
        target="h200",
        batch_size=1,
        compile_mode="default",
    )
    assert latency_words(priced) == "1.500x of a whole run, 2 s (measured for h200)"
    shapes = {"bf16_s": 3.2, "quantized_s": 2.0, "speedup": 1.6, "source": "measured"}
    run = Latency.model_validate(
        priced.model_dump() | {"shapes": shapes, "speedup_interval90": [1.49, 1.51]}
    )
    assert latency_words(run) == (
        "1.500x [1.490, 1.510] of a whole run, 2 s (measured end to end on h200; 1.600x by the sum"
        " of shapes)"
    )
    whole = {"bf16_s": 3.6, "quantized_s": 2.4, "speedup": 1.5, "source": "measured"}
    part = Latency.model_validate(run.model_dump() | {"whole_run": whole})
    assert latency_words(part) == (
        "1.500x [1.490, 1.510] of the denoiser's calls, 2 s (measured end to end on h200; 1.600x by"
        " the sum of shapes), 1.500x of a whole run with the pipeline's other 0.4 s (by the sum of"
        " shapes)"
    )
    assert part.ranked_s == 2.4
    assert run.ranked_s == 2.0


def test_a_part_of_a_run_is_not_called_a_run() -> None:
    """Where the denoiser's calls alone were timed, the heading has no run, and what is left out is
    said.
    """
    times = replace(end_times({"all": {"a": FormatName.FP8}}, {}), whole=False, covers="8 calls")
    out = StringIO()
    Console(file=out, width=120).print(end_table(times, linears=7, others_s=0.15))
    assert "seconds and speedups of 8 calls; measured" in out.getvalue()
    assert "a run  " not in out.getvalue()
    assert "a whole run has the pipeline's other 0.15 s too" in out.getvalue()
