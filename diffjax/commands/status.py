r"""Say how far experiments are: running, stopped, dead (its process is gone), complete or failed, and by whom.

Reads the folders only, so that any machine may look that sees them.

examples:
  python experiments/status.py --out=runs
  diffjax status runs
"""

from pathlib import Path

from absl import flags

from diffjax.launch import cli
from diffjax.launch.status import report


def define_flags(values: flags.FlagValues) -> None:
    """Define this launcher's flags."""
    cli.define_path(values, "out", "DIR: A results folder, or one that holds some.")


def main(args: flags.FlagValues) -> None:
    """Look."""
    for line in report(Path(args.out)):
        print(line)


COMMAND = cli.Command(main, define_flags, __doc__, ("out",), "out")
