"""Data sets: D4RL-layout HDF5 files and Minari, as flat arrays, with the published reward transforms."""

from diffjax.data.load import load_dataset
from diffjax.data.rewards import REWARD_TRANSFORMS, reward_affine
from diffjax.data.transitions import Dataset, Transitions

__all__ = ["REWARD_TRANSFORMS", "Dataset", "Transitions", "load_dataset", "reward_affine"]
