"""How many tokens has a text, when there is no tokenizer to count them?

`TokenCounts` knows the lengths of a study's texts and recognises the template that a pipeline puts
around them.

    counts = TokenCounts(prompt_tokens=14, negative_prompt_tokens=6)
    counts.tokens(PROMPT)                                         # 14
    counts.tokens("<|im_end|>\\n<|im_start|>assistant\\n")          # 5: a fixed piece, as it is

Conventions. `prompt_tokens` are the tokens of a prompt that a pipeline hands on: what its template
adds is among them where it is kept, and comes on top where the pipeline drops it (`dropped`).
No text is shorter than its template and one token. `negative_prompt_tokens` hold for negative
prompts where the study states them. All other texts are counted as they are: fixed pieces of
templates, and negative prompts that a pipeline brings along.

Method. Counting splits a text as the byte-pair encoders of today's language models do before they
merge: a control token, a word with the blank before it, a digit, a run of signs, a run of line
feeds. An everyday English word is one token in these vocabularies. So the 34 tokens of QwenImage's
prefix and the 5 of its suffix come out as they are. Rarer words have more tokens; the count is an
estimate there.

What it does not do: count what stands in a vocabulary, or in a model's own chat template.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal

PROMPT = "quantized prompt"
"""The prompt of a run without weights. Pipelines may put a template around it."""
OWN_TOKENS = 9
"""Tokens of a prompt itself where the study states no length: with the 5 that QwenImage's template
keeps, they are the 14 of the published runs.
"""
_PIECES = re.compile(
    r"<\|[^|<>]*\|>"  # a control token
    r"|</?[A-Za-z_]+>"  # an older one
    r"|'(?:s|t|re|ve|m|ll|d)\b"
    r"|[\u2e80-\u9fff\uac00-\ud7af]{1,2}"  # of Chinese, Japanese and Korean
    r"|[^\r\n\w]?(?:(?![\u2e80-\u9fff\uac00-\ud7af])[^\W\d_])+"  # a word and the blank before
    r"|\d"
    r"| ?(?:(?!<\|)[^\s\w]|_)+[\r\n]*"
    r"|\s*[\r\n]+"
    r"|\s+(?!\S)"
    r"|\s+",
    re.IGNORECASE,
)


def count_pieces(text: str) -> int:
    """About how many tokens a text has, whose words are everyday English."""
    return sum(1 for _ in _PIECES.finditer(text))


_Text = Literal["prompt", "negative prompt"]


class TokenCounts:
    """The lengths of a study's texts.

    Args:
        prompt_tokens: tokens of a prompt, as the pipeline hands them on.
        negative_prompt_tokens: the same for the negative prompt.
        negative_prompt: the study's own; None where it has none.
        is_stated: whether the study itself states these two numbers: (the prompt's, the negative
            prompt's). Where it does not, a prompt has no fewer than `OWN_TOKENS` besides its
            template, and a negative prompt is counted as it is, unless it is empty and in no
            template.

    Attributes:
        dropped: tokens at the start of a template that the pipeline drops after encoding. A start
            that it encodes alone, before it encodes a prompt, is one that it drops, too: it wants
            to know how long it is.
        pads: whether texts are padded to a fixed length; a tokenizer says so before it counts.
    """

    def __init__(
        self,
        *,
        prompt_tokens: int,
        negative_prompt_tokens: int,
        negative_prompt: str | None = None,
        is_stated: tuple[bool, bool] = (True, True),
    ) -> None:
        self.prompt_tokens, self.negative_prompt_tokens = prompt_tokens, negative_prompt_tokens
        self.negative_prompt, self.is_stated = negative_prompt, is_stated
        self.dropped, self.pads = 0, False
        self._kept: dict[tuple[_Text, bool], tuple[int, bool]] = {}
        self._prompts: tuple[str, ...] = (PROMPT,)
        self._templates: dict[tuple[str, str], None] = {}
        self._fixed: set[str] = set()

    def know_prompts(self, prompts: Iterable[str]) -> None:
        """Take texts that contain one of `prompts` for prompts, instead of `PROMPT`."""
        self._prompts = tuple(sorted((prompt.lower() for prompt in prompts), key=len, reverse=True))

    def learn(self, texts: Sequence[str]) -> None:
        """Remember the templates around the prompts among some texts.

        A negative prompt is known by the template that it shares with a prompt.
        """
        for text in texts:
            if (found := self._around_prompt(text)) is not None and any(found):
                self._templates[found] = None

    def tokens(self, text: str) -> int:
        """The tokens of a text before anything is dropped, padded or cut."""
        self.learn([text])
        around = self._around_prompt(text)
        if around is not None:
            least = 1 if self.is_stated[0] else OWN_TOKENS
            dropped, rows = self._rows(around, self.prompt_tokens, least)
            self._note("prompt", around, rows)
            return dropped + rows
        around = self._around_other(text)
        inner = text[len(around[0]) : len(text) - len(around[1])]
        pieces = count_pieces(inner)
        declared = self.negative_prompt_tokens if self._is_declared(inner, around) else 0
        if not (declared or any(around) or inner == self.negative_prompt):
            self._fixed.add(text)
            return pieces  # a fixed piece of a template
        dropped, rows = self._rows(around, declared, pieces)
        self._note("negative prompt", around, rows)
        return dropped + rows

    def kept(self, text: _Text, *, with_mask: bool) -> int | None:
        """How many tokens of the longest such text were handed on.

        Args:
            text: what is asked for.
            with_mask: whether the denoiser is told which tokens of a padded text are padding.

        Returns:
            None where there was no such text, or where it is padded without a mask, so that its
            length does not matter. Where some tokenizer got it in a template, that one counts.
        """
        for in_template in (True, False):
            rows, is_padded = self._kept.get((text, in_template), (None, False))
            if rows is not None:
                return rows if with_mask or not is_padded else None
        return None

    def forget(self) -> None:
        """Forget what was kept so far: it was for a model that rewrites prompts."""
        self._kept.clear()

    def _note(self, text: _Text, around: tuple[str, str], rows: int) -> None:
        place = (text, any(around))
        self._kept[place] = (max(rows, self._kept.get(place, (0, False))[0]), self.pads)

    def _rows(self, around: tuple[str, str], rows: int, least: int) -> tuple[int, int]:
        """The tokens that the pipeline drops of a text in a template, and those that it keeps.

        Args:
            around: the template, before and after the text.
            rows: how many the study declares to be kept.
            least: the fewest tokens of the text itself.
        """
        before, after = around
        # A blank in front of a text belongs to the text's first token.
        first, dropped = count_pieces(before.removesuffix(" ")), 0
        if before in self._fixed:
            dropped = first
        elif before:
            dropped = self.dropped
        kept = max(first - dropped, 0) + least + count_pieces(after)
        return dropped, max(rows, kept)

    def _is_declared(self, inner: str, around: tuple[str, str]) -> bool:
        """Whether the declared length holds for a text that is no prompt.

        Args:
            inner: the text.
            around: the template around it.
        """
        if any(around):
            return self.is_stated[1]
        return not inner.strip() or (inner == self.negative_prompt and self.is_stated[1])

    def _around_prompt(self, text: str) -> tuple[str, str] | None:
        """What stands before and after a prompt; None where there is none."""
        lowered = text.lower()
        for prompt in self._prompts:
            start = lowered.find(prompt)
            if start >= 0:
                return text[:start], text[start + len(prompt) :]
        return None

    def _around_other(self, text: str) -> tuple[str, str]:
        """The known template around a text without a prompt, ("", "") if there is none."""
        for before, after in self._templates:
            fits = len(text) >= len(before) + len(after)
            if fits and text.startswith(before) and text.endswith(after):
                return before, after
        return "", ""


def counts_of(pipe: Any) -> TokenCounts | None:
    """The counts of a pipeline whose tokenizers or processors are stand-ins; None without any."""
    for part in pipe.components.values():
        counts = getattr(getattr(part, "tokenizer", part), "counts", None)
        if isinstance(counts, TokenCounts):
            return counts
    return None
