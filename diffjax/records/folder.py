"""One results folder: the configuration, evaluations, metrics and run states of one (task, method, variant).

``config.json`` says which experiment the folder holds, ``evaluations.csv`` has one row per run and
evaluation, ``metrics.jsonl`` one object per chunk of updates, ``status.json`` one entry per run;
``checkpoints/`` belongs to the training program. The two ``.json`` files are written whole and renamed; the
two files that grow are appended to, and cut back to what a checkpoint recorded when a run is resumed.
"""

import csv
import functools
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from diffjax.clock import utc_now
from diffjax.errors import UserError
from diffjax.files import (
    append_text,
    complete_lines,
    csv_text,
    is_temporary,
    plain,
    read_json,
    writable,
    write_json,
    write_text,
)
from diffjax.records.entries import is_a
from diffjax.records.schema import TUNINGS, Config, Evaluation, MetricsRecord, Request, RunBlock, RunStatus
from diffjax.records.writer import HIDDEN

CONFIG, EVALUATIONS, METRICS, STATUS, CHECKPOINTS = (
    "config.json",
    "evaluations.csv",
    "metrics.jsonl",
    "status.json",
    "checkpoints",
)
PARTS = ".parts"
"""Where several processes keep their parts of an experiment until they are joined."""
_FROM_DATA = ("dataset", "reference", "own_task")  # what is not known before the data are read
_KIND_NAMES = {int: "an integer", float: "a number", str: "text"}
_STATUS_ENTRIES = ("seed", "setting", "status", "wall_time")
_NEEDED = _STATUS_ENTRIES[:3]  # of older versions
_ABSENT = object()
_HEADER = ",".join(Evaluation._fields) + "\n"


class Difference(NamedTuple):
    """An entry in which two configurations differ, its values as text."""

    name: str
    old: str
    new: str


