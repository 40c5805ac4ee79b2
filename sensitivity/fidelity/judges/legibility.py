"""Which words does a prompt ask for, and how much of them was read? Plain text, no pictures.

    asked_words('a sign that says "OPEN DAILY"')         # ("OPEN DAILY",)
    unread_share(["OPEN DAILY"], "0PEN DALY now")        # 2 / 9: one wrong, one missing

Words that a prompt asks for stand in quotation marks. Case, spaces and punctuation do not count.
Source of the edit distance to the best part of a text: Sellers 1980, "The theory and computation of
evolutionary distances".
"""

import re
from collections.abc import Sequence

QUOTED = re.compile(r'"([^"]+)"|“([^”]+)”|«([^»]+)»|「([^」]+)」|(?<!\w)[\'‘]([^\'’]+)[\'’](?!\w)')
"""Words in quotation marks, straight or curly, double or single. An apostrophe is none."""


def asked_words(prompt: str) -> tuple[str, ...]:
    """The texts that a prompt has in quotation marks, as far as they have letters or digits."""
    found = (next(filter(None, groups)) for groups in QUOTED.findall(prompt))
    return tuple(text for text in found if plain(text))


def plain(text: str) -> str:
    """A text without case, spaces and punctuation."""
    return "".join(c for c in text.casefold() if c.isalnum())


def unread_share(asked: Sequence[str], read: str) -> float:
    """The share of characters of the texts `asked` that are not in `read`, each at its best place.

    0: all of it was read; 1: nothing. Missing, wrong and additional characters count alike.
    """
    wanted = [plain(text) for text in asked]
    edits = sum(min(len(text), edits_to_part(text, plain(read))) for text in wanted)
    return edits / max(1, sum(map(len, wanted)))


def edits_to_part(text: str, whole: str) -> int:
    """The fewest edits (one character each) that turn `text` into a part of `whole`."""
    row = [0] * (len(whole) + 1)  # a part may begin anywhere
    for i, wanted in enumerate(text, 1):
        above, row = row, [i]
        for j, found in enumerate(whole, 1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (wanted != found)))
    return min(row)  # and end anywhere
