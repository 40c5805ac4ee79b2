"""What runs in the page? Its own script, and plotly's, compressed, with their checksums.

    scripts = page_scripts()
    scripts.policy          # the page's Content-Security-Policy: nothing is loaded, only these run

plotly.js comes from the installed package `plotly`. It is embedded once, compressed, and unpacked
by the browser; a browser that cannot shows the charts that are drawn already.
"""

import base64
import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources

from sensitivity.errors import UserError

MISSING = (
    "the page needs jinja2 and plotly, and {name} is not installed; expected both: run `pip install"
    " jinja2 plotly`"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scripts:
    """Texts of the page that are not a report's.

    Attributes:
        own: our script.
        plotly: plotly.js, gzipped, as base64.
        styles: our styles.
        policy: the Content-Security-Policy.
    """

    own: str
    plotly: str
    styles: str
    policy: str


@cache
def page_scripts() -> Scripts:
    """The scripts and styles of a page.

    Raises:
        UserError: plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise UserError(MISSING.format(name=error.name or "plotly")) from None
    library = get_plotlyjs()
    own, styles = template("page.js"), template("page.css")
    hashes = " ".join(f"'sha256-{_digest(text)}'" for text in (own, library))
    packed = gzip.compress(library.encode(), compresslevel=9, mtime=0)
    return Scripts(
        own=own,
        plotly=base64.b64encode(packed).decode(),
        styles=styles,
        policy=(
            "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline';"
            f" script-src {hashes}; base-uri 'none'; form-action 'none'"
        ),
    )


def template(name: str) -> str:
    """The text of a file in `templates/`."""
    folder = resources.files("sensitivity.cli.render.page") / "templates"
    return (folder / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
