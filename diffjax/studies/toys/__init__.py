"""The papers' toy experiments: clouds of two-dimensional actions, methods trained on them, pictures and numbers."""
