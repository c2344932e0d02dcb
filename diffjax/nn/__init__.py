"""Networks and their optimisers; know nothing of a method."""
