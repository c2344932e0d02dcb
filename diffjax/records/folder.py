"""One results folder: the configuration, evaluations, metrics and run states of one (task, method, variant).

``config.json`` says which experiment the folder holds, ``evaluations.csv`` has one row per run and
evaluation, ``metrics.jsonl`` one object per chunk of updates, ``status.json`` one entry per run;
``checkpoints/`` belongs to the training program. The two ``.json`` files are written whole and renamed; the
two files that grow are appended to, and cut back to what a checkpoint recorded when a run is resumed.
"""

import csv
import errno
import functools
import io
import itertools
import json
import math
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TextIO, get_type_hints

import numpy as np

from diffjax.errors import UserError

CONFIG, EVALUATIONS, METRICS, STATUS, CHECKPOINTS = (
    "config.json",
    "evaluations.csv",
    "metrics.jsonl",
    "status.json",
    "checkpoints",
)
# What a folder may be continued with although it differs: how and by what program it was started.
_NOT_IDENTITY = ("versions", "flags")
_FROM_DATA = ("dataset", "reference")  # what is not known before the data are read
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
_CONFIG_TYPES: dict[str, type] = {
    "method": str,
    "variant": str,
    "preset": str,
    "task": str,
    "suite": str,
    "seeds": list,
    "settings": list,
    "steps": int,
    "eval_interval": int,
    "episodes": int,
    "hyper": dict,
    "dataset": dict,
    "versions": dict,
    "flags": list,
}
_ENTRIES = {"seeds": "integers", "settings": "texts"}
_KIND_NAMES = {int: "an integer", float: "a number", str: "text"}
_OPTIONAL = {"protocol": dict, "reference": dict, "ablation": str, "matmul_precision": str, "env": str}
_NOT_FINITE = ("nan", "inf", "-inf")
_ABSENT = object()
TUNINGS = ("published", "untuned", "quick")


class Evaluation(NamedTuple):
    """One row of ``evaluations.csv``: one evaluation of one run."""

    method: str
    variant: str
    preset: str
    tuning: str  # published | untuned | quick
    task: str
    dataset: str  # the data set's label
    dataset_fingerprint: str
    env: str
    simulator: str  # name and version
    seed: int
    setting: str  # "" or "eta=0.1;rho=1.5"
    step: int  # updates of the main phase
    episodes: int
    return_mean: float
    return_std: float
    length_mean: float
    score: float  # normalised, x100
    candidates: int
    network_evaluations: int  # per action
    selection: str  # "argmax mean target Q of 10"


class RunStatus(NamedTuple):
    """One entry of ``status.json``; ``status`` is ``running``, ``complete`` or ``failed: reason``."""

    seed: int
    setting: str
    status: str


class Difference(NamedTuple):
    """An entry in which two configurations differ, its values as text."""

    name: str
    old: str
    new: str


class Rows(NamedTuple):
    """How many rows (without the header) of the two growing files stand."""

    evaluations: int
    metrics: int


@dataclass(frozen=True)
class ResultsFolder:
    """A folder to write results to; made by ``open_folder``."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        return self.path / CHECKPOINTS

    def append_evaluations(self, evaluations: Iterable[Evaluation]) -> None:
        """Append rows and flush them to the disk."""
        _append(self.path / EVALUATIONS, _csv(evaluations))

    def append_metrics(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Append one JSON object per record and flush; arrays become lists, non-finite floats strings."""
        _append(self.path / METRICS, "".join(json.dumps(plain(record)) + "\n" for record in records))

    def rows(self) -> Rows:
        """The complete rows that stand now: what a checkpoint records."""
        return Rows(len(_complete_lines(self.path / EVALUATIONS)) - 1, len(_complete_lines(self.path / METRICS)))

    def truncate(self, rows: Rows) -> None:
        """Cut the growing files back to ``rows``; raises ``UserError`` if one holds fewer."""
        _cut(self.path / EVALUATIONS, rows.evaluations + 1)
        _cut(self.path / METRICS, rows.metrics)

    def write_status(self, runs: Iterable[RunStatus]) -> None:
        """Replace ``status.json``."""
        _write_json(self.path / STATUS, {"runs": [run._asdict() for run in runs]})


