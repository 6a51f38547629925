"""What private training costs, measured: `make bench` for the table, `make growth` for sizes."""

import os

# Read when torch loads: its profiler would print a line each time that it starts and stops.
os.environ.setdefault("KINETO_LOG_LEVEL", "9")
