"""The largest errors against the recordings, as a table: which program was reproduced how well.

``DIFFJAX_GOLDEN_ERRORS=errors.csv python -m pytest tests/test_golden_*.py``, then ``python tests/golden_errors.py
errors.csv``. Values are relative to 1 + |recorded|, gradients to the largest of their tensor, parameters absolute.
"""

import collections
import csv
import sys

KINDS = ("value", "gradient", "parameter")


def table(path: str) -> str:
    """A line per recording: results compared, and the largest error of each kind."""
    found: dict[str, dict[str, list[float]]] = collections.defaultdict(lambda: collections.defaultdict(list))
    with open(path, encoding="utf-8", newline="") as file:
        for recording, kind, error in csv.reader(file):
            found[recording][kind].append(float(error))
    lines = ["| recording | arrays | values | gradients | parameters after updates |", "|---|---|---|---|---|"]
    for recording, kinds in sorted(found.items()):
        largest = (f"{max(kinds[kind]):.1e}" if kinds[kind] else "" for kind in KINDS)
        lines.append(f"| `{recording}` | {sum(map(len, kinds.values()))} | {' | '.join(largest)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(sys.argv[1]))
