"""Carries packets between two interfaces without link headers: `tl` in this namespace, and `tl` in the one named."""

import ctypes
import fcntl
import os
import select
import struct
import sys

IFF_TUN, IFF_NO_PI, TUNSETIFF, CLONE_NEWNET = 1, 0x1000, 0x400454CA, 0x40000000


def tun():
    found = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(found, TUNSETIFF, struct.pack("16sH22x", b"tl", IFF_TUN | IFF_NO_PI))
    return found


here = tun()
with open(f"/run/netns/{sys.argv[1]}") as namespace:
    if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET):
        sys.exit(f"setns: {os.strerror(ctypes.get_errno())}")
there = tun()
print("ready", flush=True)
while True:
    for side in select.select([here, there], [], [])[0]:
        packet = os.read(side, 65536)
        try:
            os.write(there if side == here else here, packet)
        except OSError:
            # The other side isn't up yet.
            pass
