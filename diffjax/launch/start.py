"""The first thing that a launcher does: nothing that ends it early, from here on, ends in a traceback."""

import importlib
import signal
import sys
from typing import NoReturn


def start(name: str) -> NoReturn:
    """Run a command of ``diffjax.commands`` with the process's arguments and end the process with its status."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else whoever started this said to ignore it
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends quietly while modules are imported
    from diffjax.launch import cli
    from diffjax.launch.stop import leave

    if name == "console":
        status = importlib.import_module("diffjax.commands.console").run()
    else:
        status = cli.run(importlib.import_module(f"diffjax.commands.{name}").COMMAND)
    if status >= 128:
        leave(status)
    sys.exit(status)
