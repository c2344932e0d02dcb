"""The commands: one module each, run as ``diffjax NAME`` or ``python experiments/NAME.py``."""
