"""A page of score tables as LaTeX: a table per family of tasks, of letters that can be read."""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from diffjax.results import published
from diffjax.results.page import (
    BOLD,
    LEGEND,
    OTHER,
    QUICK,
    RUNNING,
    SHORT,
    STYLES,
    UNTUNED,
    Block,
    Entry,
    Page,
    meaning,
)

_BETWEEN = 6.0  # points between two columns: \tabcolsep twice
# Points of letters in \footnotesize, about.
_WIDTHS = {**dict.fromkeys(" .,:;'|!()[]iljftr-", 2.6), **dict.fromkeys("mwMW%±≠×≥≤", 6.9)}
_USUAL = 4.35  # of all others
_GREEK = {"α": "alpha", "β": "beta", "γ": "gamma", "η": "eta", "κ": "kappa", "λ": "lambda", "ρ": "rho", "σ": "sigma"}
_SYMBOLS = {
    **{character: "\\" + character for character in "&%$#_{}"},
    **{"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"},
    **{"<": "\\textless{}", ">": "\\textgreater{}", "|": "\\textbar{}", "±": "$\\pm$", "–": "--", OTHER: "$\\neq$"},
    **{letter: f"$\\{name}$" for letter, name in _GREEK.items()},
    **{"×": "$\\times$", "…": "\\dots{}", "τ": "$\\tau$", "≥": "$\\geq$", "≤": "$\\leq$", "−": "$-$"},
    **{UNTUNED: "$^\\dagger$", QUICK: "$^\\ddagger$", SHORT: "$^\\S$", RUNNING: "$^\\P$"},
    **{"[": "{[}", "]": "{]}", "*": "{*}"},  # which the end of a line of a table would take for its own
}
_FLOATS = 12  # tables after which those before are set: LaTeX holds back only so many
_LAST_LATIN = 0x24F  # letters that pdfLaTeX knows by itself


def latex(page: Page) -> str:
    """``table`` environments to be input: of each block one per family, in parts where the columns are too many."""
    labels: set[str] = set()
    tables = [table for block in page.blocks for family in _families(block) for table in _tables(family, page, labels)]
    parts = ["% Needs \\usepackage{booktabs}; tables.py --bibliography=FILE writes the entries that \\cite names."]
    for number, table in enumerate(tables, start=1):
        parts += ["", *table]
        if number % _FLOATS == 0:
            parts += ["", "\\clearpage"]
    parts += [
        *("", "{\\footnotesize\\noindent", *(f"{text(note)}\\par" for note in (page.caption, *page.remarks)), "}"),
    ]
    return "\n".join(parts) + "\n"


def bibliography(page: Page) -> str:
    """The BibTeX entries that the page's tables cite."""
    keys = dict.fromkeys(key for block in page.blocks for _, key in _cited(block))
    return "\n".join(published.papers()[key].entry for key in keys)


def text(content: str) -> str:
    """Text as LaTeX shows it; what pdfLaTeX has no letter for is named by its number."""
    return "".join(
        _SYMBOLS.get(letter) or (letter if ord(letter) <= _LAST_LATIN else f"{{[}}U+{ord(letter):04X}{{]}}")
        for letter in content
    )


def _families(block: Block) -> Iterator[Block]:
    """A block of scores as one for each family of tasks of a suite, what is over several families last."""
    if block.kind != "scores":
        yield block
        return
    for suite in dict.fromkeys(line.suite for line in block.lines):
        lines = [line for line in block.lines if line.suite == suite]
        names = list(dict.fromkeys(line.family for line in lines))
        for name in sorted(names, key=lambda name: name == "" and len(names) > 1):
            subject = f"{suite}, {name}" if name not in ("", suite) else suite
            yield replace(block, lines=tuple(line for line in lines if line.family == name), subject=subject)


def _tables(block: Block, page: Page, labels: set[str]) -> Iterator[list[str]]:
    """A block as ``table`` environments of as many columns as its width takes."""
    wide = page.options.style == "two-column"
    data = {line.data for line in block.lines}
    shows_data = len(data) > 1
    parts = list(_parts(block, shows_data, STYLES[page.options.style].text_points))
    for number, part in enumerate(parts, start=1):
        title = f"{part.title}, {part.subject}" if part.kind == "scores" else part.title
        title += f" (part {number} of {len(parts)})" if len(parts) > 1 else ""
        caption = [title, *([] if shows_data else [f"{block.corner[1].capitalize()}: {', '.join(data)}"])]
        cited = ", ".join(f"{text(method)}~\\cite{{{key}}}" for method, key in _cited(part))
        sentences = [*map(text, caption), *([f"Methods: {cited}"] if cited else [])]
        environment = "table*" if wide else "table"
        legend = " ".join(map(text, _legend(part, page)))
        yield [
            f"\\begin{{{environment}}}",
            "\\centering",
            f"\\caption[{text(title)}]{{{'. '.join(sentences)}.}}",
            f"\\label{{{_label(part, labels)}}}",
            "\\par\\smallskip\\footnotesize",
            f"\\setlength{{\\tabcolsep}}{{{_BETWEEN / 2:g}pt}}",
            *_tabular(part, shows_data),
            *(["\\par\\smallskip", f"\\parbox{{\\linewidth}}{{\\scriptsize {legend}}}"] if legend else []),
            f"\\end{{{environment}}}",
        ]


