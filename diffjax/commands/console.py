"""What ``diffjax NAME --flags`` starts."""

import importlib
import sys
from collections.abc import Mapping
from types import MappingProxyType

from diffjax.errors import unknown_name
from diffjax.launch import cli
from diffjax.launch.start import start

COMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "train": "train one method on one task, all seeds and settings at once",
        "sweep": "train several methods on several tasks and print the table",
        "finetune": "go on online with trained runs, from the data and from what they meet",
        "evaluate": "evaluate trained runs again, film them, or judge them without a simulator",
        "export": "write a policy as a program that runs without diffjax",
        "status": "say how far experiments are",
        "tables": "make score tables, figures and reports of results folders",
        "tasks": "list the tasks and their data",
        "collect": "make data with policies of the program's own",
        "bandit": "draw the papers' toy figures",
        "bound": "measure the bounds that policies are trained with against the entropy",
    }
)
"""Each is a module of this package; here, what it is for."""


def main() -> None:
    """Run the command that the first argument names."""
    start("console")


def run() -> int:
    """The exit status of the command that the first argument names."""
    name, arguments = (sys.argv[1] if len(sys.argv) > 1 else "--help"), sys.argv[2:]
    if name in cli.HELP:
        print(page())
        return 0
    if name not in COMMANDS:
        return cli.complain("diffjax", str(unknown_name("command", name, COMMANDS)), cli.EXIT_USER_ERROR)
    command: cli.Command = importlib.import_module(f"diffjax.commands.{name}").COMMAND
    sys.argv = [f"diffjax {name}", *arguments]
    return cli.run(command)


def page() -> str:
    """What ``diffjax --help`` prints."""
    lines = (f"  {name:10}{text}" for name, text in COMMANDS.items())
    return "usage: diffjax COMMAND [flags]\n\ncommands:\n" + "\n".join(lines) + "\n\ndiffjax COMMAND --help says more."
