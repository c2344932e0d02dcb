"""The command ``diffjax tasks`` from a checkout: ``diffjax/commands/tasks.py``."""

from diffjax.launch.start import start

if __name__ == "__main__":
    start("tasks")
