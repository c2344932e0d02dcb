"""The command ``diffjax collect`` from a checkout: ``diffjax/commands/collect.py``."""

from diffjax.launch.start import start

if __name__ == "__main__":
    start("collect")