@dataclass(frozen=True)
class Results:
    """A results folder as read: everything a table needs."""

    path: Path
    config: dict[str, Any]
    evaluations: tuple[Evaluation, ...]
    runs: tuple[RunStatus, ...]
    metrics: tuple[dict[str, Any], ...] = ()


def open_folder(path: str | Path, config: Mapping[str, Any], resume: bool = False) -> ResultsFolder:
    """The folder of the experiment ``config`` describes: created if new or empty, continued with ``resume``.

    Versions and flags do not make another experiment and stay as first recorded; all else in ``config``
    counts. A new folder starts with no rows and every (setting, seed) ``running``.

    Raises:
      UserError: the folder holds something else, or the same experiment and ``resume`` is false; or it cannot
        be written. Nothing in it is touched then.
    """
    folder = Path(path)
    new_config: dict[str, Any] = plain(config)
    _check_config(folder / CONFIG, new_config)
    check_folder(folder, new_config, resume)
    results = ResultsFolder(folder)
    with writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not os.path.isfile(folder / CONFIG):
            _write_json(folder / CONFIG, new_config)
        if not (folder / EVALUATIONS).is_file():
            write_text(folder / EVALUATIONS, ",".join(Evaluation._fields) + "\n")
        if not (folder / METRICS).is_file():
            write_text(folder / METRICS, "")
        if not (folder / STATUS).is_file():
            results.write_status(
                RunStatus(seed, setting, "running")
                for setting in new_config["settings"]
                for seed in new_config["seeds"]
            )
    return results


def check_folder(path: str | Path, known: Mapping[str, Any], resume: bool) -> None:
    """That ``open_folder`` would take an experiment, of which all is known but perhaps what its data will say.

    Raises:
      UserError: as there.
    """
    folder = Path(path)
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise UserError(f"{folder} is a file; --out must name a folder")
    if os.path.isfile(folder / CONFIG):
        stored, wanted = read_config(folder), plain(known)
        left_out = _NOT_IDENTITY if "dataset" in wanted else _NOT_IDENTITY + _FROM_DATA
        old, new = ({name: each[name] for name in each if name not in left_out} for each in (stored, wanted))
        if (found := first_difference(old, new)) is not None:
            raise UserError(
                f"{folder} holds another experiment ({found.name} is {found.old} there and {found.new} now); "
                "choose another --out"
            )
        if not resume:
            raise UserError(f"{folder} already holds this experiment; add --resume or choose another --out")
    elif os.path.isdir(folder):
        with writable(folder):
            other = sorted(name for name in os.listdir(folder) if not _is_temporary(name))
        if other:
            raise UserError(f"{folder} holds other files ({other[0]}); choose another --out")


def check_parent(flag: str, path: str | Path) -> None:
    """That the folder is there in which a flag's file or folder will be made.

    Raises:
      UserError: it is not, or cannot be written to.
    """
    parent = Path(path).parent
    if not os.path.isdir(parent):
        raise UserError(f"--{flag}={path}: the folder {parent} does not exist; make it first")
    if not os.access(parent, os.W_OK):
        raise UserError(f"--{flag}={path}: the folder {parent} cannot be written to; choose another")


