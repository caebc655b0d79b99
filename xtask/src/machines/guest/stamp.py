#!/usr/bin/python3
"""Says when each line came, in seconds."""
import sys
import time

while sys.stdin.buffer.readline():
    print(f"beat {time.monotonic():.3f}", flush=True)
print("end", flush=True)
