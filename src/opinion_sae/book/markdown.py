"""Tables in Markdown, for pages that are written as text."""

from __future__ import annotations

from collections.abc import Sequence


def captioned(caption: str, lines: Sequence[str]) -> str:
    """MyST text of a table from its lines in Markdown, with a caption."""
    return "\n".join([f"````{{table}} {caption}", *lines, "````", ""])
