"""Docstrings as the site shows them.

In the sources a formula is an indented block and a reference is ``.. [1] Authors, "Title"``, cited
as [1]. To reStructuredText the first is a quotation and the second a footnote that nobody refers
to; here they become a literal block and a list.
"""

import re
from typing import Any

REFERENCE = re.compile(r"^(\s*)\.\. \[(\w+)\]")
CITATION = re.compile(r"\[(\d+)\]_")


def rewrite(lines: list[str]) -> list[str]:
    """Formulas and references of one docstring."""
    new: list[str] = []
    formula = False
    sections = False  # from the first section on, an indented block belongs to its list
    for i, line in enumerate(lines):
        if i + 1 < len(lines) and re.fullmatch(r"\s*-{3,}\s*", lines[i + 1]) and line.strip():
            sections = True
        indented = line.startswith("    ")
        after_blank = not new or not new[-1].strip()
        if indented and after_blank and not formula and not sections:
            # An indented block after a list item or a directive is theirs.
            last = next((text for text in reversed(new) if text.strip()), "")
            if not last.startswith((" ", "- ", "* ", "..")) and not last.endswith("::"):
                new += ["::", ""]
                formula = True
        elif line.strip() and not indented:
            formula = False
        new.append(CITATION.sub(r"[\1]", REFERENCE.sub(r"\1*  [\2]", line)))
    return new


def process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Sphinx's hook: change the lines in place."""
    lines[:] = rewrite(lines)


def skip(app: Any, what: str, name: str, obj: Any, skipped: bool, options: Any) -> bool | None:
    """Leave out the fields of a named tuple: its docstring says what they are."""
    return True if (getattr(obj, "__doc__", "") or "").startswith("Alias for field") else None


def setup(app: Any) -> dict[str, bool]:
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-skip-member", skip)
    app.connect("autodoc-process-docstring", process, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
