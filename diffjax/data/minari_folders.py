"""Where Minari's data sets lie on this machine; Minari itself is not asked."""

import json
import os
import re
from pathlib import Path
from typing import Any

from diffjax.errors import UserError

ID = re.compile(r"(?!./[^/]*$)([-\w]+/)*[-\w]+-v\d+")  # Minari takes no namespace of one character


def datasets_root() -> Path:
    """Folder of the local Minari data sets."""
    root = os.environ.get("MINARI_DATASETS_PATH")
    return Path(root) if root is not None else Path.home() / ".minari" / "datasets"


def minari_exists(dataset_id: str) -> bool:
    """Whether a whole data set of that id is stored locally.

    Raises:
      UserError: the id is malformed.
    """
    return is_complete(dataset_folder(dataset_id))


def dataset_folder(dataset_id: str) -> Path:
    """The folder of a data set.

    Raises:
      UserError: the id is malformed.
    """
    if not ID.fullmatch(dataset_id):
        raise UserError(f"{dataset_id!r} is neither a file nor a Minari id; an id reads namespace/name-v0")
    return datasets_root() / dataset_id


def counts(metadata: dict[str, Any]) -> bool:
    """Whether metadata say that all was written."""
    # Minari counts the episodes last, so positive counts say that they were all written.
    return all(isinstance(metadata.get(key), int) and metadata[key] > 0 for key in ("total_episodes", "total_steps"))


def is_complete(folder: Path) -> bool:
    """Whether a folder holds a whole data set."""
    try:
        metadata = json.loads((folder / "data" / "metadata.json").read_text())
    except (OSError, ValueError):
        return False
    return isinstance(metadata, dict) and counts(metadata)
