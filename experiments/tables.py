"""The command ``diffjax tables`` from a checkout: ``diffjax/commands/tables.py``."""

import sys

from diffjax.commands.tables import COMMAND
from diffjax.launch import cli

if __name__ == "__main__":
    sys.exit(cli.run(COMMAND))
