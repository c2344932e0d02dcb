"""Diffusion models as such: schedules, denoisers, samplers, objectives. Knows nothing of reinforcement learning."""

SCHEDULES = ("vp", "linear", "scaled_linear", "cosine")
"""The discrete noise schedules by name."""
