"""The first system of a boot: busybox, `init.sh`, and the modules that reach a disk. A cpio archive, made here.

Ours and not initramfs-tools': the same for every CPU without running anything of it, 3 MB, and it knows the one thing
that it has to do.
"""

from __future__ import annotations

import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from msrt_device.flash.linux.run import run

__all__ = ["MODULES", "cpio", "make_initrd"]

INIT: Final = Path(__file__).with_name("init.sh")
MODULES: Final = (
    "ahci", "ata_piix", "ehci_pci", "ext4", "crc32c_generic", "hid_generic", "mmc_block", "nvme", "sd_mod",
    "sdhci_acpi", "sdhci_pci", "sdhci_iproc", "uas", "usb_storage", "vfat", "nls_ascii", "nls_cp437", "nls_iso8859_1",
    "virtio_blk", "virtio_mmio", "virtio_pci", "virtio_scsi", "xhci_pci", "phy_generic", "dw_mmc_pltfm", "meson_gx_mmc",
    "sdhci_of_dwcmshc", "sdhci_of_arasan",
)  # fmt: skip
"""What boards boot from; one that this CPU's kernel has not, or has built in, is passed over."""


def make_initrd(tree: Path, version: str) -> bytes:
    """The initrd (zstd) for the kernel `version` of the root at `tree`; takes busybox from there. Raises ToolFailed."""
    with tempfile.TemporaryDirectory(prefix="msrt-initrd-") as scratch:
        small = Path(scratch) / "root"
        for name in ("bin", "dev", "proc", "sys", "root"):
            (small / name).mkdir(parents=True)
        (small / "lib").mkdir()
        shutil.copyfile(tree / "usr/bin/busybox", small / "bin/busybox")
        shutil.copyfile(INIT, small / "init")
        for path in (small / "bin/busybox", small / "init"):
            path.chmod(0o755)
        _modules(tree / "usr/lib/modules" / version, small / "lib/modules" / version)
        run(["depmod", "--basedir", str(small), version])
        archive = Path(scratch) / "initrd"
        archive.write_bytes(cpio(small))
        run(["zstd", "-q", "-15", str(archive), "-o", f"{archive}.zst"])
        return Path(f"{archive}.zst").read_bytes()


def _modules(all_of_them: Path, into: Path) -> None:
    """Copy those of MODULES that there are, with all that they depend on."""
    files = {_module_name(path): path for path in (all_of_them / "kernel").rglob("*.ko*")}
    todo: list[str] = [name for name in MODULES if name in files]
    taken: set[str] = set()
    while todo:
        name = todo.pop()
        if name in taken or name not in files:
            continue
        taken.add(name)
        todo += _depends(files[name])
    for name in taken:
        to = into / files[name].relative_to(all_of_them)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(files[name], to)
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        if (all_of_them / name).exists():
            shutil.copyfile(all_of_them / name, into / name)


def _module_name(path: Path) -> str:
    return path.name.partition(".")[0].replace("-", "_")


def _depends(path: Path) -> list[str]:
    said = run(["modinfo", "--field", "depends", str(path)]) + "," + run(["modinfo", "--field", "softdep", str(path)])
    words = said.replace("pre:", " ").replace("post:", " ").replace(",", " ").split()
    return [word.replace("-", "_") for word in words]


def cpio(folder: Path) -> bytes:
    """A folder as a cpio archive of the kernel's kind (newc), all of it root's, the same bytes for the same content."""
    out = bytearray()
    for number, (name, path) in enumerate(_walk(folder)):
        status = path.lstat()
        data = str(path.readlink()).encode() if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        out += _member(name, status.st_mode, number, data)
    out += _member("dev/console", stat.S_IFCHR | 0o600, 0x7FFFFFFE, b"", device=(5, 1))
    out += _member("TRAILER!!!", 0, 0, b"")
    return bytes(out)


def _walk(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        yield str(path.relative_to(folder)), path


def _member(name: str, mode: int, number: int, data: bytes, device: tuple[int, int] = (0, 0)) -> bytes:
    """Thirteen numbers of eight hexadecimal digits, the name, the data; each padded to four bytes."""
    spelled = name.encode() + b"\0"
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(spelled), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + spelled
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)
