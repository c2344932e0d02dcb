"""The command ``diffjax sweep`` from a checkout: ``diffjax/commands/sweep.py``."""

import sys

from diffjax.commands.sweep import COMMAND
from diffjax.launch import cli

if __name__ == "__main__":
    sys.exit(cli.run(COMMAND))
