"""The papers' toy experiments: clouds of two-dimensional actions, methods trained on them, pictures and numbers."""

FIGURES = ("dac", "dql", "diffcps", "dtql")
"""The figures by name."""
