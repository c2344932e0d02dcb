"""Collecting data: the data sets that the program makes by itself."""

LEVELS = ("random", "medium", "medium-replay", "full-replay", "medium-expert", "expert")
"""What data of a robot consist of; see :mod:`diffjax.studies.collect.robots`."""
TRANSITIONS = 200_000
"""Of each level; twice as many of ``medium-expert``."""
SEED = 0
"""Of every data set that a task brings along; another machine may differ in the last bit and then in more."""
