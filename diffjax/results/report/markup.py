"""HTML and SVG as text in which nothing but this module's own tags is ever markup."""

import html
from collections.abc import Iterable, Sequence

_VOID = frozenset({"br", "input", "link", "meta"})


class Markup(str):
    """Text that is HTML already; any other text is escaped where it is put."""


def element(tag: str, /, *children: str | Iterable[str], **attributes: str | float | bool | None) -> Markup:
    """An element; ``class_`` is the attribute class, ``data_sort`` data-sort; None and False leave one out."""
    given = "".join(_attribute(key, value) for key, value in attributes.items() if value is not None)
    content = "" if tag in _VOID else f"{join(*children)}</{tag}>"
    return Markup(f"<{tag}{given}>{content}")


def join(*children: str | Iterable[str]) -> Markup:
    """Texts and elements one after the other."""
    return Markup("".join(map(_markup, children)))


def _markup(child: str | Iterable[str]) -> str:
    if isinstance(child, Markup):
        return child
    return html.escape(child, quote=True) if isinstance(child, str) else join(*child)


def _attribute(key: str, value: str | float | bool) -> str:
    name = key.rstrip("_").replace("_", "-")
    if isinstance(value, bool):
        return f" {name}" if value else ""
    return f' {name}="{html.escape(str(value), quote=True)}"'


def scroll(label: str, *children: str | Iterable[str]) -> Markup:
    """What may be wider than the page: it scrolls by itself, with the keyboard too."""
    return element("div", *children, class_="scroll", tabindex="0", role="region", aria_label=label)


def table(
    caption: str,
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    numbers: bool = True,
) -> Markup:
    """A table whose first column names its rows; ``numbers`` stand to the right."""
    head = element("tr", *(element("th", name, scope="col") for name in header))
    body = [
        element("tr", element("th", row[0], scope="row"), *(element("td", cell) for cell in row[1:])) for row in rows
    ]
    content = element(
        "table",
        element("caption", element("span", caption)),
        element("thead", head),
        element("tbody", body),
        class_="numbers" if numbers else "texts",
    )
    return scroll(caption, content)


def details(summary: str | Markup, *children: str | Iterable[str]) -> Markup:
    """What is shown when asked for."""
    return element("details", element("summary", summary), *children)
