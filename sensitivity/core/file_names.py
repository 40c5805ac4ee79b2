"""How does a name become part of a file's name? `slug` and `file_name`. Is a path a URL that
somebody meant? `url_scheme`. Is a target a file? `is_target_file`.

    slug("./g.toml")                                   # "g.toml"
    slug("org/My model, v2")                           # "org-My-model--v2"
    file_name("flux1-dev", "nvfp4", "b200", suffix=".json")       # "flux1-dev-nvfp4-b200.json"
    url_scheme("postgresql://me:secret@host/db")       # "postgresql"

Method. Every character other than ASCII letters, digits, ".", "_" and "-" becomes a hyphen, and
the first character is a letter or digit. So a slug is one part of a path on every system: it names
no other folder and is no hidden file. What is too long is cut and ends in a hash of the whole text,
so two long names stay two. A text that is a slug already stays as it is.

What this module does not do: write files, or keep two names apart that have the same slug.
"""

import hashlib
import re
from pathlib import Path

MAX_BYTES = 255
"""Bytes of a file's name on the usual file systems."""
MAX_SLUG = 100
"""Characters of a slug, unless the caller says otherwise."""
_HASH = 8  # hexadecimal digits
_SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]+):/")  # one letter is a drive of Windows


def slug(text: str, *, otherwise: str = "unnamed", most: int = MAX_SLUG) -> str:
    """A text as a part of a file name: ASCII letters, digits, ".", "_" and "-", none leading.

    Args:
        text: any text.
        otherwise: the slug of a text in which nothing is left.
        most: the largest number of characters.
    """
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in text)
    return _cut(safe.lstrip("._-") or otherwise, text, most)


def file_name(*parts: str, suffix: str = "") -> str:
    """The slugs of `parts`, joined by hyphens, and `suffix` (".json"): at most 255 bytes."""
    whole = "-".join(slug(part) for part in parts)
    return _cut(whole, "\0".join(parts), MAX_BYTES - len(suffix.encode())) + suffix


def url_scheme(path: Path | str) -> str | None:
    """The scheme of a URL that stands where a path is expected; None for a path.

    A `Path` of a URL has lost one of its two slashes, and is found too. Messages show the scheme
    only: the rest may hold a password.
    """
    found = _SCHEME.match(str(path).lstrip())
    return None if found is None else found[1]


def is_target_file(target: str) -> bool:
    """Whether a `target` is the path of a device TOML, or of what `device measure` wrote."""
    return target.strip().lower().endswith((".toml", ".json"))


def _cut(safe: str, text: str, most: int) -> str:
    """`safe`, or its beginning and a hash of `text` if it is longer than `most`."""
    if len(safe) <= most:
        return safe
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:_HASH]
    return f"{safe[: most - _HASH - 1]}-{digest}"
