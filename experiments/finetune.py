"""The command ``diffjax finetune`` from a checkout: ``diffjax/commands/finetune.py``."""

from diffjax.launch.start import start

if __name__ == "__main__":
    start("finetune")
