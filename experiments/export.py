"""The command ``diffjax export`` from a checkout: ``diffjax/commands/export.py``."""

import sys

from diffjax.commands.export import COMMAND
from diffjax.launch import cli

if __name__ == "__main__":
    sys.exit(cli.run(COMMAND))
