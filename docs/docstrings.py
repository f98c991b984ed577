"""What the pages need of our docstrings beyond what their reader does by itself.

"Example:" begins a section of code that is shown as such, and `elman.x` in backticks is a link, so
that a name which is not there fails the build.
"""

import re
from typing import Any

import griffe


class Docstrings(griffe.Extension):
    """Change docstrings as they are read."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of one object."""
        if obj.docstring:
            text = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
            obj.docstring.value = re.sub(r"`(elman\.[\w.]*\w)`", r"[`\1`][\1]", text)
