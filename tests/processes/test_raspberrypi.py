"""What a Raspberry Pi's root gets, booted in QEMU: the target's mounts, rules and units in a Debian, on its layout.

Another kernel, another CPU and no boot loader of a Raspberry Pi: what systemd and udev make of it is the same.
"""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from msrt_device.flash.linux import initrd
from msrt_device.flash.linux.debian import fetch_root
from msrt_device.flash.linux.run import ToolFailed, find_tool, missing_tools, run
from msrt_device.flash.raspberrypi.ext4 import Ext4
from msrt_device.flash.raspberrypi.given import Given
from msrt_device.flash.raspberrypi.layout import MIB, write_image
from msrt_device.flash.raspberrypi.root import make_root
from msrt_device.flash.targets.raspberrypi import TOOLS

pytestmark = [pytest.mark.slow, pytest.mark.minutes, pytest.mark.timeout(900)]
INIT = """#!/bin/busybox sh
export PATH=/bin
busybox mount -t proc proc /proc
busybox --install -s /bin
mount -t devtmpfs dev /dev
mount -t sysfs sys /sys
modprobe -a -q virtio_pci virtio_blk ext4 crc32c_generic vfat nls_cp437 nls_ascii nls_iso8859_1
tries=0
until root=$(grep -lsx PARTNAME=root-a /sys/class/block/*/uevent); do
    tries=$((tries + 1))
    [ $tries -lt 100 ] || reboot -f
    sleep .1
done
mount -t ext4 -o rw,noatime "/dev/$(sed -n 's/^DEVNAME=//p' "$root")" /root
for one in dev proc sys; do mount --move /$one /root/$one; done
exec switch_root /root /usr/lib/systemd/systemd
"""
CHECK = """#!/bin/sh
# A line for each thing that holds; then the restart that the agent asks for when it tries another system.
echo # ends a line of the kernel
while read -r source place kind options rest; do
    case $place in /boot/*|/etc/msrt/*|/var/lib/msrt) echo "mounted $place $(readlink -f $source) $kind" ;; esac
done </proc/mounts
for one in boot-a boot-b root-a root-b; do echo "group $one $(stat -L -c %G /dev/disk/by-partlabel/$one)"; done
setpriv --reuid=msrt --regid=msrt --clear-groups sh -c '
    for one in /boot/msrt /etc/msrt/identity; do echo x >$one/probe && echo "agent writes $one"; done
    for one in boot-b root-b; do : <>/dev/disk/by-partlabel/$one && echo "agent opens $one"; done
    for one in boot-a root-a; do (: <>/dev/disk/by-partlabel/$one) 2>/dev/null || echo "agent keeps off $one"; done
    cat /boot/firmware/cmdline.txt 2>/dev/null || echo "agent reads no boot partition"'
install -d -m 0700 -o msrt -g msrt /etc/msrt/identity /var/lib/msrt /var/lib/msrt/device &&
    echo "package finds its folders"
echo "data $(stat -f -c '%b %S' /var/lib/msrt)"
for one in msrt-grow.service msrt-trial.service msrt-reboot.path; do
    echo "unit $one $(systemctl show -P Result $one)"
done
mkdir -p /run/msrt
printf '0 tryboot' >/run/msrt/reboot
"""
UNIT = """[Unit]
After=msrt-grow.service msrt-trial.service
[Service]
Type=oneshot
StandardOutput=tty
TTYPath=/dev/ttyS0
ExecStart=/bin/sh /etc/check
"""


