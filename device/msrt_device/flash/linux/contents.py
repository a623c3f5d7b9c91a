"""What is in a root and what is not: tables for `root`."""

from __future__ import annotations

from typing import Final

from msrt_device.flash.linux.agent import PYTHON

__all__ = ["DRIVERS_LEFT_OUT", "GROUPS", "LEFT_OUT", "MASKED", "USERS", "WANTED"]

LEFT_OUT: Final = (
    "./usr/share/doc", "./usr/share/man", "./usr/share/info", "./usr/share/locale", "./usr/share/lintian",
    "./usr/share/bug", "./usr/share/perl", "./usr/share/perl5", "./usr/lib/*/perl*", "./usr/bin/perl*",
    "./usr/share/initramfs-tools", "./usr/share/bash-completion", "./usr/share/zsh", "./usr/share/polkit-1",
    "./usr/share/doc-base", "./usr/share/common-licenses", "./usr/share/readline", "./usr/share/debianutils",
    "./usr/lib/python3", "./usr/lib/udev/hwdb.d", "./usr/lib/systemd/catalog", "./boot/System.map-*",
    "./boot/config-*", f"./usr/lib/python{PYTHON}/lib2to3", f"./usr/lib/python{PYTHON}/pydoc_data",
    "./usr/share/i18n",
)  # fmt: skip
"""Paths in the packages that are not unpacked. Licences stay readable in the cached root."""
DRIVERS_LEFT_OUT: Final = (
    "arch/x86/crypto", "arch/x86/kvm", "arch/arm64/crypto", "virt", "drivers/accessibility", "drivers/accel",
    "drivers/comedi", "drivers/edac", "drivers/firewire", "drivers/gpu", "drivers/iio/gyro", "drivers/infiniband",
    "drivers/isdn", "drivers/md", "drivers/media/dvb-frontends", "drivers/media/pci", "drivers/media/platform",
    "drivers/media/rc", "drivers/media/tuners", "drivers/media/radio", "drivers/media/usb/dvb-usb",
    "drivers/media/usb/dvb-usb-v2", "drivers/memstick", "drivers/message", "drivers/mtd",
    "drivers/net/ethernet/mellanox", "drivers/net/ethernet/chelsio", "drivers/net/ethernet/qlogic",
    "drivers/net/ethernet/netronome", "drivers/net/ethernet/cavium", "drivers/net/ethernet/sfc",
    "drivers/net/ethernet/emulex", "drivers/net/fddi", "drivers/net/hamradio", "drivers/net/ieee802154",
    "drivers/net/wan", "drivers/net/arcnet", "drivers/net/can", "drivers/ntb", "drivers/parport", "drivers/pcmcia",
    "drivers/scsi/aacraid", "drivers/scsi/be2iscsi", "drivers/scsi/bfa", "drivers/scsi/lpfc", "drivers/scsi/mpi3mr",
    "drivers/scsi/qla2xxx", "drivers/scsi/qla4xxx", "drivers/scsi/bnx2fc", "drivers/scsi/bnx2i",
    "drivers/scsi/csiostor", "drivers/scsi/fnic", "drivers/scsi/megaraid", "drivers/scsi/mpt3sas",
    "drivers/scsi/smartpqi", "drivers/staging", "drivers/target", "drivers/video", "fs/9p", "fs/afs", "fs/affs",
    "fs/befs", "fs/btrfs", "fs/ceph", "fs/coda", "fs/dlm", "fs/ecryptfs", "fs/gfs2", "fs/hfs", "fs/hfsplus",
    "fs/jffs2", "fs/jfs", "fs/minix", "fs/nfs", "fs/nfsd", "fs/nilfs2", "fs/ntfs3", "fs/ocfs2", "fs/orangefs",
    "fs/quota", "fs/reiserfs", "fs/smb", "fs/cifs", "fs/sysv", "fs/ubifs", "fs/ufs", "fs/xfs", "fs/zonefs",
    "net/batman-adv", "net/bridge/netfilter", "net/can", "net/ceph", "net/dccp", "net/ipvs", "net/netfilter/ipvs",
    "net/rds", "net/rxrpc", "net/sctp", "net/smc", "net/sunrpc", "net/tipc", "net/openvswitch", "sound/pci",
    "sound/soc", "sound/isa", "sound/firewire", "sound/drivers",
)  # fmt: skip
"""Kernel modules of servers, screens, virtual machines and rare file systems: two thirds
of them all. Storage, network, USB, cameras, USB sound, serial, I2C, SPI, GPIO and sensors stay."""
USERS: Final = (
    ("root", 0, "/root", "/bin/sh"), ("daemon", 1, "/usr/sbin", ""), ("nobody", 65534, "/nonexistent", ""),
    ("systemd-network", 998, "/", ""), ("systemd-resolve", 997, "/", ""), ("systemd-timesync", 996, "/", ""),
    ("msrt", 900, "/var/lib/msrt", ""),
)  # fmt: skip
"""Name, number, home, shell: none has a password, so nobody logs in."""
GROUPS: Final = {
    "adm": 4, "staff": 50, "tty": 5, "disk": 6, "lp": 7, "kmem": 15, "dialout": 20, "cdrom": 24, "tape": 26,
    "audio": 29, "utmp": 43, "video": 44, "shadow": 42, "input": 995, "sgx": 994, "kvm": 993, "render": 992,
    "systemd-journal": 999,
}  # fmt: skip
"""Beside each user's own: those that udev's rules and tmpfiles.d name."""
WANTED: Final = {
    "multi-user.target": (
        "msrt-device.path", "msrt-device.service", "msrt-grow.service", "msrt-no-identity.service", "msrt-reboot.path",
        "msrt-settings.service", "msrt-trial.service",
        "systemd-networkd.service", "systemd-resolved.service",
    ),
    "local-fs.target": (
        "tmp.mount",
    ),
    "sysinit.target": (
        "systemd-timesyncd.service",
    ),
    "sockets.target": (
        "systemd-networkd.socket",
    ),
}  # fmt: skip
MASKED: Final = (
    "console-getty.service", "dbus.service", "dbus.socket", "e2scrub_reap.service", "e2scrub_all.timer",
    "fstrim.timer", "getty.target", "ldconfig.service", "dev-hugepages.mount", "dev-mqueue.mount",
    "modprobe@.service", "proc-sys-fs-binfmt_misc.automount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount",
    "systemd-modules-load.service", "systemd-ask-password-console.path", "systemd-ask-password-wall.path",
    "systemd-binfmt.service", "systemd-firstboot.service", "systemd-hwdb-update.service",
    "systemd-journal-catalog-update.service", "systemd-logind.service", "systemd-machine-id-commit.service",
    "systemd-pcrphase.service", "systemd-pcrphase-sysinit.service", "systemd-sysusers.service",
    "systemd-update-done.service", "systemd-update-utmp.service", "systemd-update-utmp-runlevel.service",
    "systemd-user-sessions.service", "wpa_supplicant.service", "systemd-fsck-root.service",
    "systemd-remount-fs.service",
)  # fmt: skip
"""Work of a machine that people log in to, or whose packages change. Each costs a boot a process."""
