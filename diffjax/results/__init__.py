"""Results folders and what is made of them."""

from diffjax.results.arrays import CellScores, TableScores, load_scores

__all__ = ["CellScores", "TableScores", "load_scores"]
