"""The command ``diffjax train`` from a checkout: ``diffjax/commands/train.py``."""

import sys

from diffjax.commands.train import COMMAND
from diffjax.launch import cli

if __name__ == "__main__":
    sys.exit(cli.run(COMMAND))
