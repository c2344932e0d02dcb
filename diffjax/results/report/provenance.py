"""Where a page's numbers come from: hyper-parameters, data, environments, programs, and what failed."""

import base64
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from diffjax.records.folder import Results
from diffjax.records.schema import Config, RunStatus
from diffjax.results.report.markup import Markup, details, element, join, table
from diffjax.results.tables import Column, Table, column_label, row_labels, table_labels

_ABSENT = "–"
_UNKNOWN = "not recorded"
_FEW = 20  # rows that stand open


def hyper_parameters(found: Table) -> Markup:
    """Of every method the values that differ between its tasks and settings, then those that do not."""
    groups: dict[str, dict[str, Mapping[str, Any]]] = {}
    for folder in found.folders:
        config = folder.config
        values = groups.setdefault(_method_label(config), {})
        for setting, hyper in config.hyper.items():
            place = f"{config.task} ({', '.join(filter(None, [config.dataset.label, setting]))})"
            protocol = {f"protocol: {name}": value for name, value in config.protocol.items()}
            values.setdefault(place, {**hyper, **protocol})
    return join(*(_comparison(label, f"Hyper-parameters of {label}", columns) for label, columns in groups.items()))


def _comparison(title: str, what: str, columns: Mapping[str, Mapping[str, Any]]) -> Markup:
    """What differs between columns as a table with all of them, then what they share."""
    names = dict.fromkeys(name for values in columns.values() for name in values)
    texts = {name: [_text(values.get(name, _ABSENT)) for values in columns.values()] for name in names}
    different = {name: row for name, row in texts.items() if len(set(row)) > 1}
    shared = [(name, row[0]) for name, row in texts.items() if name not in different]
    parts, count = [], f"{len(names)} {'value' if len(names) == 1 else 'values'}"
    if different:
        count += f", {len(different)} of them not the same everywhere"
        rows = ([name, *row] for name, row in different.items())
        parts.append(table(f"{what} that differ", ["name", *columns], rows))
    if shared:
        where = f"on {next(iter(columns))}" if len(columns) == 1 else "that are the same everywhere"
        parts.append(table(f"{what} {where}", ["name", "value"], shared))
    return details(f"{title}: {count}", *parts)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(_text, value)) if isinstance(value, list) else str(value)


def made(found: Table) -> Markup:
    """When, where and how long the runs were trained, as far as their folders say it."""
    known = [(folder.config, execution) for folder in found.folders if (execution := folder.config.execution)]
    if not known:
        return element("p", "When and where these runs were trained is not recorded.", class_="made")
    days = sorted({day for _, execution in known for day in (execution.start[:10], execution.end[:10]) if day})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    hosts = dict.fromkeys(execution.host for _, execution in known)
    devices = dict.fromkeys(
        f"{execution.devices_used} x {config.versions.get('device', _UNKNOWN)}" for config, execution in known
    )
    hours = sum(execution.hours_per_run * len(config.runs) for config, execution in known)
    versions = dict.fromkeys(config.versions["diffjax"] for config, _ in known if "diffjax" in config.versions)
    words = f"Trained {when} (UTC) on {', '.join(hosts)} ({', '.join(devices)}), {_hours(hours)} in all"
    words += f", with diffjax {', '.join(versions)}" if versions else ""
    lacking = len(found.folders) - len(known)
    words += f"; of {lacking} of {len(found.folders)} folders this is not recorded" if lacking else ""
    return element("p", f"{words}.", class_="made")


def _hours(hours: float) -> str:
    return f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"


def drawings(pictures: Mapping[str, bytes]) -> Markup:
    """Pictures of the environments, one for each task."""
    figures = [
        element(
            "figure",
            element("img", src=f"data:image/png;base64,{base64.b64encode(picture).decode()}", alt=f"{task}: its start"),
            element("figcaption", task),
        )
        for task, picture in pictures.items()
    ]
    return element("div", *figures, class_="grid pictures") if figures else Markup()


def data(found: Table) -> Markup:
    """The data and the environment of every row."""
    header = (
        *("task", "environment", "simulator", "data", "fingerprint", "source", "transitions", "episodes"),
        *("mean return", "reference return of score 0", "of score 100", "reference from"),
    )
    rows: dict[tuple[str, ...], None] = {}
    for folder in found.folders:
        config, dataset, reference = folder.config, folder.config.dataset, folder.config.reference
        simulators = dict.fromkeys(item.simulator for item in folder.evaluations)
        environments = dict.fromkeys(item.env for item in folder.evaluations)
        row = (
            config.task,
            config.env or " / ".join(environments) or _UNKNOWN,
            " / ".join(simulators) or config.versions.get("simulator", _UNKNOWN),
            dataset.label,
            dataset.fingerprint,
            dataset.source or _UNKNOWN,
            _count(dataset.transitions),
            _count(dataset.episodes),
            _real(dataset.return_mean),
            _real(reference.min),
            _real(reference.max),
            reference.source or _UNKNOWN,
        )
        rows.setdefault(row)
    return table("Data and environments", header, rows, numbers=False)


