"""Helper of live.rs and judge.rs. `wire NAME` makes an interface here and one in a new network namespace, carries packets with
their virtio headers between them, and prints the namespace's process id. `check PID` starts services here, on every
kind of bind, and reaches them from there. `inject NAME LAN` makes a silent interface and the cable of another one, and
sends the packets that it reads, a line each: `in HEX` out of the mesh, `out HEX` into it, `lan HEX` by the cable."""

import ctypes
import fcntl
import os
import select
import socket
import struct
import subprocess
import sys
import threading

OWN4, PEER4 = "198.18.0.1", "198.18.0.17"
OWN6, PEER6 = "fd12:1:86dd:1::1", "fd12:1:86dd:9::1"
MTU = 1420
# The kernel's own translation adds 20 bytes of header, and 8 to fragments.
CALLER_MTU = MTU - 28
CLONE_NEWNET = 0x40000000
TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
# IFF_TUN | IFF_NO_PI | IFF_VNET_HDR; checksum, TSO4, TSO6, TSO_ECN, USO4, USO6.
PLAIN = 0x1001  # IFF_TUN | IFF_NO_PI
MODE, OFFLOADS = 0x5001, 0x01 | 0x02 | 0x04 | 0x08 | 0x20 | 0x40
LIBC = ctypes.CDLL(None, use_errno=True)


def run(line):
    subprocess.run(line.split(), check=True)


def set_value(name, value):
    with open("/proc/sys/" + name, "w") as file:
        file.write(value)


def tun(name):
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), MODE))
    fcntl.ioctl(fd, TUNSETOFFLOAD, OFFLOADS)
    return fd


def configure(name, ipv4, ipv6):
    set_value(f"net/ipv6/conf/{name}/accept_dad", "0")
    run("ip link set lo up")
    run(f"ip link set {name} mtu {MTU} up")
    run(f"ip addr add {ipv4}/18 dev {name}")
    run(f"ip addr add {ipv6}/32 dev {name} nodad")


def enter(pid):
    with open(f"/proc/{pid}/ns/net") as namespace:
        if LIBC.setns(namespace.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")


def wire(name):
    here = tun(name)
    configure(name, OWN4, OWN6)
    set_value(f"net/ipv4/conf/{name}/route_localnet", "1")
    set_value(f"net/ipv4/conf/{name}/rp_filter", "1")
    run(f"ip route add 127.64.0.0/10 dev {name} table local mtu {CALLER_MTU}")
    if LIBC.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    there = tun(name)
    configure(name, PEER4, PEER6)
    print(os.getpid(), flush=True)
    other = {here: there, there: here}
    while True:
        for fd in select.select([here, there, 0], [], [])[0]:
            if fd == 0:
                return
            try:
                os.write(other[fd], os.read(fd, 70000))
            except OSError as error:
                print("wire:", error, file=sys.stderr)


def inject(name, lan):
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), PLAIN))
    run(f"ip link add {lan} type veth peer name cable")
    for interface in (name, lan, "cable"):
        set_value(f"net/ipv6/conf/{interface}/disable_ipv6", "1")
        run(f"ip link set {interface} up")
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    print("ready", flush=True)
    for line in sys.stdin:
        way, text = line.split()
        packet = bytes.fromhex(text)
        kind = 0x86DD if packet[0] >> 4 == 6 else 0x0800
        try:
            if way == "in":
                os.write(fd, packet)
            elif way == "out":
                raw.sendto(packet, (name, kind))
            else:
                raw.sendto(bytes(12) + struct.pack(">H", kind) + packet, ("cable", kind))
            print("sent", flush=True)
        except OSError as error:
            print("refused", error, flush=True)


def serve_tcp(listener, seen):
    while True:
        connection, caller = listener.accept()
        seen.append(caller[0])
        threading.Thread(target=echo_tcp, args=(connection,), daemon=True).start()


def echo_tcp(connection):
    while data := connection.recv(1 << 18):
        connection.sendall(data)
    connection.close()


def serve_udp(server, seen):
    while True:
        data, caller = server.recvfrom(70000)
        seen.append(caller[0])
        server.sendto(data, caller)


def service(kind, address, port, dual=False):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    server = socket.socket(family, kind)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if dual else 1)
    server.bind((address, port))
    seen = []
    if kind == socket.SOCK_STREAM:
        server.listen()
        threading.Thread(target=serve_tcp, args=(server, seen), daemon=True).start()
    else:
        threading.Thread(target=serve_udp, args=(server, seen), daemon=True).start()
    return seen


def ask_tcp(address, port, size):
    data = os.urandom(1 << 16) * (size >> 16)
    with socket.create_connection((address, port), timeout=5) as connection:
        sender = threading.Thread(target=lambda: (connection.sendall(data), connection.shutdown(socket.SHUT_WR)))
        sender.start()
        answer = bytearray()
        while part := connection.recv(1 << 18):
            answer += part
        sender.join()
    return answer == data


def ask_udp(address, port, size):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.settimeout(3)
        client.connect((address, port))
        data = os.urandom(size)
        client.send(data)
        return client.recv(70000) == data


def check(pid):
    tcp, udp = socket.SOCK_STREAM, socket.SOCK_DGRAM
    # Kind, bind address, dual stack, reachable by IPv4, by IPv6.
    plan = [
        (tcp, "127.0.0.1", False, True, True),
        (tcp, "0.0.0.0", False, True, True),
        (tcp, "::", True, True, True),
        (tcp, "::", False, False, True),
        (tcp, "::1", False, False, True),
        (tcp, OWN4, False, True, False),
        (tcp, OWN6, False, False, True),
        (udp, "127.0.0.1", False, True, True),
        (udp, "0.0.0.0", False, True, True),
        (udp, "::", True, True, True),
        (udp, "::", False, False, True),
        (udp, OWN4, False, True, False),
        (udp, OWN6, False, False, True),
        (udp, "::1", False, False, True),
    ]
    cases = []
    for number, (kind, bind, dual, four, six) in enumerate(plan):
        seen = service(kind, bind, 7000 + number, dual)
        for address, wanted in ((OWN4, four), (OWN6, six)):
            cases.append((kind, bind, dual, address, 7000 + number, wanted, seen))
    wrong = 0
    enter(pid)
    for kind, bind, dual, address, port, wanted, seen in cases:
        what = f"{'tcp' if kind == tcp else 'udp'} {bind}{' dual' if dual else ''} by {address}"
        sizes = (1 << 16, 1 << 23) if kind == tcp else (64, 1392, 1420, 8000, 60000)
        for size in sizes if wanted else sizes[:1]:
            del seen[:]
            try:
                reached = ask_tcp(address, port, size) if kind == tcp else ask_udp(address, port, size)
            except OSError as error:
                reached = error
            caller = seen[0] if seen else None
            good = (reached is True) == wanted
            wrong += not good
            print("ok   " if good else "WRONG", what, size, "bytes:", reached, "caller", caller, flush=True)
    closed = 0
    for address in (OWN4, OWN6):
        try:
            socket.create_connection((address, 6999), timeout=0.5)
        except TimeoutError:
            closed += 1
    print("closed port silent:", closed == 2)
    sys.exit(1 if wrong or closed != 2 else 0)


if sys.argv[1] == "wire":
    wire(sys.argv[2])
elif sys.argv[1] == "inject":
    inject(*sys.argv[2:])
else:
    check(sys.argv[2])
