"""The command ``diffjax status`` from a checkout: ``diffjax/commands/status.py``."""

from diffjax.launch.start import start

if __name__ == "__main__":
    start("status")
