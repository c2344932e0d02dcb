"""The command ``diffjax evaluate`` from a checkout: ``diffjax/commands/evaluate.py``."""

from diffjax.launch.start import start

if __name__ == "__main__":
    start("evaluate")
