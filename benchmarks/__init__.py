"""Measurements of Shipkeeper beside its peers; see README.md."""

import os

# As installed: modules are compiled once, not at each start, whatever the shell of who measures says.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
