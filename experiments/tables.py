"""The command ``diffjax tables`` from a checkout: ``diffjax/commands/tables.py``."""

from diffjax.launch.start import start

if __name__ == "__main__":
    start("tables")
