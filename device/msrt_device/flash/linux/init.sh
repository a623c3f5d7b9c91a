#!/bin/busybox sh
# The first program of a boot: finds the root that the boot entry names and the three partitions beside it, mounts all
# of them, hands over. So nothing of the system waits for udev to find what is known already.
# Nothing here waits longer than WAIT; a boot that cannot go on reboots, so that the boot counter sees it.
export PATH=/bin
WAIT=300 # tenths of a second

fail() {
    echo "msrt-initrd: $1; rebooting in 10 s" >/dev/console
    sleep 10
    reboot -f
}

probe() { # load what the devices that are there ask for
    cat /sys/bus/*/devices/*/modalias 2>/dev/null | sort -u | xargs -r modprobe -a -b -q 2>/dev/null
}

partition() { # $1: a GPT partition's name
    for event in /sys/class/block/*/uevent; do
        if grep -qsx "PARTNAME=$1" "$event"; then
            sed -n 's/^DEVNAME=//p' "$event"
            return 0
        fi
    done
    return 1
}

busybox mount -t proc proc /proc # where busybox finds its own name
busybox --install -s /bin
mount -t devtmpfs dev /dev
mount -t sysfs sys /sys

root=
for word in $(cat /proc/cmdline); do
    case $word in root=PARTLABEL=*) root=${word#root=PARTLABEL=} ;; esac
done
[ -n "$root" ] || fail "the boot entry names no root=PARTLABEL="

modprobe -a -q ext4 crc32c_generic vfat nls_cp437 nls_ascii nls_iso8859_1 sd_mod
tries=0
until device=$(partition "$root") && data=$(partition data) && identity=$(partition msrtid) && esp=$(partition esp); do
    [ $tries -lt 3 ] || [ $((tries % 10)) = 0 ] && probe # a bus shows its devices when its own driver is there
    tries=$((tries + 1))
    [ $tries -le $WAIT ] || fail "a partition is missing: $root, data, msrtid or esp"
    [ $tries -lt 3 ] || sleep 0.1
done

mount -t ext4 -o ro "/dev/$device" /root || fail "cannot mount $root (/dev/$device)"
mount -t ext4 -o rw,nosuid,nodev,noatime "/dev/$data" /root/var || fail "cannot mount data (/dev/$data)"
fat=rw,nosuid,nodev,noexec,gid=900 # msrt's
mount -t vfat -o "$fat,uid=900,umask=0077" "/dev/$identity" /root/identity || fail "cannot mount msrtid (/dev/$identity)"
mount -t vfat -o "$fat,umask=0007" "/dev/$esp" /root/efi || fail "cannot mount esp (/dev/$esp)"

# What /etc points to: it cannot be written, and systemd wants it before anything else runs.
os=/root/var/lib/msrt-os
mkdir -p $os
[ -s $os/hostname ] || echo msrt >$os/hostname
[ -s $os/machine-id ] || tr -d - </proc/sys/kernel/random/uuid >$os/machine-id
mount --bind $os/machine-id /root/etc/machine-id

mount --move /dev /root/dev
mount --move /proc /root/proc
mount --move /sys /root/sys
exec switch_root /root /usr/lib/systemd/systemd
