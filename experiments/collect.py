"""The command ``diffjax collect`` from a checkout: ``diffjax/commands/collect.py``."""

import sys

from diffjax.commands.collect import COMMAND
from diffjax.launch import cli

if __name__ == "__main__":
    sys.exit(cli.run(COMMAND))