@dataclass(frozen=True)
class ResultsFolder:
    """A folder to write results to; made by ``open_folder``."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / CHECKPOINTS

    def write_config(self, config: Config) -> None:
        """Replace ``config.json``."""
        write_json(self.path / CONFIG, config.to_json())

    def append(self, file: str, lines: Sequence[str]) -> None:
        """Append lines to one of the files that grow and flush them to the disk.

        Raises:
          UserError: the file is gone.
        """
        append_text(self.path / file, "".join(line + "\n" for line in lines))

    def append_evaluations(self, evaluations: Iterable[Evaluation]) -> None:
        """Append rows and flush them to the disk."""
        self.append(EVALUATIONS, evaluation_lines(evaluations, self.columns))

    @property
    def columns(self) -> int:
        """Of ``evaluations.csv``; an older version began with fewer.

        Raises:
          UserError: the file is gone.
        """
        try:
            with open(self.path / EVALUATIONS, encoding="utf-8") as file:
                return len(file.readline().split(","))
        except FileNotFoundError:
            raise UserError(f"{self.path / EVALUATIONS} is gone; it was there when this began") from None

    def write_status(self, runs: Iterable[RunStatus]) -> None:
        """Replace ``status.json``."""
        entries = [
            {"seed": one.run.seed, "setting": one.run.setting, "status": one.status}
            | ({"wall_time": one.wall_time} if one.wall_time else {})
            for one in runs
        ]
        write_json(self.path / STATUS, {"runs": entries})


@dataclass(frozen=True)
class Results:
    """A results folder as read: everything a table needs."""

    path: Path
    config: Config
    evaluations: tuple[Evaluation, ...]
    runs: tuple[RunStatus, ...]
    metrics: tuple[MetricsRecord, ...] = ()


def open_folder(path: str | Path, config: Config, resume: bool = False) -> ResultsFolder:
    """The folder of the experiment ``config`` describes: created if new or empty, continued with ``resume``.

    Versions and flags do not make another experiment and stay as first recorded; all else in ``config``
    counts. A new folder starts with no rows and every (setting, seed) ``running``.

    Raises:
      UserError: the folder holds something else, or the same experiment and ``resume`` is false; or it cannot
        be written. Nothing in it is touched then.
    """
    folder = Path(path)
    check_folder(folder, config, resume)
    results = ResultsFolder(folder)
    with writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for left_over in filter(is_temporary, os.listdir(folder)):  # by whoever was killed
            (folder / left_over).unlink()
        if not os.path.isfile(folder / CONFIG):
            write_json(folder / CONFIG, config.to_json())
        else:
            _extend(folder, config)
        if not (folder / EVALUATIONS).is_file():
            write_text(folder / EVALUATIONS, _HEADER)
        if not (folder / METRICS).is_file():
            write_text(folder / METRICS, "")
        states = {one.run: one for one in read_status(folder)} if (folder / STATUS).is_file() else {}
        if states.keys() != set(config.runs):
            results.write_status(states.get(run, RunStatus(run, "running", utc_now())) for run in config.runs)
    return results


def without_additions(there: Config, known: Request) -> Request:
    """A request without what it adds to an experiment: more seeds, settings, updates; as it is if it lacks some of its.

    More updates go on where the last evaluation was at a whole interval and no phase is a share of the length.
    """
    changes: dict[str, Any] = {}
    if set(known.seeds) > set(there.seeds):
        changes["seeds"] = there.seeds
    if set(known.settings) > set(there.settings):
        changes["settings"] = there.settings
        changes["hyper"] = {setting: known.hyper[setting] for setting in there.settings}
    shares = [name for name, value in known.protocol.items() if name.endswith("_steps") and _is_share(value)]
    if known.steps > there.steps and there.steps % there.eval_interval == 0 and not shares:
        changes["steps"] = there.steps
        changes["protocol"] = {**known.protocol} | ({"steps": there.steps} if "steps" in known.protocol else {})
    return replace(known, **changes)


def _is_share(value: Any) -> bool:
    return isinstance(value, float) and 0.0 < value < 1.0


def blocks_of(path: str | Path, known: Request) -> tuple[RunBlock, ...]:
    """The blocks of runs that an experiment in a folder consists of, with those that a request adds."""
    folder = Path(path)
    if not os.path.isfile(folder / CONFIG):
        return ()
    there = read_config(folder)
    if set(there.seeds) == set(known.seeds) and set(there.settings) == set(known.settings):
        return there.blocks
    before = there.blocks or (RunBlock(there.seeds, there.settings),)
    return (*before, RunBlock(known.seeds, known.settings))


def _extend(folder: Path, config: Config) -> None:
    """Records what a request adds; versions and flags stay those that the experiment began with."""
    there = read_config(folder)
    added = replace(
        there,
        seeds=config.seeds,
        settings=config.settings,
        hyper=config.hyper,
        steps=config.steps,
        protocol=config.protocol,
        blocks=config.blocks,
    )
    if added != there:
        write_json(folder / CONFIG, added.to_json())


def check_folder(path: str | Path, known: Request, resume: bool) -> None:
    """That ``open_folder`` would take an experiment, of which all is known but perhaps what its data will say.

    Raises:
      UserError: as there.
    """
    folder = Path(path)
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise UserError(f"{folder} is a file; --out must name a folder")
    if os.path.isfile(folder / CONFIG):
        there = read_config(folder)
        old, new = there.identity, without_additions(there, known).identity
        if not isinstance(known, Config):
            old = {name: entry for name, entry in old.items() if name not in _FROM_DATA}
        if (found := first_difference(old, new)) is not None:
            raise UserError(
                f"{folder} holds another experiment ({found.name} is {found.old} there and {found.new} now); "
                "choose another --out"
            )
        if not resume:
            raise UserError(f"{folder} already holds this experiment; add --resume or choose another --out")
    elif os.path.isdir(folder):
        with writable(folder):
            other = sorted(name for name in os.listdir(folder) if not is_temporary(name) and name not in HIDDEN)
        if PARTS in other:
            count = os.listdir(folder / PARTS)[0].rpartition("-")[2]
            raise UserError(f"{folder} was begun by {count} processes; go on with as many, or choose another --out")
        if other:
            raise UserError(f"{folder} holds other files ({other[0]}); choose another --out")


def find_folders(paths: Iterable[str | Path]) -> list[Path]:
    """Every results folder at or below the given folders, in their order, each once; sorted within each.

    Raises:
      UserError: a path is no folder or has no results folder in it.
    """
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        if not os.path.isdir(path):
            raise UserError(f"{path} is not a folder; name a folder that a launcher wrote with --out")
        below = list(_walk(path))
        if not below:
            raise UserError(f"{path} holds no results (no {CONFIG} in it or below)")
        for folder in below:
            found.setdefault(folder.resolve(), folder)
    return list(found.values())


def read_results(path: str | Path) -> Results:
    """Everything in a results folder, checked.

    Raises:
      UserError: names the file and the defect.
    """
    folder = Path(path)
    config = read_config(folder)
    runs = _read_status(folder / STATUS, config)
    evaluations = read_evaluations(folder)
    known = {status.run for status in runs}
    expected = {
        "method": config.method,
        "variant": config.variant,
        "preset": config.preset,
        "task": config.task,
        "dataset": config.dataset.label,
        "dataset_fingerprint": config.dataset.fingerprint,
    }
    seen = set()
    for number, row in enumerate(evaluations, start=2):
        where = f"{folder / EVALUATIONS} line {number}"
        for name, right in expected.items():
            if getattr(row, name) != right:
                raise UserError(f"{where}: {name} is {getattr(row, name)!r}, {CONFIG} says {right!r}")
        if row.run not in known:
            raise UserError(f"{where}: {row.run.label} is not in {STATUS}")
        key = (row.run, row.step, row.selection, row.candidates, row.network_evaluations)
        if key in seen:
            raise UserError(f"{where}: {row.run.label} is evaluated at step {row.step} twice")
        seen.add(key)
    has_metrics = os.path.lexists(folder / METRICS)  # a table can do without
    metrics = _read_metrics(folder / METRICS, config) if has_metrics else []
    return Results(folder, config, tuple(evaluations), tuple(runs), tuple(metrics))


def read_config(path: str | Path) -> Config:
    """``config.json``, checked for the entries every experiment has.

    Raises:
      UserError: it is not there, is damaged, or of a newer version.
    """
    file = Path(path) / CONFIG
    return Config.from_json(read_json(file), str(file))


def read_status(path: str | Path) -> list[RunStatus]:
    """``status.json``, in the order of the run axis.

    Raises:
      UserError: it is not there or damaged.
    """
    return _read_status(Path(path) / STATUS, read_config(path))


def _read_status(file: Path, config: Config) -> list[RunStatus]:
    entries = read_json(file).get("runs")
    if not isinstance(entries, list):
        raise UserError(f'{file}: no list "runs"')
    runs = []
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict) or not set(_NEEDED) <= entry.keys() <= set(_STATUS_ENTRIES):
            raise UserError(f"{file}: run {index} needs exactly {', '.join(_STATUS_ENTRIES)}")
        seed, setting, status, wall_time = (entry.get(name, "") for name in _STATUS_ENTRIES)
        if not (is_a(int, seed) and is_a(str, setting) and _is_status(status) and is_a(str, wall_time)):
            raise UserError(f"{file}: run {index} is {entry}; status is running, complete or failed: reason")
        runs.append(RunStatus(config.run(seed, setting), status, wall_time))
    if len({status.run for status in runs}) != len(runs):
        raise UserError(f"{file}: one run has two entries")
    return runs


def read_evaluations(path: str | Path) -> list[Evaluation]:
    """The complete rows of ``evaluations.csv``; a last line cut short by a crash is left out.

    Raises:
      UserError: names the file and the defect.
    """
    file = Path(path) / EVALUATIONS
    lines = complete_lines(file)
    try:
        records = list(csv.reader(lines))
    except csv.Error as error:
        raise UserError(f"{file}: not CSV ({error})") from None
    needed = len(Evaluation._fields) - len(Evaluation._field_defaults)
    header = tuple(records[0]) if records else ()
    if header != Evaluation._fields[: max(len(header), needed)]:
        raise UserError(f"{file}: the first line must be {','.join(Evaluation._fields)}")
    numbered = enumerate(records[1:], start=2)
    return [_evaluation(f"{file} line {number}", record, len(header)) for number, record in numbered]


def read_metrics(path: str | Path) -> list[MetricsRecord]:
    """The complete records of ``metrics.jsonl``.

    Raises:
      UserError: names the file and the defect.
    """
    return _read_metrics(Path(path) / METRICS, read_config(path))


def _read_metrics(file: Path, config: Config) -> list[MetricsRecord]:
    records = []
    for number, line in enumerate(complete_lines(file), start=1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UserError(f"{file} line {number}: not JSON ({error})") from None
        if not _is_metrics(record):
            raise UserError(
                f"{file} line {number}: needs a phase, a step, and lists of one length: seeds, settings, each metric"
            )
        runs = tuple(map(config.run, record["seeds"], record["settings"]))
        metrics = {name: tuple(map(float, values)) for name, values in record["metrics"].items()}
        records.append(MetricsRecord(record["phase"], record["step"], runs, metrics, record.get("wall_time", "")))
    return records


def metrics_lines(records: Iterable[MetricsRecord]) -> list[str]:
    """One JSON object per record; arrays become lists, non-finite floats texts."""
    return [_metrics_line(record) for record in records]


def _metrics_line(record: MetricsRecord) -> str:
    content = {
        "phase": record.phase,
        "step": record.step,
        "seeds": [run.seed for run in record.runs],
        "settings": [run.setting for run in record.runs],
        "metrics": record.metrics,
    } | ({"wall_time": record.wall_time} if record.wall_time else {})
    return json.dumps(plain(content))


def first_difference(old: Any, new: Any, name: str = "") -> Difference | None:
    """The first entry in which two configurations differ, named ``hyper.eta``; None if they are equal."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in {**new, **old}:
            path = f"{name}.{key}" if name else key
            found = first_difference(old.get(key, _ABSENT), new.get(key, _ABSENT), path)
            if found is not None:
                return found
        return None
    return None if old == new else Difference(name, _short(old), _short(new))


