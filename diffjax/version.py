"""The version, where everything else may read it."""

__version__ = "0.1.0"
