"""Imports every module of the installed package, and fails with the first that cannot be; not a test by itself."""

import importlib
import pkgutil
import sys

import diffjax

modules = [one.name for one in pkgutil.walk_packages(diffjax.__path__, "diffjax.")]
for module in modules:
    importlib.import_module(module)
print(f"Python {sys.version.split()[0]}: {len(modules)} modules of diffjax {diffjax.__version__} are imported")
