"""Is a text what it looks like? `visible`: characters that hide or turn others are written out.

    visible("a\u202eb")       # "a[U+202E]b"

Names of layers and prompts come from others. Escaping keeps them from being HTML; this keeps them
from showing one thing and being another.
"""

import re

_HIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""Control characters, line separators, and marks of direction; tabs and line breaks stay."""


def visible(text: str) -> str:
    """The text, with hidden characters as their code points."""
    return _HIDDEN.sub(lambda found: f"[U+{ord(found[0]):04X}]", text)
