"""List the tasks: simulator, sizes, reference scores, and whether their data are on this machine.

Data of the suites mini and local are made on first use; D4RL's files are found in ~/.d4rl/datasets (or
D4RL_DATASET_DIR) and otherwise downloaded; Minari's are fetched by Minari.

examples:
  python experiments/tasks.py
  python experiments/tasks.py --suite=antmaze
  python experiments/tasks.py --task=hopper-medium-v2
"""

import textwrap

from absl import flags
from rich.console import Console
from rich.table import Table

from diffjax.data.d4rl_files import d4rl_files
from diffjax.data.download import local_files
from diffjax.data.minari_folders import minari_exists
from diffjax.errors import UserError
from diffjax.launch import cli
from diffjax.tasks.registry import OWN_DATA, Task, families, get_task, suite_tasks, suites
from diffjax.words import count

WIDTH = 132  # columns that the widest line needs


def define_flags(values: flags.FlagValues) -> None:
    """Define this launcher's flags."""
    flags.DEFINE_string("suite", None, "NAME: Only the tasks of one suite.", flag_values=values)
    flags.DEFINE_string("task", None, "ID: Everything about one task.", flag_values=values)


def presence(task: Task) -> str:
    """Where the task's data are, in a few words."""
    if task.id in d4rl_files():
        path = local_files([task.id])[task.id]
        return f"present: {path.name}" if path else "D4RL, to download"
    if minari_exists(task.data):
        return f"present: {task.data}"
    return "made on first use" if task.suite in OWN_DATA else "Minari, to fetch"


def references(task: Task) -> str:
    """Reference scores, or that there are none."""
    return "none" if task.ref_min is None else f"{task.ref_min:g} / {task.ref_max:g}"


def describe(task: Task) -> None:
    """Print everything about one task."""
    family = families()[task.family]
    facts = {
        "task": task.id,
        "suite": task.suite,
        "family": family.title,
        "simulator": task.env_id + (f" {dict(task.env_kwargs)}" if task.env_kwargs else ""),
        "differences": family.differences,
        "observation": count(task.observation_dim, "number"),
        "action": count(task.action_dim, "number"),
        "horizon": count(task.horizon, "step"),
        "score 0 / 100": references(task),
        "from": task.ref_source or "nobody has published any; a normalised score is refused without the data's own",
        "data": presence(task),
    }
    if task.id in d4rl_files():
        facts["published at"] = d4rl_files()[task.id].url
    console, indent = Console(highlight=False), max(map(len, facts)) + 2
    for name, fact in facts.items():
        width = max(console.width, indent + 20)
        text = textwrap.fill(
            f"{name:{indent}}{fact}",
            width,
            subsequent_indent=" " * indent,
            break_long_words=False,  # an address stays whole
            break_on_hyphens=False,
        )
        console.print(text, soft_wrap=True, markup=False)


def main(args: flags.FlagValues) -> None:
    """List or describe."""
    if args.task and args.suite:
        raise UserError("give either --suite or --task")
    if args.task:
        describe(get_task(args.task))
        return
    console = Console(highlight=False, width=max(Console().width, WIDTH), soft_wrap=True)
    for suite in [args.suite] if args.suite else suites():
        members = [get_task(task_id) for task_id in suite_tasks(suite)]
        table = Table(box=None, pad_edge=False, title=f"{suite}: {families()[members[0].family].title}")
        table.title_justify = "left"
        for name in ("task", "simulator"):
            table.add_column(name, no_wrap=True)
        for name in ("obs", "act", "steps", "score 0 / 100"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("data", no_wrap=True)
        for task in members:
            sizes = (task.observation_dim, task.action_dim, task.horizon)
            table.add_row(task.id, task.env_id, *map(str, sizes), references(task), presence(task))
        console.print(table)
        console.print()


COMMAND = cli.Command(main, define_flags, __doc__)
