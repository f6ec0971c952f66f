"""The report's page from its parts: markup, one style and one script, and the examples as JSON.

Text of the data reaches the page in two ways only: escaped by the template engine, or in JSON that
the script puts into text nodes. A Content-Security-Policy lets nothing run or load but the page's
own script and style, which it names by their digests.
"""

import base64
import hashlib
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from sumzero.infer.examples import embedded

_HERE = Path(__file__).parent


def render_page(parts: dict[str, Any], browser: dict[str, Any] | None) -> bytes:
    """`report.html` of the template's values; `browser` is what report.js shows, if anything.

    Half of a surrogate pair, which UTF-8 cannot have, becomes a question mark.
    """
    style = _read("report.css")
    script = _read("report_text.js") + _read("report.js")  # one script, strict throughout
    policy = (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    page = (
        environment()
        .get_template("report.html.jinja")
        .render(
            parts,
            policy=policy,
            style=Markup(style),
            script=Markup(script),
            browser=None if browser is None else Markup(embedded(browser)),
        )
    )
    return page.encode("utf-8", "replace")


def environment() -> jinja2.Environment:
    """The template engine: all that is put into markup is escaped, and nothing may be missing."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=jinja2.select_autoescape(["html.jinja"], default=False),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """As a Content-Security-Policy names an inline element (W3C CSP 3, 2.3.1)."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
