"""A whole page of one file: title, header, sections with a navigation, style and script inside.

A content security policy lets a browser load nothing else, and run no script but ours, whatever a caption may hold.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from string import Template

from eval.page.markup import Markup, join, tag

Section = tuple[str, str, Markup]
"""Its anchor, its heading, what is in it."""


def render_page(
    title: str, header: Markup, sections: Sequence[Section], *, script_file: str = "report.js"
) -> str:
    """The page as text.  script_file: in `eval/`, the one script that the page runs."""
    script = _resource(script_file)
    script_hash = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    links = [tag("a", heading, href=f"#{anchor}") for anchor, heading, _ in sections]
    return Template(_resource("report.html")).substitute(
        title=tag("title", title),
        script_hash=script_hash,
        style=_resource("report.css"),
        script=script,
        header=header,
        navigation=tag("nav", *links, aria_label="Sections") if len(links) > 1 else "",
        sections=join(
            *[tag("section", tag("h2", heading), body, id=anchor) for anchor, heading, body in sections]
        ),
    )


def _resource(name: str) -> str:
    return files("eval").joinpath(name).read_text(encoding="utf-8")
