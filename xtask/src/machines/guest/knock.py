#!/usr/bin/python3
"""Tries to connect to an address 50 times a second, for as long as it lives: knock.py ADDRESS PORT"""
import socket
import sys
import time

address, port = sys.argv[1], int(sys.argv[2])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
while True:
    with socket.socket(family, socket.SOCK_STREAM) as caller:
        caller.setblocking(False)
        caller.connect_ex((address, port))
        time.sleep(1 / 50)
