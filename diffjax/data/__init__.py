"""Data sets: D4RL-layout HDF5 files and Minari, as flat arrays, with the published reward transforms."""
