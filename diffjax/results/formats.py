"""A score table as text: markdown, LaTeX, tidy CSV, and the terminal."""

import csv
import io
import itertools
import re
from collections.abc import Callable, Mapping

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from diffjax.results.tables import (
    LEGEND,
    QUICK,
    RUNNING,
    SHORT,
    UNTUNED,
    Cell,
    Column,
    Protocol,
    Row,
    Table,
    column_labels,
    marks,
    row_labels,
    statistic,
    suite_average,
    usual_seeds,
)

_LATEX = {
    **{character: "\\" + character for character in "&%$#_{}"},
    **{"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"},
    **{"<": "\\textless{}", ">": "\\textgreater{}", "|": "\\textbar{}", "±": "$\\pm$"},
    **{UNTUNED: "$^\\dagger$", QUICK: "$^\\ddagger$", SHORT: "$^\\S$", RUNNING: "$^\\P$"},
}
_SUMMARY = (
    "suite",
    "task",
    "dataset",
    "dataset_fingerprint",
    "method",
    "variant",
    "preset",
    "setting",
    "rule",
    "protocol",
    "mean",
    "std",
    "seeds",
    "failed",
    "running",
    "marks",
    "text",
)


def render(table: Table, format_name: str) -> str:
    """The table as text in one of ``FORMATS``."""
    return FORMATS[format_name](table)


