#!/bin/busybox sh
# Runs as process 1 of a machine with nothing else: two nodes in two network namespaces, services, and the tests of the kernel
# programs. What it prints after RESULT is a name and a value.
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox --install -s /bin
export PATH=/usr/bin:/bin HOME=/tmp
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mount -t bpf bpf /sys/fs/bpf
for module in /modules/*.ko; do insmod "$module"; done
mkdir -p /dev/net
[ -e /dev/net/tun ] || mknod /dev/net/tun c 10 200
# The shell would take busybox's.
ip=/usr/bin/ip
say() { echo "RESULT $*"; }

$ip link set lo up
$ip netns add far
$ip link add near0 type veth peer name far0 netns far
$ip addr add 10.9.0.1/24 dev near0
$ip link set near0 up
$ip -n far addr add 10.9.0.2/24 dev far0
$ip -n far link set far0 up
$ip -n far link set lo up

configure() {
    mkdir -m 700 /tmp/$1
    cat > /tmp/$1.yaml <<YAML
node:
  name: $1
  data_dir: /tmp/$1
discovery:
  lan: false
  port_mapping: false
api: {listen_addr: off}
relay:
  enabled: true
$2
YAML
}
near() { meshhold "$@" --config /tmp/near.yaml; }
far() { $ip netns exec far meshhold "$@" --config /tmp/far.yaml; }
configure near
id=$(near id | grep -o '12D3[A-Za-z0-9]*' | head -n 1)
configure far "bootstrap_peers:
  - /ip4/10.9.0.1/udp/7777/quic-v1/p2p/$id"
near mgmt-keys add --name home --caps mesh-route --never-expires --allow tcp:8000 --allow tcp:8001 > /tmp/key
far mgmt-keys add --name home --caps mesh-route --never-expires --key - < /tmp/key
near daemon > /tmp/near.log 2>&1 &
far daemon > /tmp/far.log 2>&1 &
labtool serve tcp 127.0.0.1 8000 &
labtool serve tcp ::1 8001 &
labtool serve tcp :: 8002 &
# Tries a command until it succeeds, for two minutes.
wait_for() {
    tries=0
    until "$@"; do
        tries=$((tries + 1))
        [ $tries -gt 240 ] && break
        sleep 0.5
    done
}
runs() { near meshlan status > /tmp/status 2> /dev/null && grep -q '^running: yes' /tmp/status; }
wait_for runs
sed -n 's/^datapath: \([a-z]*\).*/RESULT mode \1/p' /tmp/status
sed -n 's/^datapath: [a-z]* (\([a-z]*\)).*/RESULT hook \1/p' /tmp/status
# Of names there is no need to speak here.
sed -n '/resolve/!s/^warning: /RESULT warning /p' /tmp/status
four=$(grep -oE '198\.1[89]\.[0-9.]+' /tmp/status | head -n 1)
six=$(grep -oE 'fd12:[0-9a-f:]+' /tmp/status | head -n 1)
answers() { $ip netns exec far ping -c 1 -W 1 "$four" > /dev/null 2>&1; }
wait_for answers
ask() {
    if $ip netns exec far labtool await "$1" "$2" 5000 > /dev/null 2>&1; then echo reached; else echo silent; fi
}
say loopback-4 $(ask "$four" 8000)
say loopback-6 $(ask "$six" 8000)
say native-6 $(ask "$six" 8001)
say closed-4 $(ask "$four" 8002)
say closed-6 $(ask "$six" 8002)
say explain $(near meshlan explain tcp "$four:8000" | grep -oE 'pass|drop' | head -n 1)
if grep -q 'no kernel relay' /tmp/near.log; then say relay workers; else say relay kernel; fi

# Several test programs' lines: `NAME: N instructions verified, …`.
kernel-tests --test-threads=1 --nocapture the_verifier_accepts > /tmp/verified 2>&1 && say budget ok
sed -n 's/^\(.*\.\.\. \)\{0,1\}\([a-z_]*\): \([0-9]*\) instructions verified.*/RESULT verified \2 \3/p' /tmp/verified
kernel-tests --test-threads=1 deny::exactly_the_scope_passes > /tmp/policy 2>&1 && say policy ok
# What the kernel itself complains of (a verifier that contradicts itself says so there).
say complaints $(dmesg | grep -cE 'verifier bug|REG INVARIANTS|BUG:|WARNING:|Oops')
tail -n 12 /tmp/near.log /tmp/far.log /tmp/status /tmp/verified /tmp/policy | sed 's/^/log: /'
poweroff -f
