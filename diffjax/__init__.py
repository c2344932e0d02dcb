"""diffjax: diffusion-based offline reinforcement learning as pure functions of arrays."""

__version__ = "0.1.0"
