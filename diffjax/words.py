"""Numbers in words, as everything that is said or written says them."""


def count(number: int, noun: str, plural: str = "") -> str:
    """``1 run``, ``2 runs``, ``1,000 updates``; ``plural`` where it is not the noun with an ``s``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
