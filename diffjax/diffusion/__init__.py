"""Diffusion models as such: schedules, denoisers, samplers, objectives. Knows nothing of reinforcement learning."""
