#!/bin/sh
# Puts what the lab brought along, beside this file, to its places. Run in the machine.
set -eu
cd "$(dirname "$0")"
install -D -m 755 -t /usr/local/lib/lab talk.py stamp.py
for unit in web web6 talk; do
    install -m 644 "$unit.service" "/etc/systemd/system/lab-$unit.service"
done
install -D -m 600 authorized /root/.ssh/authorized_keys
install -D -m 600 identity /root/.ssh/id_ed25519
install -D -m 644 config.yaml /etc/meshhold/config.yaml
install -D -m 600 home.key /run/home.key
systemctl daemon-reload
systemctl --quiet enable --now lab-web lab-web6