def evaluation_header() -> str:
    """The first line of a new ``evaluations.csv``."""
    return _HEADER


def evaluation_lines(rows: Iterable[Evaluation], columns: int = len(Evaluation._fields)) -> list[str]:
    """CSV lines, each row on one line: a line break inside a text becomes a space.

    Args:
      columns: so many first ones; a file that an older version began has fewer.
    """
    lines = ([" ".join(item.splitlines()) if isinstance(item, str) else item for item in row[:columns]] for row in rows)
    return csv_text(lines).splitlines()


@functools.cache
def _column_types() -> dict[str, type]:
    return get_type_hints(Evaluation)


def _evaluation(where: str, record: list[str], columns: int) -> Evaluation:
    """A row; an older version's has fewer columns, of which the last ones are at their defaults."""
    if len(record) != columns:
        raise UserError(f"{where}: {len(record)} columns, expected {columns}")
    values: list[Any] = []
    for (name, kind), text in zip(_column_types().items(), record, strict=False):
        try:
            values.append(kind(text))
        except ValueError:
            raise UserError(f"{where}: {name} is {text!r}, not {_KIND_NAMES[kind]}") from None
    row = Evaluation(*values)
    if row.tuning not in TUNINGS:
        raise UserError(f"{where}: tuning is {row.tuning!r}, not one of {', '.join(TUNINGS)}")
    return row


