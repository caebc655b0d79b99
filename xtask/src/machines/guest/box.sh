#!/bin/bash
# A system in namespaces: box.sh DISK DELIVERY PLACE, run where network and mounts are its own already. The disk stays as it
# is: changes go to memory. /proc/sys and /sys are read-only but for the network and the BPF file system, so nothing of the
# machine underneath is touched.
set -eu
disk=$1 delivery=$2 place=$3
work=/run/box
mkdir -p $work
mount -t tmpfs tmpfs $work
mkdir $work/lower $work/upper $work/work $work/root
mount -o loop,ro,noload "$disk" $work/lower
mount -t overlay overlay -o lowerdir=$work/lower,upperdir=$work/upper,workdir=$work/work $work/root
mkdir -p "$work/root$place"
mount --bind "$delivery" "$work/root$place"
# The host's control groups may be of the older kind: only the unified tree is of use.
mkdir -p $work/cgroup
mount -t cgroup2 cgroup2 $work/cgroup
group=$work/cgroup/meshhold-box-$$
mkdir $group
echo $$ > $group/cgroup.procs
cat > $work/inside.sh <<'INSIDE'
set -eu
root=/run/box/root
mount -t proc proc $root/proc
mount --bind $root/proc/sys $root/proc/sys
mount --bind $root/proc/sys/net $root/proc/sys/net
mount -o remount,bind,ro $root/proc/sys
mount -t sysfs sysfs $root/sys
mount -t cgroup2 cgroup2 $root/sys/fs/cgroup
mount -t bpf bpf $root/sys/fs/bpf
mount -o remount,bind,ro $root/sys
mount -t tmpfs -o mode=755 tmpfs $root/dev
for device in null zero full random urandom tty; do
    cp -a /dev/$device $root/dev/
done
mkdir $root/dev/net $root/dev/pts $root/dev/shm
cp -a /dev/net/tun $root/dev/net/
mount -t devpts -o newinstance,ptmxmode=666 devpts $root/dev/pts
ln -s pts/ptmx $root/dev/ptmx
ln -s /proc/self/fd $root/dev/fd
touch $root/dev/console
mount -t tmpfs -o mode=755 tmpfs $root/run
cd $root
mkdir -p old
pivot_root . old
umount -l /old
exec env -i container=box PATH=/usr/sbin:/usr/bin setpriv --bounding-set=-sys_time,-sys_module,-sys_rawio,-syslog,-mknod \
    /sbin/init < /dev/null > /dev/console 2>&1
INSIDE
exec unshare --pid --fork --kill-child --uts --ipc --cgroup --mount bash $work/inside.sh
