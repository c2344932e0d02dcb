"""The command ``diffjax evaluate`` from a checkout: ``diffjax/commands/evaluate.py``."""

import sys

from diffjax.commands.evaluate import COMMAND
from diffjax.launch import cli

if __name__ == "__main__":
    sys.exit(cli.run(COMMAND))
