"""HTML and SVG as text in which nothing but this module's own tags is ever markup."""

import html
import itertools
from collections.abc import Iterable, Sequence

_VOID = frozenset({"br", "img", "input", "link", "meta"})


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
    classes: Sequence[str | None] = (),
) -> Markup:
    """A table whose first column names its rows; ``numbers`` stand to the right, ``classes`` are of the header."""
    named = itertools.zip_longest(header, classes)
    head = element("tr", *(element("th", name, scope="col", class_=class_) for name, class_ in named))
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


def toggles(section: str, shown: Iterable[tuple[str, str, Markup | None]], label: str) -> Markup:
    """A checkbox for each class of which a section shows parts: the class, its name, and its swatch if it has one."""
    items = []
    for name, text, swatch in shown:
        box = element("input", type="checkbox", id=f"{section}-{name}", checked=True)
        words = element("label", *([swatch] if swatch else []), text, for_=f"{section}-{name}")
        items.append(element("li", box, words, class_=name))
    return element("ul", *items, class_="key toggles", aria_label=label)


def toggle_rules(section: str, names: Iterable[str]) -> str:
    """The style by which these checkboxes act, and by which the pointer over one brings out its part of figures."""
    rules = []
    for name in names:
        where = f"#{section}:has(#{section}-{name}"
        rules.append(f"{where}:not(:checked)) :is(figure,table) .{name}{{display:none}}")
        over = f"#{section}:has(li.{name}:is(:hover,:focus-within) input:checked)"
        rules.append(f"{over} figure g[class]:not(.{name},.axes,.curves){{opacity:.12}}")
    return "\n".join(rules)


def details(summary: str | Markup, *children: str | Iterable[str]) -> Markup:
    """What is shown when asked for."""
    return element("details", element("summary", summary), *children)
