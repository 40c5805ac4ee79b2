"""A text that was encoded once is not encoded by the next process, whose denoiser gets the same
bits; what is wrong on the disk is encoded again.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPast

from sensitivity.models import kept_texts
from sensitivity.models.generating import MediaGenerator
from sensitivity.models.kept_texts import KeptTexts
from sensitivity.models.loading import LoadedPipeline, load_pipeline, text_call
from sensitivity.models.text_memory import TextMemory
from sensitivity.spec.loading import load_spec
from sensitivity.spec.overrides import with_random_weights
from sensitivity.spec.study_spec import StudySpec

from support.toy_pipelines import save_toy

KEY = {"weights": "abc", "settings": {"steps": 2}}
WORDS = {"red": 3, "blue": 4, "ring": 5}


class Encoder(nn.Module):
    """Counts the rows that it encodes. `answers` makes its answer of the hidden states."""

    def __init__(self, answers: Any) -> None:
        super().__init__()
        self.table, self.rows, self.answers = nn.Embedding(16, 8), 0, answers

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        """input_ids, attention_mask: (B, L)."""
        self.rows += len(input_ids)
        return self.answers(self.table(input_ids) * attention_mask[..., None])


def with_class(x: Tensor) -> Any:
    """As transformers answers, with the last hidden state twice."""
    return BaseModelOutputWithPast(last_hidden_state=x, hidden_states=(x / 2, x))


def nested(x: Tensor) -> Any:
    """Lists, tuples and plain values."""
    return [x, (x.bfloat16(), [x > 0, 1, 0.5, "a", None, True])]


class Pipeline:
    """Pads to the longest prompt, and encodes an empty prompt with each."""

    def __init__(self, answers: Any = with_class) -> None:
        torch.manual_seed(0)
        self.encoder, self.denoiser = Encoder(answers), nn.Identity()

    def __call__(self, prompts: list[str]) -> Any:
        ids = [[WORDS[w] for w in text.split()] or [1] for text in [""] * len(prompts) + prompts]
        width = max(map(len, ids))
        padded = torch.tensor([row + [0] * (width - len(row)) for row in ids])
        return self.denoiser(self.encoder(padded, attention_mask=(padded > 0).long()))


@dataclass(frozen=True)
class Process:
    """A pipeline with a memory, as a process has it."""

    pipe: Pipeline
    memory: TextMemory

    def learn(self, *prompts: str) -> int:
        """Learn prompts; how many rows were encoded for it."""
        before = self.pipe.encoder.rows
        for prompt in prompts:
            self.memory.learn(prompt, lambda prompt=prompt: self.pipe([prompt]))  # type: ignore[misc]
        return self.pipe.encoder.rows - before


def process(folder: Path, answers: Any = with_class, **key: Any) -> Process:
    pipe = Pipeline(answers)
    return Process(pipe, remembering(pipe, folder, **key))


def remembering(pipe: Pipeline, folder: Path, **key: Any) -> TextMemory:
    """The memory of a pipeline, kept in a folder."""
    memory = TextMemory({"encoder": pipe.encoder}, denoisers=[pipe.denoiser], device="cpu")
    memory.kept = KeptTexts(folder, KEY | key)
    return memory


def leaves(answer: Any) -> list[Any]:
    """Everything in an answer, in order."""
    if isinstance(answer, dict):
        answer = list(answer.values())
    if isinstance(answer, list | tuple):
        return [x for part in answer for x in leaves(part)]
    return [answer]


def same(left: Any, right: Any) -> bool:
    """Whether two answers are equal to the last bit, with the same types."""
    return all(
        torch.equal(x, y) and x.dtype == y.dtype if isinstance(x, Tensor) else x == y
        for x, y in zip(leaves(left), leaves(right), strict=True)
    ) and type(left) is type(right)


@pytest.mark.parametrize("answers", [with_class, nested])
def test_the_next_process_encodes_nothing(tmp_path: Path, answers: Any) -> None:
    """It gets the bits of a process without a memory, in any batch; a text that is new is encoded
    beside those that are known.
    """
    assert process(tmp_path, answers).learn("red ring", "blue") == 4
    second = process(tmp_path, answers)
    assert second.learn("red ring", "blue") == 0
    assert second.memory.answered == {"encoder"}
    assert same(second.pipe(["red ring"]), Pipeline(answers)(["red ring"]))
    first = process(tmp_path / "other", answers)
    first.learn("red ring", "blue")
    for batch in (["blue"], ["blue", "red ring"]):
        assert same(second.pipe(batch), first.pipe(batch))
    assert second.pipe.encoder.rows == 0
    assert second.learn("ring") == 2
    assert process(tmp_path, answers).learn("ring", "red ring", "blue") == 0


def test_another_key_has_encodings_of_its_own(tmp_path: Path) -> None:
    """Other weights, settings or versions find nothing."""
    process(tmp_path).learn("red ring")
    assert process(tmp_path, weights="abd").learn("red ring") == 2
    assert process(tmp_path).learn("red ring") == 0


@pytest.mark.parametrize("damage", ["truncated", "emptied", "flipped", "header", "other text"])
def test_a_damaged_file_is_set_aside_and_the_text_encoded_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    """A warning says so; the next process finds a good file again."""
    made = process(tmp_path)
    made.learn("red ring", "blue ring")
    assert made.memory.kept is not None
    path, other = (made.memory.kept.path(text) for text in ("red ring", "blue ring"))
    good = path.read_bytes()
    at = good.index(b"tensor")
    path.write_bytes(
        {
            "truncated": good[:-1],
            "emptied": b"",
            "flipped": good[:-5] + bytes([good[-5] ^ 1]) + good[-4:],
            "header": good[:at] + b"tensOr" + good[at + 6 :],
            "other text": other.read_bytes(),
        }[damage]
    )
    with caplog.at_level(logging.WARNING):
        assert process(tmp_path).learn("red ring") == 2
    assert "encoded again" in caplog.text
    assert path.with_suffix(".damaged").exists()
    assert process(tmp_path).learn("red ring") == 0


def test_only_output_classes_are_found_by_name(tmp_path: Path, caplog: Any) -> None:
    """A file that names other code, with a checksum that is right, is not believed."""
    kept = process(tmp_path).memory.kept
    assert kept is not None
    names = ("os:system", "transformers:AutoModel", "transformers.nothing:X", "builtins:dict")
    for name in names:
        rows = '[{"component": "encoder", "exact": "00", "loose": null, "span": [0, 0],'
        rows += f' "length": 0, "tree": {{"class": "{name}", "fields": {{}}}}}}]'
        sha256 = kept_texts._checksum({"0": torch.zeros(1)}, rows)
        metadata = {"key": kept._text("red"), "sha256": sha256, "rows": rows}
        kept_texts.write_kept(kept.path("red"), {"0": torch.zeros(1)}, metadata)
        with caplog.at_level(logging.INFO):
            assert kept.read("red") == []
    assert caplog.text.count("are not understood") == len(names)


def test_what_a_file_cannot_hold_is_not_kept(tmp_path: Path) -> None:
    """An answer with another class, and a memory that closed itself, leave no file."""

    class Output(BaseModelOutputWithPast):  # type: ignore[misc]
        """Not one of transformers'."""

    class Peeking(Pipeline):
        """Uses an attribute of its encoder, which no call returns."""

        def __call__(self, prompts: list[str]) -> Any:
            ids = torch.tensor([[WORDS[word] for word in text.split()] for text in prompts])
            before = self.encoder.rows
            text = self.encoder(ids, attention_mask=torch.ones_like(ids))
            return self.denoiser(text * (self.encoder.rows - before))

    process(tmp_path, lambda x: Output(last_hidden_state=x)).learn("red ring")
    pipe = Peeking(lambda x: x)
    closed = Process(pipe, remembering(pipe, tmp_path))
    closed.learn("red ring")
    assert not closed.memory.works
    assert list(tmp_path.iterdir()) == []


