"""The command ``diffjax bound`` from a checkout: ``diffjax/commands/bound.py``."""

from diffjax.launch.start import start

if __name__ == "__main__":
    start("bound")
