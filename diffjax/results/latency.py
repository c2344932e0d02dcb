"""What an action costs against what it scores: latencies of ``benchmarks/inference.py``, matched to columns."""

import csv
import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from diffjax.errors import UserError
from diffjax.results.page import OTHER, Page
from diffjax.results.tables import ActionCost, Column, Row, Table, row_labels, table_labels, values_of

_NEEDED = ("method", "variant", "candidates", "network_evaluations", "batch", "p50_ms")


class Latency(NamedTuple):
    """The median time of one action of a method, decided on alone."""

    method: str
    variant: str
    cost: ActionCost
    p50_ms: float


@dataclass(frozen=True)
class Latencies:
    """The rows of a file at batch 1, and how they were measured as far as the file's ``.json`` says it."""

    file: str
    rows: tuple[Latency, ...]
    preset: str = ""
    device: str = ""


class Point(NamedTuple):
    """A column: median milliseconds per action, mean score over the shared rows.

    ``is_alike``: the networks and the rule that were timed are those that were scored. ``is_front``: no other point
    that is alike beats it in both.
    """

    column: Column
    latency_ms: float
    score: float
    is_front: bool
    is_alike: bool = True


@dataclass(frozen=True)
class TradeOff:
    """Points over the rows that all of them have a score on; ``remarks`` say what is missing or not alike."""

    source: Latencies
    rows: tuple[str, ...]
    points: tuple[Point, ...]
    remarks: tuple[str, ...]


def read_latencies(*paths: str | Path) -> Latencies:
    """The latencies at batch 1 of some ``inference.csv``, of one machine and preset.

    Raises:
      UserError: a file or what it holds is not that, or does not fit the others; it names the file.
    """
    files = list(map(_read_file, paths))
    for other in files[1:]:
        for name in ("preset", "device"):
            old, new = getattr(files[0], name), getattr(other, name)
            if old != new:
                raise UserError(f"--latency: {name} is {old!r} in {files[0].file} and {new!r} in {other.file}")
    rows = tuple(row for file in files for row in file.rows)
    ((method, variant, cost), count), *_ = Counter((row.method, row.variant, row.cost) for row in rows).most_common(1)
    if count > 1:
        where = ",".join(map(str, paths))
        raise UserError(
            f"--latency={where} has {method} ({variant}) with {_cost_text(cost)} at batch 1 twice; name files that "
            "have it once"
        )
    return replace(files[0], file=", ".join(file.file for file in files), rows=rows)


def _read_file(path: str | Path) -> Latencies:
    file = Path(path)
    try:
        lines = list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))
    except OSError as error:
        raise UserError(f"--latency={path} cannot be read ({error.strerror}); name an inference.csv") from None
    except (UnicodeDecodeError, csv.Error):
        raise UserError(f"--latency={path} is not CSV; name an inference.csv of benchmarks/inference.py") from None
    if lacking := [name for name in _NEEDED if name not in (lines[0] if lines else ())]:
        raise UserError(
            f"--latency={path} has no column {lacking[0]}; name an inference.csv of benchmarks/inference.py"
        )
    rows = [_latency(f"--latency={path} line {number}", line) for number, line in enumerate(lines, start=2)]
    found = [row for row in rows if row is not None]
    if not found:
        raise UserError(f"--latency={path} has no row of batch 1; measure with --batch=1")
    facts = _facts(file.with_suffix(".json"))
    machine = facts.get("machine")
    device = machine.get("device", "") if isinstance(machine, Mapping) else ""
    return Latencies(str(path), tuple(found), str(facts.get("preset", "")), str(device))


def _latency(where: str, line: Mapping[str, str | None]) -> Latency | None:
    """A line of the file, None of another batch size."""
    try:
        numbers = [int(line[name] or "") for name in ("batch", "candidates", "network_evaluations")]
        latency = float(line["p50_ms"] or "")
    except ValueError:
        raise UserError(f"{where}: batch, candidates, network_evaluations or p50_ms is no number") from None
    if not (math.isfinite(latency) and latency > 0):
        raise UserError(f"{where}: p50_ms is {latency:g}, not a positive time")
    batch, candidates, network_evaluations = numbers
    cost = ActionCost(candidates, network_evaluations, line.get("selection") or "")
    return Latency(line["method"] or "", line["variant"] or "", cost, latency) if batch == 1 else None


