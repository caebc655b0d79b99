"""A neighbour of the relay, in a namespace of its own: does what each line of its input says and answers with a line."""

import json
import select
import socket
import struct
import sys
import time

UDP_SEGMENT = 103
sockets = {}


def family(host):
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def open_socket(host, port):
    found = socket.socket(family(host), socket.SOCK_DGRAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
    if family(host) == socket.AF_INET:
        # Cut what is too long instead of refusing it.
        found.setsockopt(socket.IPPROTO_IP, 10, 0)
    found.bind((host, port))
    sockets[f"{host} {port}"] = found


def send(of, to, data, segment=0, hops=64):
    found = sockets[of]
    if found.family == socket.AF_INET:
        found.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, hops)
    else:
        found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, hops)
    extra = [(socket.SOL_UDP, UDP_SEGMENT, struct.pack("H", segment))] if segment else []
    found.sendmsg([bytes.fromhex(data)], extra, 0, tuple(to))


def take(of, count, wait):
    """So many datagrams, or fewer when nothing more comes."""
    found, taken = sockets[of], []
    while len(taken) < count and select.select([found], [], [], wait)[0]:
        data, source = found.recvfrom(65536)
        taken.append([source[0], source[1], data.hex()])
    return taken


def flood(of, to, data, seconds):
    """Sends as fast as it can, with pauses that leave others the processor."""
    found, data, sent, start = sockets[of], bytes.fromhex(data), 0, time.monotonic()
    while time.monotonic() < start + seconds:
        for _ in range(20):
            found.sendto(data, tuple(to))
            sent += 1
        time.sleep(0.001)
    return [sent, time.monotonic() - start]


def labels(of, to, tail, first, last):
    """One datagram for each label."""
    for label in range(first, last):
        sockets[of].sendto(struct.pack(">II", 0x05000000, label) + bytes.fromhex(tail), tuple(to))
        if label % 200 == 0:
            time.sleep(0.002)


DOES = {"open": open_socket, "send": send, "take": take, "flood": flood, "labels": labels}
for line in sys.stdin:
    what, arguments = json.loads(line)
    print(json.dumps(DOES[what](*arguments)), flush=True)
