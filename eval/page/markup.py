"""HTML that is escaped by construction: text becomes markup only through `tag`."""

from __future__ import annotations

import html

VOID_ELEMENTS = frozenset({"meta", "img", "br", "hr", "link", "input"})


class Markup(str):
    """Text that is HTML already."""


Child = str | None
"""A `Markup` goes in as it is, any other text is escaped, None is left out."""


def tag(name: str, /, *children: Child, **attributes: str | float | bool | None) -> Markup:
    """One element.  `class_` stands for class, `_` for `-`; True is a bare attribute, None is none."""
    written = []
    for key, value in attributes.items():
        label = key.rstrip("_").replace("_", "-")
        if value is True:
            written.append(f" {label}")
        elif value is not None and value is not False:
            written.append(
                f' {label}="{html.escape(number(value) if isinstance(value, float) else str(value))}"'
            )
    opening = f"<{name}{''.join(written)}>"
    if name in VOID_ELEMENTS:
        return Markup(opening)
    return Markup(f"{opening}{join(*children)}</{name}>")


def join(*children: Child) -> Markup:
    """Several pieces one after another."""
    return Markup("".join(c if isinstance(c, Markup) else html.escape(c) for c in children if c is not None))


def number(value: float) -> str:
    """A coordinate, short."""
    return f"{value:.1f}".removesuffix(".0")
