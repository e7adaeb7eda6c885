"""Say which Python and which library this service sees, and nothing else; then wait."""

import platform
import signal
from importlib.metadata import version

print(f"python {platform.python_version()}, click {version('click')}", flush=True)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
signal.sigwait([signal.SIGTERM])