def _markdown(table: Table) -> str:
    """A pipe table under each protocol, and the notes; columns are padded to read as plain text."""
    parts = []
    for protocol in table.protocols:
        lines = [[text.replace("|", "\\|") for text in line] for line in _grid(table, protocol)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        rule = [f"{'':-<{width}}" for width in widths[:2]] + [f"{':':->{width}}" for width in widths[2:]]
        parts.append(f"### Normalised score, {protocol.label}\n")
        for line in [lines[0], rule, *lines[1:]]:
            padded = [
                f"{text:{'<' if index < 2 else '>'}{width}}"
                for index, (text, width) in enumerate(zip(line, widths, strict=True))
            ]
            parts.append("| " + " | ".join(padded) + " |")
        parts.append("")
    parts.append("\n".join(f"- {note}" for note in table.notes) + "\n")
    return "\n".join(parts)


def _latex(table: Table) -> str:
    """One ``table`` environment per protocol, to be input; needs the package booktabs."""
    parts = ["% Needs \\usepackage{booktabs}."]
    for protocol in table.protocols:
        header, *body = (" & ".join(map(_latex_text, line)) + " \\\\" for line in _grid(table, protocol))
        parts += [
            "",
            "\\begin{table}",
            "\\centering",
            f"\\caption{{Normalised score, {_latex_text(protocol.label)}.}}",
            "\\small",
            f"\\begin{{tabular}}{{ll{'r' * len(table.columns)}}}",
            "\\toprule",
            header,
        ]
        above = True  # whether the line above ends a group
        for line, is_average in zip(body, _averages(table), strict=True):
            parts += ["\\midrule"] * above + ["\\addlinespace[2pt]"] * is_average + [line]
            above = is_average
        parts += [
            "\\bottomrule",
            "\\end{tabular}",
            "",
            "\\medskip",
            f"\\parbox{{\\linewidth}}{{\\footnotesize {_latex_text(' '.join(table.notes))}}}",
            "\\end{table}",
        ]
    return "\n".join(parts) + "\n"


def _csv(table: Table) -> str:
    """One line per row, column and protocol, full precision; a suite's average has the task ``average``."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_SUMMARY)
    for protocol, suite in itertools.product(table.protocols, table.suites):
        rows = [row for row in table.rows if row.suite == suite]
        for row, column in itertools.product(rows, table.columns):
            cell = table.cells.get((row, column), Cell())
            found = statistic(cell, protocol)
            numbers = (None, None) if found is None else (found.mean, found.std)
            counts = (len(cell.histories), len(cell.failures), cell.running)
            names = " ".join(LEGEND[mark][0] for mark in marks(table, row, column, protocol))
            text = _cell_text(table, row, column, protocol)
            writer.writerow([*row, *column, protocol.name, *numbers, *counts, names, text])
        for column in table.columns:
            average = Row(suite, "average", _suite_data(table, suite), "")
            mean = suite_average(table, suite, column, protocol)
            text = _average_text(table, suite, column, protocol)
            writer.writerow([*average, *column, protocol.name, mean, None, None, None, None, None, text])
    return stream.getvalue()


def print_table(table: Table, console: Console | None = None) -> None:
    """The headline block on the terminal; columns that do not fit continue in a further table below."""
    console = console or Console()
    protocol = table.protocols[0]
    lines = [
        [f"{task} ({data})", *(text.replace(" ± ", "±") for text in texts)]
        for task, data, *texts in _grid(table, protocol)
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    console.print(Text(f"Normalised score, {protocol.label}", style="italic"))
    start = 1
    while start < len(widths):
        end = start + 1
        while end < len(widths) and sum(width + 2 for width in [widths[0], *widths[start : end + 1]]) <= console.width:
            end += 1
        grid = RichTable(box=None, padding=(0, 2, 0, 0), show_header=False)
        for index in range(end - start + 1):
            grid.add_column(justify="right" if index else "left", no_wrap=index == 0)
        for line, is_bold in zip(lines, [True, *_averages(table)], strict=True):
            grid.add_row(*map(Text, [line[0], *line[start:end]]), style="bold" if is_bold else None)
        console.print(grid, "")
        start = end
    for note in table.notes:
        console.print(Text(note, style="dim"))


def _cell_text(table: Table, row: Row, column: Column, protocol: Protocol) -> str:
    """``45.2 ± 3.1 †``, or why there is no number."""
    cell = table.cells.get((row, column))
    if cell is None:
        return "not run"
    found = statistic(cell, protocol)
    if found is None:
        if cell.failures:
            return f"failed: {cell.failures[0][1]}"
        return "no evaluation yet" if cell.running else "no evaluations"
    parts = [_number(found.mean) if found.std is None else f"{_number(found.mean)} ± {_number(found.std)}"]
    if cell.failures:
        parts.append(f"({len(cell.failures)} of {len(cell.failures) + found.seeds} failed)")
    elif found.seeds != usual_seeds(table):
        parts.append(f"(n={found.seeds})")
    return " ".join([*parts, marks(table, row, column, protocol)]).rstrip()


def _average_text(table: Table, suite: str, column: Column, protocol: Protocol) -> str:
    rows = [row for row in table.rows if row.suite == suite]
    mean = suite_average(table, suite, column, protocol)
    if not any((row, column) in table.cells for row in rows):
        return "not run"
    if mean is None:
        scored = sum(statistic(table.cells.get((row, column)), protocol) is not None for row in rows)
        return f"{scored} of {len(rows)} rows"
    present = {mark for row in rows for mark in marks(table, row, column, protocol)}
    return f"{_number(mean)} {''.join(mark for mark in LEGEND if mark in present)}".rstrip()


def _number(value: float) -> str:
    return f"{round(value, 1) + 0.0:.1f}"  # + 0.0 turns -0.0 into 0.0


def _grid(table: Table, protocol: Protocol) -> list[list[str]]:
    """The cells of one block as plain text, the header first; each suite's rows, then its average."""
    names, data = column_labels(table.columns), row_labels(table.rows)
    lines = [["task", "data", *(names[column] for column in table.columns)]]
    for suite in table.suites:
        rows = [row for row in table.rows if row.suite == suite]
        for row in rows:
            texts = [_cell_text(table, row, column, protocol) for column in table.columns]
            lines.append([row.task, data[row], *texts])
        averages = [_average_text(table, suite, column, protocol) for column in table.columns]
        lines.append([f"{suite} average", _suite_data(table, suite), *averages])
    return lines


def _suite_data(table: Table, suite: str) -> str:
    return " / ".join(dict.fromkeys(row.dataset for row in table.rows if row.suite == suite))


def _averages(table: Table) -> list[bool]:
    """For each line of a block below the header: whether it is a suite's average."""
    return [
        is_average
        for suite in table.suites
        for is_average in [*(False for row in table.rows if row.suite == suite), True]
    ]


def _latex_text(text: str) -> str:
    """Text with LaTeX's characters escaped; a number at its beginning in math mode, for its minus sign."""
    match = re.match(r"-?\d+\.\d( ± \d+\.\d)?", text)
    number = match[0] if match else ""
    escaped = "".join(_LATEX.get(character, character) for character in text[len(number) :])
    return (f"${number}$".replace("±", "\\pm") if number else "") + escaped


FORMATS: Mapping[str, Callable[[Table], str]] = {"markdown": _markdown, "latex": _latex, "csv": _csv}
