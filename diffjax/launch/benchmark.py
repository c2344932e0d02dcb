"""What the benchmarks share: which methods they measure, how time is taken, and what is written.

A benchmark writes OUT/NAME.csv, a line per measurement, and OUT/NAME.json, the same with everything that the numbers
depend on, anew after each so that what is measured is kept whatever ends it.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from absl import flags
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from diffjax.errors import UserError, unknown_name
from diffjax.experiment.settings import PRESETS, Protocol, check_overrides, parse_setting, resolve, setting_names
from diffjax.files import csv_text, read_json, writable, write_json, write_text
from diffjax.launch import cli
from diffjax.launch.flags import define_matmul_precision
from diffjax.launch.plugins import define_plugin, load_plugins
from diffjax.methods.registry import METHODS, get_method
from diffjax.tasks.registry import Task, get_task
from diffjax.types import Spec

if TYPE_CHECKING:
    from diffjax.methods.base import Method

Item = TypeVar("Item")
Compiled = TypeVar("Compiled")
Row = TypeVar("Row")


class Case(NamedTuple):
    """A method as it is measured, with one setting of ``--grid`` and the sizes of one task."""

    name: str
    variant: str
    method: Method[Any, Any]
    hyper: Any
    protocol: Protocol
    spec: Spec
    setting: str = ""
    task: str = ""  # empty where only one is measured

    @property
    def label(self) -> str:
        """``name``, or ``name:variant`` for any but the default variant; setting and task where there are several."""
        name = self.name if self.variant == next(iter(METHODS[self.name])) else f"{self.name}:{self.variant}"
        return " ".join(part for part in (name, self.setting, self.task) if part)


def define_flags(values: flags.FlagValues) -> None:
    """Flags of every benchmark."""
    cli.define_path(values, "out", "DIR: Folder for the results.")
    flags.DEFINE_string(
        "methods",
        None,
        "NAME[:VARIANT],...: What is measured; default: every method, and every variant that differs here.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "task",
        "halfcheetah-medium-v2",
        "ID,...: Tasks whose sizes and published hyper-parameters are used; nothing is simulated.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "observation_dim", None, "Size of an observation instead of the task's.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_integer(
        "action_dim", None, "Size of an action instead of the task's.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_enum(
        "preset", "paper", list(PRESETS), "Hyper-parameters: the published ones, or small networks.", flag_values=values
    )
    flags.DEFINE_multi_string(
        "set",
        None,
        "NAME=VALUE: Another value for one hyper-parameter, of all methods measured; repeatable.",
        flag_values=values,
    )
    flags.DEFINE_multi_string(
        "grid",
        None,
        "NAME=V1,V2: Several values of one, each measured with every method that has it (others once); repeatable.",
        flag_values=values,
    )
    define_plugin(values)
    define_matmul_precision(values)


def define_haste_flags(values: flags.FlagValues) -> None:
    """Flags of the benchmarks that compile programs, for machines that are at hand for minutes."""
    flags.DEFINE_float(
        "budget_s", None, "No measurement begins after so many seconds.", lower_bound=0.0, flag_values=values
    )
    flags.DEFINE_integer(
        "compile_jobs",
        1,
        "Measurements whose programs are compiled side by side, ahead of their timing; above 1 the times of "
        "compilation are left out.",
        lower_bound=1,
        flag_values=values,
    )


def define_resume(values: flags.FlagValues) -> None:
    """The flag that :func:`prepare` and :func:`kept` read."""
    flags.DEFINE_bool(
        "resume",
        False,
        "Go on in a folder --out of this machine: what was measured there is kept and not measured again.",
        flag_values=values,
    )


def parse_numbers(flag: str, text: str, example: str) -> list[int]:
    """The positive integers of a list.

    Raises:
      UserError: for anything else.
    """
    numbers = []
    for item in cli.parse_list(flag, text):
        if not item.isdecimal() or int(item) < 1:
            raise UserError(f"--{flag}={text}: {item} is not a positive integer; write --{flag}={example}")
        numbers.append(int(item))
    return numbers


def make_case(args: flags.FlagValues, name: str, variant: str, task: Task, setting: str = "", place: str = "") -> Case:
    """A method with one setting beside what ``--set`` says, of a task's sizes.

    Raises:
      UserError: for anything unknown or out of range.
    """
    method, variant = get_method(name, variant)
    values = check_overrides(name, variant, cli.parse_settings(args.set) | parse_setting(setting))
    settings = resolve(name, task.id, args.preset, variant, values)
    spec = Spec(args.observation_dim or task.observation_dim, args.action_dim or task.action_dim)
    return Case(name, variant, method, settings.hyper, settings.protocol, spec, setting, place)


def chosen_cases(args: flags.FlagValues, aspect: Callable[[Case], Any]) -> list[Case]:
    """The methods that ``--methods`` names, with every setting of the grid and on every task.

    Without ``--methods`` all, with the variants that have an ``aspect`` of their own.

    Raises:
      UserError: for an unknown method, variant, preset, task or setting, or one of the grid that no method has.
    """
    load_plugins(args)
    grid = cli.parse_grid(args.grid, fixed=cli.parse_settings(args.set))
    tasks = [get_task(name) for name in cli.parse_list("task", args.task)]
    chosen: list[tuple[str, str]] = []
    if args.methods is not None:
        named = [item.partition(":") for item in cli.parse_list("methods", args.methods)]
        chosen = [(name, variant) for name, _, variant in named]
    else:
        for name, variants in METHODS.items():
            aspects: list[Any] = []
            for variant in variants:
                if (found := aspect(make_case(args, name, variant, tasks[0]))) not in aspects:
                    aspects.append(found)
                    chosen.append((name, variant))
    known = {(name, variant): setting_names(name, variant) for name, variant in chosen}
    for name in grid:
        if not any(name in names for names in known.values()):
            raise unknown_name("setting in --grid:", name, sorted(set().union(*known.values())))
    return [
        make_case(args, *one, task, setting, task.id if len(tasks) > 1 else "")
        for task in tasks
        for one in chosen
        for setting in cli.grid_settings({name: values for name, values in grid.items() if name in known[one]})
    ]


def prepare(args: flags.FlagValues, name: str) -> Path:
    """Settings of the process, and the folder that results go to; see :func:`results_folder`."""
    import jax

    from diffjax.numerics import check_platform, jax_precision, pin

    pin()
    check_platform()
    is_new = "resume" not in args or not args.resume
    folder = results_folder(args.out, (f"{name}.csv", f"{name}.json") if is_new else ())
    # A program taken from the cache would be reported as compiled in no time.
    jax.config.update("jax_enable_compilation_cache", False)
    jax.config.update("jax_default_matmul_precision", jax_precision(args.matmul_precision))
    return folder


def results_folder(out: str, names: Iterable[str]) -> Path:
    """The folder that results go to, which must not hold any file of these names yet.

    Raises:
      UserError: for a folder that holds one or cannot be made.
    """
    if not out:
        raise UserError("--out is empty; name a folder: --out=DIR")
    folder = Path(out)
    for name in names:
        if (folder / name).exists():
            raise UserError(f"{folder / name} exists already; choose another --out, or remove it")
    with writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def kept(
    args: flags.FlagValues, folder: Path, name: str, kind: Callable[..., Row], facts: Mapping[str, Any]
) -> list[Row]:
    """With ``--resume`` the rows that a folder has already, else none.

    Raises:
      UserError: they are of another machine, or ``facts`` of theirs differ.
    """
    file = folder / f"{name}.json"
    if not args.resume or not file.is_file():
        return []
    content = read_json(file)
    here = {fact: value for fact, value in machine().items() if fact != "revision"}
    for fact, value in [*here.items(), *facts.items()]:
        before = content["machine"].get(fact) if fact in here else content.get(fact)
        if before != value:
            raise UserError(f"{file} was measured with {fact} {before!r}, not {value!r}; choose another --out")
    try:
        return [kind(**row) for row in content["measurements"]]
    except TypeError:
        raise UserError(f"{file} has other columns than this version writes; choose another --out") from None


def compile_program(program: Any, *arguments: Any) -> tuple[Any, float]:
    """A jitted function compiled for these arguments (arrays, or their shapes), and the seconds that it took."""
    start = time.perf_counter()
    compiled = program.lower(*arguments).compile()
    return compiled, time.perf_counter() - start


def seconds(call: Callable[[], Any]) -> float:
    """How long a call takes until its result is there."""
    import jax

    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


class Measuring:
    """A bar with the time left, and a line per measurement, on stderr; ``skipped`` says what there was no time for."""

    def __init__(self, total: int, budget_s: float | None = None) -> None:
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            console=console,
            disable=not console.is_interactive,
            transient=True,
        )
        self._task = self._bar.add_task("", total=total)
        self._budget_s = budget_s
        self._start = time.perf_counter()
        self._skipped: list[str] = []

    def is_over(self) -> bool:
        """Whether the budget is spent."""
        return self._budget_s is not None and time.perf_counter() - self._start > self._budget_s

    @property
    def skipped(self) -> tuple[str, ...]:
        """No note, or one."""
        if not self._skipped:
            return ()
        return (f"not measured within {self._budget_s:g} s: {'; '.join(self._skipped)}",)

    def skip(self, names: Iterable[str]) -> None:
        """There is no time for these."""
        self._skipped += names

    def __enter__(self) -> Measuring:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def begin(self, name: str) -> None:
        """What is measured now."""
        self._bar.update(self._task, description=name)

    def done(self, text: str) -> None:
        """One measurement is there."""
        self._bar.advance(self._task)
        self._bar.console.print(text, highlight=False, soft_wrap=True)


def compiled_ahead(
    make: Callable[[Item], Compiled], items: Mapping[str, Item], jobs: int, measuring: Measuring
) -> Iterator[tuple[str, Compiled]]:
    """What is made of each item, by name, ``jobs`` at once and always ahead of their use; stops with the budget."""
    names = list(items)
    with ThreadPoolExecutor(jobs) as pool:
        for start in range(0, len(names), jobs):
            chosen = names[start : start + jobs]
            if measuring.is_over():
                measuring.skip(names[start:])
                return
            measuring.begin(f"compiling {', '.join(chosen)}")
            made = list(pool.map(make, [items[name] for name in chosen]))
            for number, name in enumerate(chosen):
                if measuring.is_over():
                    measuring.skip(names[start + number :])
                    return
                measuring.begin(name)
                yield name, made[number]


def machine() -> dict[str, Any]:
    """The machine and the versions that every number depends on."""
    from diffjax.experiment.provenance import versions

    usable = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    return versions() | {"processor": _processor(), "cpu_count": os.cpu_count(), "cpus_usable": usable}


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def write_results(
    folder: Path,
    name: str,
    rows: Sequence[NamedTuple],
    cases: Iterable[Case],
    notes: Sequence[str],
    facts: dict[str, Any],
) -> None:
    """Writes the measurements as CSV, and as JSON with ``facts``, notes, hyper-parameters, versions and flags.

    ``rows`` are of one type, whose fields are the columns.

    Raises:
      UserError: there are none.
    """
    if not rows:
        raise UserError("; ".join(("nothing was measured", *notes[-1:])))
    content = {
        "benchmark": name,
        **facts,
        "machine": machine(),
        "hyper": {case.label: dataclasses.asdict(case.hyper) for case in cases},
        "flags": sys.argv[1:],
        "notes": list(notes),
        "measurements": [row._asdict() for row in rows],
    }
    with writable(folder):
        write_text(folder / f"{name}.csv", csv_text([rows[0]._fields, *rows]))
        write_json(folder / f"{name}.json", content)


def print_table(title: str, columns: Sequence[str], lines: Iterable[Sequence[str]], text_columns: int = 1) -> None:
    """A table on the terminal, numbers to the right; where output is no terminal it is as wide as it needs."""
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < text_columns else "right", overflow="fold")
    for line in lines:
        table.add_row(*line)
    console = Console()
    if not console.is_terminal:
        widest = console.measure(table, options=console.options.update(width=1000)).maximum
        console = Console(width=max(console.width, widest))
    console.print(table, highlight=False)


def digits(value: float | None) -> str:
    """At least three significant digits; ``-`` for nothing."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}"