def test_the_folder_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was not read for long makes room, the oldest first; where nothing did, no more is kept;
    a prompt that takes too much is not kept.
    """
    process(tmp_path).learn("red", "ring")
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    monkeypatch.setattr(kept_texts, "MOST_BYTES", sum(sizes))
    process(tmp_path).learn("blue")
    assert len(list(tmp_path.iterdir())) == 2
    monkeypatch.setattr(kept_texts, "UNUSED_S", -1.0)
    process(tmp_path).learn("blue")
    assert process(tmp_path).learn("blue") == 0
    assert len(list(tmp_path.iterdir())) == 2
    monkeypatch.setattr(kept_texts, "MOST_PROMPT_BYTES", 16)
    process(tmp_path / "new").learn("red")
    assert not (tmp_path / "new").exists()


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by the name of a component with each of its calls that is remembered."""
    names: list[str] = []
    keep = TextMemory._keep

    def keep_and_note(self: TextMemory, component: str, *args: Any) -> None:
        keep(self, component, *args)
        if component in self.answered:
            names.append(component)

    monkeypatch.setattr(TextMemory, "_keep", keep_and_note)
    return names


@pytest.mark.parametrize("in_turn", [False, True])
def test_pictures_are_those_of_encoded_texts(
    tiny_study: Path, tmp_path: Path, encoded: list[str], *, in_turn: bool
) -> None:
    """With kept texts no text encoder is called, and the pictures have the same bits."""
    spec, how = load_spec(tiny_study), {"device": "cpu", "in_turn": in_turn}
    prompts = [*spec.prompts.search][:2]
    plain = pictures(load_pipeline(spec, **how), prompts)  # type: ignore[arg-type]
    calls = []
    for _ in range(2):
        encoded.clear()
        loaded = load_pipeline(spec, texts=tmp_path, **how)  # type: ignore[arg-type]
        assert torch.equal(pictures(loaded, prompts), plain)
        calls.append(len(encoded))
    assert calls[0] > 0
    assert calls[1] == 0


