#!/usr/bin/python3
"""Sends 200 datagrams a second to addresses in turn, for as long as it lives: talk.py ADDRESS…"""
import socket
import sys
import time

PORT, RATE = 9999, 200
addresses = sys.argv[1:]
sockets = {
    family: socket.socket(family, socket.SOCK_DGRAM) for family in (socket.AF_INET, socket.AF_INET6)
}
number, due = 0, time.monotonic()
while True:
    address = addresses[number % len(addresses)]
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        sockets[family].sendto(b"in plain text %d" % number, (address, PORT))
    except OSError:
        # Refused is what it should be while the mesh is away.
        pass
    number += 1
    due += 1 / RATE
    time.sleep(max(0, due - time.monotonic()))
