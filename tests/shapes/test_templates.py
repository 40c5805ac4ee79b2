"""The text rows of a run without weights are those that a pipeline's own code makes of a real
tokenizer's answer, whatever template it uses.
"""

from pathlib import Path

import pytest

from sensitivity.models import skeleton
from sensitivity.shapes import call_arguments
from sensitivity.shapes.run import run_shapes
from sensitivity.shapes.shape_run import ShapeRun

from support.real_tokenizers import word_processor, word_tokenizer
from support.toy_pipelines import save_toy

TEXT = "a red ring and a blue star stand on the old table outside"
PIPELINES = {"qwen": 9, "qwen21": 9, "krea2": 9, "longcat": 9, "kandinsky5": 13, "lumina2": 9}
"""{toy: words of a prompt}: nine, or as many as make 14 tokens with what the template keeps."""


def rows(run: ShapeRun) -> dict[str, tuple[tuple[int, int], ...]]:
    """{FQN: (M, calls)}."""
    return {linear.fqn: linear.m_values for linear in run.table.linears}


@pytest.mark.parametrize("name", list(PIPELINES))
def test_rows_are_those_of_a_real_tokenizer(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt of a few words through a real tokenizer, or processor, gives every Linear the rows
    that the stand-in gives it.
    """
    spec = save_toy(name, tmp_path, steps=1)
    if (
        name == "lumina2"
    ):  # an empty negative prompt has no word, and the 6 tokens that are declared
        spec = spec.model_copy(update={"settings": spec.settings | {"guidance_scale": 1.0}})
    stand_ins = run_shapes(spec)
    real = {True: word_processor, False: word_tokenizer}
    monkeypatch.setattr(
        skeleton,
        "_stand_in",
        lambda _counts, _folder, entry: real["Processor" in entry.class_name](),
    )
    monkeypatch.setattr(call_arguments, "PROMPT", " ".join(TEXT.split()[: PIPELINES[name]]))
    assert rows(run_shapes(spec)) == rows(stand_ins)


def test_krea2_has_512_text_rows(tmp_path: Path) -> None:
    """The suffix that is tokenized alone has 5 tokens, and the 34 of the prefix are dropped: 512
    rows, as `max_sequence_length` says.
    """
    run = run_shapes(save_toy("krea2", tmp_path, steps=1))
    assert {m for m, _ in rows(run)["text_fusion.refiner_blocks.0.attn.to_q"]} == {512}


def test_experts_share_the_tokens(tmp_path: Path) -> None:
    """HiDream: each of four experts has half of the tokens, since each token goes to two; the
    settings say so.
    """
    run = run_shapes(save_toy("hidream", tmp_path, steps=1))
    found = rows(run)
    (expert,) = {found[f"double_stream_blocks.0.block.ff_i.experts.{i}.w1"] for i in range(4)}
    ((shared, _),) = found["double_stream_blocks.0.block.ff_i.shared_experts.w1"]
    assert [m for m, _ in expert] == [shared // 2]
    assert run.table.settings["routing"] == "top 2 of 4, each taken equally often"