def _facts(file: Path) -> Mapping[str, Any]:
    """What stands beside the measurements, or nothing where that cannot be read."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def pareto_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which (cost, score) no other point beats: none costs as little and scores as much, and less or more in one."""
    return [not any(cost <= x and score >= y and (cost < x or score > y) for cost, score in points) for x, y in points]


def trade_off(page: Page, latencies: Latencies) -> TradeOff:
    """Latency against the mean score by the page's headline protocol, of every column with both."""
    table, protocol = page.table, page.options.headline
    names, labels = table_labels(table), row_labels(table.rows)
    known = {
        column: latency for column in table.columns if (latency := _latency_of(table, column, latencies)) is not None
    }
    matched = list(known)
    means = {
        column: {
            row: statistics.fmean(values)
            for row in table.rows
            if (values := values_of(table.cells.get((row, column)), protocol))
        }
        for column in matched
    }
    scored = [column for column in matched if means[column]]
    shared = [row for row in table.rows if scored and all(row in means[column] for column in scored)]
    columns = scored if shared else []
    unlike = {column: list(_unlike(table, column, shared, known[column], latencies.preset)) for column in columns}
    places = {
        column: (known[column].p50_ms, statistics.fmean(means[column][row] for row in shared)) for column in columns
    }
    alike = [column for column in columns if not unlike[column]]
    front = dict(zip(alike, pareto_front([places[column] for column in alike]), strict=True))
    points = tuple(Point(column, *places[column], front.get(column, False), column in front) for column in columns)
    remarks = [f"{names[column]}: no latency of it in the file." for column in table.columns if column not in matched]
    remarks += [f"{names[column]}: no score yet." for column in matched if column not in scored]
    unused = [row for row in latencies.rows if row not in known.values()]
    remarks += [
        f"{row.method} ({row.variant}) with {_cost_text(row.cost)}: measured, but no results of it." for row in unused
    ]
    if scored and not shared:
        remarks.append("No task has a score of every method here, so there is nothing to compare on.")
    concerned: dict[str, list[str]] = {}
    for column, found in unlike.items():
        for remark in found:
            concerned.setdefault(remark, []).append(names[column])
    remarks += [f"{OTHER} {', '.join(columns)}: {remark}." for remark, columns in concerned.items()]
    return TradeOff(latencies, tuple(f"{row.task} ({labels[row]})" for row in shared), points, tuple(remarks))


def _latency_of(table: Table, column: Column, latencies: Latencies) -> Latency | None:
    """The latency of a column's method at the cost that its actions had, else at another cost."""
    found = [row for row in latencies.rows if (row.method, row.variant) == (column.method, column.variant)]
    costs = {cost for row in table.rows if (row, column) in table.cells for cost in table.cells[row, column].costs}
    alike = (row for row in found if any(row.cost.is_alike(cost) for cost in costs))
    return next(iter([*alike, *found]), None)


def _unlike(table: Table, column: Column, rows: Iterable[Row], latency: Latency, preset: str) -> Iterator[str]:
    """What was measured otherwise than it was scored."""
    if preset and column.preset != preset:
        yield f"latency of the networks of preset {preset}, scores of those of preset {column.preset}"
    costs = {cost for row in rows for cost in table.cells[row, column].costs}
    if other := sorted(cost for cost in costs if not latency.cost.is_alike(cost)):
        tell = _rule_text if any(cost[:2] == latency.cost[:2] for cost in other) else _cost_text
        yield f"latency with {tell(latency.cost)}, scores with {' / '.join(dict.fromkeys(map(tell, other)))}"


def _rule_text(cost: ActionCost) -> str:
    """Of costs that the rule tells apart."""
    return f"{_cost_text(cost)} ({cost.selection})"


def _cost_text(cost: ActionCost) -> str:
    candidates = "1 candidate" if cost.candidates == 1 else f"{cost.candidates} candidates"
    times = "evaluation" if cost.network_evaluations == 1 else "evaluations"
    return f"{candidates} of {cost.network_evaluations} network {times}"
