"""The command ``diffjax sweep`` from a checkout: ``diffjax/commands/sweep.py``."""

from diffjax.launch.start import start

if __name__ == "__main__":
    start("sweep")