def _short(value: Any, limit: int = 60) -> str:
    text = "absent" if value is _ABSENT else json.dumps(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _walk(path: Path) -> Iterator[Path]:
    """Results folders at or below ``path``, sorted; does not look inside one."""
    for folder, below, files in os.walk(path):
        if CONFIG in files:
            below.clear()
            yield Path(folder)
        below.sort()


def _is_metrics(record: Any) -> bool:
    """Whether a line of ``metrics.jsonl`` is one that a launcher writes."""
    if not isinstance(record, dict) or not isinstance(record.get("metrics"), dict):
        return False
    lists = [record.get("seeds"), record.get("settings"), *record["metrics"].values()]
    if not all(isinstance(each, list) and len(each) == len(lists[0]) for each in lists):
        return False
    values = itertools.chain.from_iterable(record["metrics"].values())
    return (
        is_a(str, record.get("phase"))
        and is_a(int, record.get("step"))
        and is_a(str, record.get("wall_time", ""))
        and all(is_a(int, seed) for seed in record["seeds"])
        and all(is_a(str, setting) for setting in record["settings"])
        and all(is_a(float, value) for value in values)
    )


def _is_status(status: Any) -> bool:
    return is_a(str, status) and (status in ("running", "complete") or status.startswith("failed: "))
