"""Methods of offline reinforcement learning: one file each, holding only what its paper adds."""