def find_folders(paths: Iterable[str | Path]) -> list[Path]:
    """Every results folder at or below the given folders, in their order, each once; sorted within each.

    Raises ``UserError`` for a path that is not a folder or has no results folder in it.
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
    """Everything in a results folder, checked; raises ``UserError`` that names the file and the defect."""
    folder = Path(path)
    config = read_config(folder)
    runs = read_status(folder)
    evaluations = read_evaluations(folder)
    known = {(run.seed, run.setting) for run in runs}
    expected = {name: config[name] for name in ("method", "variant", "preset", "task")}
    expected |= {
        "dataset": config["dataset"]["label"],
        "dataset_fingerprint": config["dataset"]["fingerprint"],
    }
    seen = set()
    for number, row in enumerate(evaluations, start=2):
        where = f"{folder / EVALUATIONS} line {number}"
        for name, right in expected.items():
            if getattr(row, name) != right:
                raise UserError(f"{where}: {name} is {getattr(row, name)!r}, {CONFIG} says {right!r}")
        if (row.seed, row.setting) not in known:
            raise UserError(f"{where}: {_run_name(row.seed, row.setting)} is not in {STATUS}")
        key = (row.seed, row.setting, row.step, row.selection, row.candidates, row.network_evaluations)
        if key in seen:
            raise UserError(f"{where}: {_run_name(row.seed, row.setting)} is evaluated at step {row.step} twice")
        seen.add(key)
    metrics = read_metrics(folder) if os.path.lexists(folder / METRICS) else []  # a table can do without
    return Results(folder, config, tuple(evaluations), tuple(runs), tuple(metrics))


def read_config(path: str | Path) -> dict[str, Any]:
    """``config.json``, checked for the entries every experiment has."""
    file = Path(path) / CONFIG
    config = _read_json(file)
    _check_config(file, config)
    return config


def read_status(path: str | Path) -> list[RunStatus]:
    """``status.json``, in the order of the run axis."""
    file = Path(path) / STATUS
    content = _read_json(file)
    entries = content.get("runs")
    if not isinstance(entries, list):
        raise UserError(f'{file}: no list "runs"')
    runs = []
    for index, entry in enumerate(entries):
        try:
            run = RunStatus(**entry)
        except TypeError:
            raise UserError(f"{file}: run {index} needs exactly {', '.join(RunStatus._fields)}") from None
        if not (_is_int(run.seed) and isinstance(run.setting, str) and _is_status(run.status)):
            raise UserError(f"{file}: run {index} is {entry}; status is running, complete or failed: reason")
        runs.append(run)
    if len({run[:2] for run in runs}) != len(runs):
        raise UserError(f"{file}: one run has two entries")
    return runs


def read_evaluations(path: str | Path) -> list[Evaluation]:
    """The complete rows of ``evaluations.csv``; a last line cut short by a crash is left out."""
    file = Path(path) / EVALUATIONS
    lines = _complete_lines(file)
    try:
        records = list(csv.reader(lines))
    except csv.Error as error:
        raise UserError(f"{file}: not CSV ({error})") from None
    if not records or tuple(records[0]) != Evaluation._fields:
        raise UserError(f"{file}: the first line must be {','.join(Evaluation._fields)}")
    return [_evaluation(f"{file} line {number}", record) for number, record in enumerate(records[1:], start=2)]


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The complete records of ``metrics.jsonl``: a value per run in each list, as a number or ``"nan"``, ``"inf"``."""
    file = Path(path) / METRICS
    records = []
    for number, line in enumerate(_complete_lines(file), start=1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UserError(f"{file} line {number}: not JSON ({error})") from None
        if not _is_record(record):
            raise UserError(
                f"{file} line {number}: needs a phase, a step, and lists of one length: seeds, settings, each metric"
            )
        records.append(record)
    return records


def plain(value: Any) -> Any:
    """A value as JSON holds it: arrays and tuples as lists, non-finite floats as ``"nan"``, ``"inf"``."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "__array__"):
        return plain(np.asarray(value).tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value


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


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A temporary name beside ``path`` to write to; renamed to ``path`` at the end, removed on any error.

    What is no regular file (``/dev/null``, a pipe) is written to as it is: a rename would replace it.
    """
    target = Path(path)
    is_special = target.exists() and not target.is_file()
    target = target if is_special else target.resolve()
    temporary = target if is_special else target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        if not is_special:
            os.replace(temporary, target)
    except BaseException as error:
        if not is_special:
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(target)
        raise


@contextmanager
def writable(path: str | Path, flag: str = "out") -> Iterator[None]:
    """Turn what keeps ``path`` from being written into a ``UserError``; a full disk stays an ``OSError``."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL_DISK:
            raise
        raise UserError(f"{path} cannot be written ({error.strerror}); choose another --{flag}") from None


def write_text(path: str | Path, text: str) -> None:
    """Write a whole text file, or leave what was there."""
    with whole_file(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as stream:
        stream.write(text)
        _flush(stream)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_read_bytes(path).decode("utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a JSON object")
    return content


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None


def _complete_lines(path: Path) -> list[str]:
    """The lines that end in a newline: the last may be half written, by a run that works or was killed."""
    content = _read_bytes(path)
    try:
        text = content[: content.rfind(b"\n") + 1].decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None
    return text.split("\n")[:-1]


def _csv(rows: Iterable[Sequence[Any]]) -> str:
    """CSV lines, each row on one line: a line break inside a text becomes a space."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    for row in rows:
        writer.writerow([" ".join(item.splitlines()) if isinstance(item, str) else item for item in row])
    return stream.getvalue()


def _append(path: Path, text: str) -> None:
    try:
        with open(path, "a", encoding="utf-8", newline="") as stream:
            stream.write(text)
            _flush(stream)
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def _flush(stream: TextIO) -> None:
    """To the disk, so that a checkpoint never records rows that a power cut takes away."""
    stream.flush()
    if stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        os.fsync(stream.fileno())


def _cut(path: Path, lines: int) -> None:
    complete = _complete_lines(path)
    if len(complete) < lines:
        raise UserError(f"{path}: {len(complete)} lines where the checkpoint recorded {lines}; cannot resume")
    os.truncate(path, sum(len(line.encode("utf-8")) + 1 for line in complete[:lines]))


@functools.cache
def _column_types() -> dict[str, type]:
    return get_type_hints(Evaluation)


def _evaluation(where: str, record: list[str]) -> Evaluation:
    if len(record) != len(Evaluation._fields):
        raise UserError(f"{where}: {len(record)} columns, expected {len(Evaluation._fields)}")
    values: list[Any] = []
    for (name, kind), text in zip(_column_types().items(), record, strict=True):
        try:
            values.append(kind(text))
        except ValueError:
            raise UserError(f"{where}: {name} is {text!r}, not {_KIND_NAMES[kind]}") from None
    row = Evaluation(*values)
    if row.tuning not in TUNINGS:
        raise UserError(f"{where}: tuning is {row.tuning!r}, not one of {', '.join(TUNINGS)}")
    return row


def _check_config(file: Path, config: Mapping[str, Any]) -> None:
    for name, kind in _CONFIG_TYPES.items():
        if name not in config:
            raise UserError(f"{file}: no entry {name!r}")
        _check_type(file, name, config[name], kind)
    for name, is_right in (("seeds", _is_int), ("settings", lambda setting: isinstance(setting, str))):
        if not config[name] or not all(map(is_right, config[name])):
            raise UserError(f"{file}: {name} is {config[name]!r}, not a list of {_ENTRIES[name]}")
    for name, kind in _OPTIONAL.items():
        _check_type(file, name, config.get(name, kind()), kind)
    for where, name, kind in (
        ("protocol", "selection", str),
        ("protocol", "offline_rank", int),
        ("reference", "source", str),
    ):
        _check_type(file, f"{where}.{name}", config.get(where, {}).get(name, kind()), kind)
    for name, version in config["versions"].items():
        _check_type(file, f"versions.{name}", version, str)
    for setting in config["settings"]:
        if not isinstance(config["hyper"].get(setting), dict):
            raise UserError(f"{file}: hyper has no entry {setting!r}, the hyper-parameters of that setting")
    for name in ("label", "fingerprint"):
        if not isinstance(config["dataset"].get(name), str):
            raise UserError(f"{file}: dataset has no {name}")


def _check_type(file: Path, name: str, value: Any, kind: type) -> None:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise UserError(f"{file}: {name} is {value!r}, not of type {kind.__name__}")


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


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(".tmp")


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_record(record: Any) -> bool:
    """Whether a line of ``metrics.jsonl`` is one that a launcher writes."""
    if not isinstance(record, dict) or not isinstance(record.get("metrics"), dict):
        return False
    lists = [record.get("seeds"), record.get("settings"), *record["metrics"].values()]
    if not all(isinstance(each, list) and len(each) == len(lists[0]) for each in lists):
        return False
    values = itertools.chain.from_iterable(record["metrics"].values())
    return (
        isinstance(record.get("phase"), str)
        and _is_int(record.get("step"))
        and all(map(_is_int, record["seeds"]))
        and all(isinstance(setting, str) for setting in record["settings"])
        and all(isinstance(value, int | float) or value in _NOT_FINITE for value in values)
    )


def _is_status(status: Any) -> bool:
    return isinstance(status, str) and (status in ("running", "complete") or status.startswith("failed: "))


def _run_name(seed: int, setting: str) -> str:
    return f"seed {seed}" + (f" ({setting})" if setting else "")
