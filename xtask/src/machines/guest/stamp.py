#!/usr/bin/python3
"""Runs a command and says when each of its lines came, in seconds: stamp.py COMMAND… It ends with this program."""
import ctypes
import signal
import subprocess
import sys
import time

PR_SET_PDEATHSIG = 1


def die_together():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


session = subprocess.Popen(
    sys.argv[1:], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, preexec_fn=die_together
)
while session.stdout.readline():
    print(f"beat {time.monotonic():.3f}", flush=True)
print("end", flush=True)
