"""The command ``diffjax tasks`` from a checkout: ``diffjax/commands/tasks.py``."""

import sys

from diffjax.commands.tasks import COMMAND
from diffjax.launch import cli

if __name__ == "__main__":
    sys.exit(cli.run(COMMAND))
