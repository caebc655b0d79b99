#!/bin/sh
# mmdebstrap's hook: $1 is the new system's root, $LAB the folder with this file.
set -eu
root=$1
install -D -m 755 -t "$root/usr/local/lib/lab" "$LAB/agent.py"
install -m 644 "$LAB/agent.service" "$root/etc/systemd/system/lab-agent.service"
install -m 644 "$LAB/lan.network" "$root/etc/systemd/network/10-lan.network"
install -m 600 "$LAB/lan.nmconnection" "$root/etc/NetworkManager/system-connections/lan.nmconnection"
echo machine > "$root/etc/hostname"
printf '127.0.0.1 localhost\n127.0.1.1 machine\n::1 localhost ip6-localhost\n' > "$root/etc/hosts"
echo '/dev/vda / ext4 defaults 0 1' > "$root/etc/fstab"
chroot "$root" passwd --quiet --delete root
chroot "$root" systemctl --quiet enable lab-agent systemd-networkd systemd-resolved ssh
# Each has its own rows; they come up when a row wants them.
chroot "$root" systemctl --quiet disable NetworkManager NetworkManager-wait-online ufw firewalld
ln -sf ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
mkdir -p "$root/var/log/journal"