@pytest.fixture
def debian(tmp_path):
    """Debian 12, unpacked, with what Raspberry Pi OS has that an unpacked root has not; kernel and initrd beside it."""
    if os.geteuid() != 0:
        pytest.skip("owners are root's to set")
    if find_tool("qemu-system-x86_64") is None:
        pytest.skip("no emulator: apt install qemu-system-x86")
    if missing := missing_tools({**TOOLS, "mmdebstrap": "mmdebstrap", "zstd": "zstd", "depmod": "kmod"}):
        pytest.skip("; ".join(missing))
    try:
        packages = fetch_root("amd64")
    except ToolFailed as error:
        pytest.skip(f"no Debian mirror can be reached: {error}")
    tree = tmp_path / "tree"
    tree.mkdir()
    unpack = ["tar", "--extract", "--zstd", "--file", str(packages), "--directory", str(tree)]
    run([*unpack, "--exclude=./usr/share/doc", "--exclude=./usr/share/locale", "--exclude=./usr/lib/firmware"])
    for name in ("passwd", "group"):  # base-passwd's own script has not run
        (tree / "etc" / name).write_bytes((tree / f"usr/share/base-passwd/{name}.master").read_bytes())
    (tree / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    sfdisk = find_tool("sfdisk")
    shutil.copy(sfdisk, tree / "usr/sbin/sfdisk")
    for line in subprocess.run(["ldd", sfdisk], capture_output=True, text=True, check=True).stdout.splitlines():
        library = line.partition("=> ")[2].partition(" ")[0]
        if library and not (tree / library.lstrip("/")).exists():
            shutil.copy(library, tree / "usr/lib/x86_64-linux-gnu")
    return tree


def image(tree, folder, monkeypatch):
    """The target's layout, with this root as its own; kernel and initrd for QEMU."""
    kernel = next((tree / "boot").glob("vmlinuz-*"))
    (folder / "init").write_text(INIT)
    monkeypatch.setattr(initrd, "INIT", folder / "init")
    (folder / "initrd").write_bytes(initrd.make_initrd(tree, kernel.name.removeprefix("vmlinuz-")))
    shutil.copy(kernel, folder / "linux")
    shutil.rmtree(tree / "boot")
    shutil.rmtree(tree / "usr/lib/modules")
    (tree / "etc/check").write_text(CHECK)
    units = tree / "etc/systemd/system"
    (units / "multi-user.target.wants").mkdir(parents=True, exist_ok=True)
    (units / "check.service").write_text(UNIT)
    (units / "multi-user.target.wants/check.service").symlink_to("../check.service")
    (units / "serial-getty@ttyS0.service").symlink_to("/dev/null")  # it hangs up on whoever writes to its line
    (units / "default.target").symlink_to("/usr/lib/systemd/system/multi-user.target")
    used = sum(path.lstat().st_size for path in tree.rglob("*") if path.is_file() and not path.is_symlink()) // MIB
    root, boot, out = folder / "root.img", folder / "boot.img", folder / "disk.img"
    run(["mke2fs", "-q", "-t", "ext4", "-d", str(tree), str(root), f"{used * 13 // 10 + 80}m"])
    make_root(root)
    slot = -(-root.stat().st_size // MIB) * MIB
    Ext4(root).grow(slot)
    boot.write_bytes(bytes(40 * MIB))
    run(["mkfs.vfat", "-F", "32", "-s", "1", "-n", "bootfs", str(boot)])
    (folder / "cmdline.txt").write_text("console=ttyS0\n")
    run(["mcopy", "-i", str(boot), str(folder / "cmdline.txt"), "::"])
    write_image(Given("trixie", "3.13", "cloud-init", boot, root), slot, out, lambda *_: None)
    os.truncate(out, out.stat().st_size + 200 * MIB)
    return out


def test_its_mounts_rules_and_units_hold_under_systemd(debian, tmp_path, monkeypatch):
    """Each partition at its place, the agent's rights and no more, room for its data; a trial is asked for."""
    disk, log = image(debian, tmp_path, monkeypatch), tmp_path / "serial.log"
    words = "root=PARTLABEL=root-a rw panic=10 msrt.slot=a console=ttyS0 systemd.show_status=no loglevel=6"
    subprocess.run(
        ["qemu-system-x86_64", "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "Nehalem", "-smp", "2", "-m",
         "1024", "-nodefaults", "-display", "none", "-no-reboot", "-kernel", str(tmp_path / "linux"), "-initrd",
         str(tmp_path / "initrd"), "-append", words, "-drive", f"file={disk},format=raw,if=virtio", "-serial",
         f"file:{log}"], stdin=subprocess.DEVNULL, timeout=700, check=True,
    )  # fmt: skip
    said = log.read_text(errors="replace").replace("\r", "")
    for line in (
        "mounted /boot/firmware /dev/vda2 vfat", "mounted /boot/msrt /dev/vda1 vfat",
        "mounted /etc/msrt/identity /dev/vda4 vfat", "mounted /var/lib/msrt /dev/vda7 ext4",
        "group boot-b msrt", "group root-b msrt", "group boot-a disk", "group root-a disk",
        "agent writes /boot/msrt", "agent writes /etc/msrt/identity", "agent opens boot-b", "agent opens root-b",
        "agent keeps off boot-a", "agent keeps off root-a", "agent reads no boot partition",
        "package finds its folders", "unit msrt-grow.service success", "unit msrt-trial.service success",
        "unit msrt-reboot.path success",
    ):  # fmt: skip
        assert f"\n{line}\n" in said, f"{line}: {said[-4000:]}"
    blocks, size = next(line for line in said.splitlines() if line.startswith("data ")).split()[1:]
    assert int(blocks) * int(size) > 230 * MIB
    assert "Restarting system with command '0 tryboot'" in said
