"""The command ``diffjax bandit`` from a checkout: ``diffjax/commands/bandit.py``."""

import sys

from diffjax.commands.bandit import COMMAND
from diffjax.launch import cli

if __name__ == "__main__":
    sys.exit(cli.run(COMMAND))
