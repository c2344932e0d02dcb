"""The command ``diffjax bandit`` from a checkout: ``diffjax/commands/bandit.py``."""

from diffjax.launch.start import start

if __name__ == "__main__":
    start("bandit")
