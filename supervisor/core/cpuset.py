"""Lists of CPUs, as cpuset.cpus and the kernel's other files have them."""

from __future__ import annotations

import re

CPUSET = re.compile(r"[0-9]{1,4}(-[0-9]{1,4})?(,[0-9]{1,4}(-[0-9]{1,4})?)*")
"""As in 0-2,4."""