def pictures(loaded: LoadedPipeline, prompts: list[str]) -> Tensor:
    generator = MediaGenerator(loaded)
    return generator.generate_pictures(prompts, [0, 1], batch_size=2)


@pytest.mark.parametrize("name", ["sdxl", "zimage"])
def test_real_pipelines_get_the_same_from_the_disk(
    name: str, tmp_path: Path, encoded: list[str]
) -> None:
    """The denoiser's arguments are those of a pipeline without a memory, and no encoder runs."""
    spec = with_random_weights(save_toy(name, tmp_path / "toy", steps=1))
    plain = load_pipeline(spec, device="cpu", resident=True)
    first, second = (load_pipeline(spec, device="cpu", texts=tmp_path / "texts") for _ in range(2))
    first.remember(["a cat", "an elephant"])
    assert first.text is not None
    assert first.text.works
    assert encoded
    encoded.clear()
    second.remember(["a cat", "an elephant"])
    assert encoded == []
    for prompt in ("an elephant", "a cat"):
        expected = denoiser_arguments(spec, plain, prompt)
        assert same(denoiser_arguments(spec, second, prompt), expected)


def denoiser_arguments(spec: StudySpec, loaded: LoadedPipeline, prompt: str) -> list[Any]:
    """All that the first call of the denoiser is given."""

    class Enough(BaseException):
        pass

    seen: list[Any] = []

    def stop(_module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        seen.extend([args, {key: kwargs[key] for key in sorted(kwargs)}])
        raise Enough

    hook = loaded.denoiser.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        with pytest.raises(Enough), torch.no_grad():
            loaded.pipe(**text_call(spec, loaded.pipe, prompt))
    finally:
        hook.remove()
    return seen
