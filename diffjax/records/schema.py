"""The types of what a run writes."""

SELECTION_RULES = {
    "last": "last evaluation",
    "last5": "mean of last 5",
    "best": "best over training (oracle)",
    "offline": "selected offline by the cloning loss",
}
"""How a paper takes one number from a run's evaluations (``selection`` in the tables of hyper-parameters), in words."""