def _label(block: Block, taken: set[str]) -> str:
    """A label that no other table has: ``tab:mean-locomotion``."""
    kind = block.protocol.name if block.kind == "scores" else block.kind
    name = "tab:" + "-".join(re.findall("[a-z0-9]+", f"{kind} {block.subject}".lower()))
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    found = next(each for each in names if each not in taken)
    taken.add(found)
    return found


def _tabular(block: Block, shows_data: bool) -> Iterator[str]:
    corner = block.corner if shows_data else block.corner[:1]
    yield f"\\begin{{tabular}}{{{'l' * len(corner)}{'r' * len(block.columns)}}}"
    yield "\\toprule"
    yield " & ".join([*map(text, corner), *map(_heading, block.header)]) + " \\\\"
    above = ""
    for line in block.lines:
        if not above:
            yield "\\midrule"
        elif line.kind == "average" and above in ("row", "printed"):
            yield "\\addlinespace[2pt]"
        places = [line.task, line.data] if shows_data else [line.task]
        yield " & ".join([*map(text, places), *map(_entry, line.entries)]) + " \\\\"
        above = line.kind
    yield from ("\\bottomrule", "\\end{tabular}")


def _heading(label: str) -> str:
    """A column's label; what stands in parentheses comes below the name."""
    lines = " \\\\ ".join(map(text, _stacked(label)))
    return f"\\shortstack[r]{{{lines}}}" if "(" in label else lines


def _stacked(label: str) -> tuple[str, ...]:
    name, _, details = label.partition(" (")
    return (name, f"({details}") if details else (name,)


def _parts(block: Block, shows_data: bool, width: float) -> Iterator[Block]:
    """A block as blocks whose columns fit into so many points, at least one in each, as even as can be."""
    places = [[line.task, line.data] if shows_data else [line.task] for line in block.lines]
    corner = block.corner if shows_data else block.corner[:1]
    left = sum(map(_width, zip(corner, *places, strict=True)))
    columns = [
        _width([*_stacked(label), *(_shown(line.entries[index]) for line in block.lines)])
        for index, label in enumerate(block.header)
    ]
    count = next(
        (
            count
            for count in range(1, len(columns) + 1)
            if all(left + sum(columns[start:end]) <= width for start, end in _bounds(len(columns), count))
        ),
        len(columns),
    )
    for start, end in _bounds(len(columns), count):
        yield replace(
            block,
            columns=block.columns[start:end],
            header=block.header[start:end],
            lines=tuple(replace(line, entries=line.entries[start:end]) for line in block.lines),
        )


def _bounds(total: int, count: int) -> list[tuple[int, int]]:
    return list(itertools.pairwise(round(index * total / count) for index in range(count + 1)))


def _width(texts: Sequence[str]) -> float:
    """Points of a column, about."""
    return _BETWEEN + max(sum(_WIDTHS.get(letter, _USUAL) for letter in each) for each in texts)


def _shown(entry: Entry) -> str:
    """What a place says; why a run failed stands in the notes."""
    return "failed" if entry.mean is None and entry.remark.startswith("failed: ") else entry.text


def _entry(entry: Entry) -> str:
    """The number in math mode, for its minus sign; bold where it is among the best."""
    if not entry.shown:
        return text(_shown(entry))
    math = entry.shown.replace("±", "\\pm").replace(" [", "~[")
    shown = f"$\\mathbf{{{math}}}$" if entry.is_best else f"${math}$"
    return " ".join(filter(None, (shown, text(entry.remark))))


def _legend(block: Block, page: Page) -> list[str]:
    """What bold and the marks of a table mean."""
    bold = [BOLD[page.options.bold]] if block.has_bold else []
    return bold + [f"{mark} {meaning(mark)}" for mark in LEGEND if mark in block.marks]


def _cited(block: Block) -> list[tuple[str, str]]:
    """The methods of a block that a paper is known of, each with its key."""
    methods = dict.fromkeys(column.method for column in block.columns)
    return [(method, key) for method in methods if (key := published.key(method)) is not None]
