"""Docstrings as the site shows them: nothing of what the source says is left out."""

import re
from pathlib import Path

import griffe

ROLE = re.compile(r":(?:func|class|meth|data|mod|attr):`(~?)([\w.]+)`")
COMMENT = re.compile(r"  # (.+)$")


class Docstrings(griffe.Extension):
    """Rewrites each docstring when it is read."""

    def on_object(self, *, obj: griffe.Object, **kwargs: object) -> None:
        """References to other places become links, where the site has the place."""
        if obj.docstring is not None:
            obj.docstring.value = ROLE.sub(lambda role: linked(obj, *role.groups()), obj.docstring.value)

    def on_attribute(self, *, attr: griffe.Attribute, **kwargs: object) -> None:
        """A field without a docstring has the comment on its line."""
        if attr.docstring is None and attr.lineno and isinstance(attr.filepath, Path):
            comment = COMMENT.search(attr.lines_collection[attr.filepath][attr.lineno - 1])
            if comment and not comment[1].startswith("noqa"):
                attr.docstring = griffe.Docstring(comment[1], parent=attr)


def linked(scope: griffe.Object, shortened: str, name: str) -> str:
    """A name as a link to its place, which may be written from where the docstring stands."""
    try:
        place = name if name.startswith("diffjax.") else scope.resolve(name)
    except griffe.NameResolutionError:
        place = name
    said = name.rpartition(".")[2] if shortened else name
    return f'<autoref identifier="{place}" optional><code>{said}</code></autoref>'