def runs(found: Table) -> Markup:
    """How each folder's runs were made, and by which command lines."""
    header = (
        *(
            "method",
            "task",
            "data",
            "seeds",
            "runs",
            "updates",
            "tuning",
            "trained (UTC)",
            "hours",
            "updates/s of a run",
        ),
        *("devices", "machine", "revision", "command", "folder"),
    )
    commands = {folder.path: _command(folder.config) for folder in found.folders}
    numbers = {command: str(number) for number, command in enumerate(dict.fromkeys(filter(None, commands.values())), 1)}
    rows = (_run(folder, numbers.get(commands[folder.path], _UNKNOWN)) for folder in found.folders)
    items = (element("li", element("code", command, class_="command")) for command in numbers)
    shown = table("Runs", header, rows, numbers=False)
    count = len(found.folders)
    return join(
        shown if count <= _FEW else details(f"Runs: {count} folders", shown),
        join(element("p", "Commands:"), element("ol", *items)) if numbers else "",
    )


def _command(config: Config) -> str:
    """The command line that made a folder, to be pasted; empty of what a program of the user's made."""
    if not config.flags:
        return ""
    of_many = ("--suite", "--methods", "--ablation")
    name = "sweep" if any(flag.startswith(of_many) for flag in config.flags) else "train"
    name = "finetune" if config.online is not None else "evaluate" if config.again is not None else name
    return f"diffjax {name} {shlex.join(config.flags)}"


def _run(folder: Results, command: str) -> tuple[str, ...]:
    config, versions, execution = folder.config, folder.config.versions, folder.config.execution
    states = Counter(status.state for status in folder.runs)
    devices = versions.get("device", _UNKNOWN)
    count = str(execution.devices_used) if execution is not None else versions.get("devices", "1")
    devices += f" x {count}" if count != "1" else ""
    when, hours, rate, host = (_UNKNOWN,) * 4
    if execution is not None:
        when = f"{_minute(execution.start)} to {_minute(execution.end) or 'now'}"
        hours = f"{execution.hours_per_run * len(config.runs):.3g}"
        rate = f"{execution.updates_per_second:.4g}" if execution.updates_per_second else _UNKNOWN
        host = execution.host
    return (
        _method_label(config),
        config.task,
        config.dataset.label,
        _seeds(config.seeds),
        ", ".join(f"{count} {state}" for state, count in states.items()),
        _count(config.steps) + " online" * (config.online is not None),
        config.tuning or " / ".join(sorted({item.tuning for item in folder.evaluations})) or _UNKNOWN,
        when,
        hours,
        rate,
        devices,
        host,
        versions.get("revision") or _UNKNOWN,
        command,
        str(folder.path),
    )


def _minute(time: str) -> str:
    """``2026-11-28 13:35`` of a moment in UTC."""
    return time[:16].replace("T", " ")


def _method_label(config: Config) -> str:
    return column_label(Column(config.method, config.variant, config.preset, setting="", rule=""))


def _seeds(seeds: Sequence[int]) -> str:
    """``0–4`` of consecutive ones."""
    is_range = len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[0] + len(seeds)))
    return f"{seeds[0]}–{seeds[-1]}" if is_range else ", ".join(map(str, seeds))


def versions(found: Table) -> Markup:
    """The programs behind the runs: one list, or what differs between folders first."""
    kinds: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for folder in found.folders:
        if known := tuple(folder.config.versions.items()):
            kinds.setdefault(known, []).append(f"{folder.config.method} on {folder.config.task}")
    if not kinds:
        return element("p", "No folder records versions.")
    columns = {
        (f"{number}: " if len(kinds) > 1 else "")
        + (places[0] if len(places) == 1 else f"{places[0]} and {len(places) - 1} more"): dict(known)
        for number, (known, places) in enumerate(kinds.items(), start=1)
    }
    return _comparison("Versions", "Versions", columns)


def unfinished(found: Table) -> Markup:
    """Every run that has not finished with how far it is, and every failed one with its reason."""
    names, labels = table_labels(found), row_labels(found.rows)
    items = [
        element("li", f"{names[column]} on {row.task} ({labels[row]}), seed {seed}: {reason}")
        for (row, column), cell in found.cells.items()
        for seed, reason in cell.failures
    ]
    running = [
        element(
            "li",
            f"{_method_label(folder.config)} on {folder.config.task}, {status.run.label}: {_progress(folder, status)}",
        )
        for folder in found.folders
        for status in folder.runs
        if status.state == "running"
    ]
    count = f"{len(running)} {'run has' if len(running) == 1 else 'runs have'} not finished"
    return join(
        join(element("p", f"{count}:"), element("ul", *running)) if running else element("p", "Every run has ended."),
        join(element("p", "Failed:"), element("ul", *items)) if items else element("p", "No run failed."),
    )


def _progress(folder: Results, status: RunStatus) -> str:
    """How far a run is, by its evaluations."""
    last = max((item.step for item in folder.evaluations if item.run == status.run), default=None)
    steps = f"of {_count(folder.config.steps)} steps"
    return f"not evaluated yet, 0 {steps}" if last is None else f"evaluated at {_count(last)} {steps}"


def _count(value: int | None) -> str:
    return _UNKNOWN if value is None else f"{value:,}"


def _real(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{float(value):.6g}"


def bullets(texts: Iterable[str], name: str | None = None) -> Markup:
    """Texts as a list; with a name each is one that links lead to."""
    numbered = enumerate(texts)
    return element("ul", *(element("li", text, id=f"{name}-{at}" if name else None) for at, text in numbered))
