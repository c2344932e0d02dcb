"""The command ``diffjax export`` from a checkout: ``diffjax/commands/export.py``."""

from diffjax.launch.start import start

if __name__ == "__main__":
    start("export")
