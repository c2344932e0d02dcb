"""The command ``diffjax train`` from a checkout: ``diffjax/commands/train.py``."""

from diffjax.launch.start import start

if __name__ == "__main__":
    start("train")
