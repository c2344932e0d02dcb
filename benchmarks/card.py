"""Render the speed card of a folder of measurements: device, versions, precision, one line per method.

Every number of the card comes from the .json files beside it, which inference.py, training.py and accelerator.py
write. Writes RESULTS/table.md and prints it.

examples:
  python benchmarks/inference.py --out=runs/here --batch=1,256
  python benchmarks/training.py --out=runs/here
  python benchmarks/card.py --results=runs/here
"""

import sys
from pathlib import Path

from absl import flags

from diffjax.errors import UserError
from diffjax.launch import cli
from diffjax.measure import card


def define_flags(values: flags.FlagValues) -> None:
    """Define this program's flags."""
    cli.define_path(values, "results", "DIR: Folder with inference.json, training.json or what accelerator.py wrote.")


def main(args: flags.FlagValues) -> None:
    """Write the card and print it."""
    folder = Path(args.results)
    if not folder.is_dir():
        raise UserError(f"--results={folder} is not a folder; name one that a benchmark wrote with --out")
    print(card.write(folder).read_text(), end="")


if __name__ == "__main__":
    sys.exit(cli.launch(main, define_flags, description=__doc__, required=("results",)))
