"""The image: one file with a partition table, a boot loader, two slots of which the first is filled, and room for data.

Written into the file itself by tools that take an offset: no mount, no loop device, and for most of it no root.
"""

from __future__ import annotations

import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

from msrt.errors import LocalError
from msrt_device.flash.linux.initrd import make_initrd
from msrt_device.flash.linux.run import as_root, run
from msrt_device.updater.seed import remember_files
from msrt_device.updater.system import MEMBERS

__all__ = [
    "BOOT_LOADERS", "MIB", "ROOT_BYTES", "Partition", "System", "boot_entry", "copy_in", "make_data", "make_fat",
    "make_system", "of_nobody", "pack_system", "partitions", "write_image", "write_table",
]  # fmt: skip

MIB: Final = 2**20
SECTOR: Final = 512
ROOT_BYTES: Final = 1024 * MIB
"""Of each slot: systems grow, partitions do not."""
BOOT_LOADERS: Final = {
    "amd64": ("systemd-bootx64.efi", "BOOTX64.EFI"),
    "arm64": ("systemd-bootaa64.efi", "BOOTAA64.EFI"),
}
"""As Debian names it, and as firmware looks for it on a medium that it has not seen before."""
ROOT_TYPES: Final = {
    "amd64": "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709",
    "arm64": "B921B045-1DF0-41C3-AF44-4C6F280D3FAE",
}
"""Of the Discoverable Partitions Specification."""
CONSOLES: Final = {"amd64": "console=tty0 console=ttyS0,115200", "arm64": "console=tty0 console=ttyAMA0,115200"}


@dataclass(frozen=True)
class Partition:
    """Its GPT name is what the system finds it by."""

    name: str
    size: int
    type: str

    def __post_init__(self) -> None:
        assert self.size % MIB == 0, "partitions are whole MiB"


def partitions(architecture: str) -> tuple[Partition, ...]:
    """In the order in which they lie."""
    return (
        Partition("esp", 192 * MIB, "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"),
        Partition("msrtid", 16 * MIB, "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7"),
        Partition("root-a", ROOT_BYTES, ROOT_TYPES[architecture]),
        Partition("root-b", ROOT_BYTES, ROOT_TYPES[architecture]),
        Partition("data", 64 * MIB, "0FC63DAF-8483-4772-8E79-3D69D8477DE4"),
    )


@dataclass(frozen=True)
class System:
    """What a slot holds, as files."""

    kernel: Path
    initrd: Path
    root: Path
    """An ext4 file system, as large as it has to be."""
    loader: Path
    """systemd-boot; it is no part of a slot, and is never written again."""


def boot_entry(slot: str, version: int, architecture: str) -> str:
    """A boot entry (Boot Loader Specification, type 1): of two good ones the boot loader takes the higher version."""
    options = (
        f"root=PARTLABEL=root-{slot} msrt.slot={slot} ro quiet loglevel=3 panic=5 systemd.show_status=no "
        f"systemd.gpt_auto=0 {CONSOLES[architecture]}"
    )
    lines = {
        "title": f"msrt ({slot})", "sort-key": "msrt", "version": str(version), "linux": f"/msrt/{slot}/linux",
        "initrd": f"/msrt/{slot}/initrd", "options": options,
    }  # fmt: skip
    return "".join(f"{key} {value}\n" for key, value in lines.items())


def make_system(tree: Path, folder: Path, architecture: str) -> System:
    """Turn the root at `tree` into files in `folder`; kernel and boot loader are taken out of it. Raises ToolFailed."""
    (kernel,) = (path.name for path in (tree / "usr/lib/modules").iterdir())
    system = System(folder / "linux", folder / "initrd", folder / "root.img", folder / "loader.efi")
    system.initrd.write_bytes(make_initrd(tree, kernel))
    shutil.move(next((tree / "boot").glob("vmlinuz-*")), system.kernel)
    loaders = tree / "usr/lib/systemd/boot"
    shutil.move(loaders / "efi" / BOOT_LOADERS[architecture][0], system.loader)
    for gone in (loaders, *(tree / "boot").iterdir()):
        shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    (tree / "usr/bin/busybox").unlink()
    make_ext4(system.root, _room(tree), "root", tree, "^has_journal")
    return system


def pack_system(system: System, name: str, out: Path) -> None:
    """An image to be sent over the air: what `msrt_device.updater.system` writes to the other slot."""
    said = out.with_name(out.name + ".json")
    said.write_text(json.dumps({"name": name, "format": 1}) + "\n")
    try:
        with tarfile.open(out, "w", format=tarfile.USTAR_FORMAT) as archive:
            for member, path in zip(MEMBERS, (said, system.kernel, system.initrd, system.root), strict=True):
                archive.add(path, member, filter=of_nobody)
    finally:
        said.unlink()


def of_nobody(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member


def _room(tree: Path) -> int:
    """Bytes of a file system that holds it: its blocks, its inodes, and a little."""
    blocks = sum(-(-path.lstat().st_size // 4096) * 4096 for path in tree.rglob("*"))
    return -(-(blocks * 104 // 100 + 12 * MIB) // MIB) * MIB


def write_image(system: System, out: Path, architecture: str, progress: Callable[[int, int], None]) -> None:
    """Write the image to `out`: the system in slot a. Raises ToolFailed, LocalError (it is too large)."""
    table = partitions(architecture)
    if system.root.stat().st_size > ROOT_BYTES:
        raise LocalError(f"the system needs {system.root.stat().st_size // MIB} MiB, a slot has {ROOT_BYTES // MIB}")
    starts = write_table(out, table)
    steps: tuple[Callable[[], object], ...] = (
        lambda: _esp(out, starts["esp"], table[0].size, system, architecture),
        lambda: make_fat(out, starts["msrtid"], table[1].size, "MSRTID", 16),
        lambda: copy_in(system.root, out, starts["root-a"]),
        lambda: make_data(out, starts["data"], table[-1].size),
    )
    for done, step in enumerate(steps):
        progress(done, len(steps))
        step()
    progress(len(steps), len(steps))


def copy_in(part: Path, out: Path, start: int, *, zeros: bool = False) -> None:
    """Into the image, but for the holes: the writer leaves those as the medium was. `zeros`: holes become zeros that
    are written."""
    size = part.stat().st_size
    with part.open("rb") as source, out.open("r+b") as image:
        for begin, end in [(0, size)] if zeros else _written(source.fileno(), size):
            source.seek(begin)
            image.seek(start + begin)
            for at in range(begin, end, MIB):
                image.write(source.read(min(MIB, end - at)))


def _written(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Begin and end of what is no hole."""
    at = 0
    while at < size:
        try:
            begin = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:  # no more
            return
        at = os.lseek(fd, begin, os.SEEK_HOLE)
        yield begin, at


def write_table(out: Path, table: tuple[Partition, ...]) -> dict[str, int]:
    """Write the partition table; the start of each in bytes."""
    starts, at = {}, MIB
    for one in table:
        starts[one.name] = at
        at += one.size
    with out.open("wb") as file:
        file.truncate(at + MIB)  # the second copy of the table lies at the end
    lines = ["label: gpt", "unit: sectors", "sector-size: 512"]
    lines += [
        f"start={starts[one.name] // SECTOR}, size={one.size // SECTOR}, type={one.type}, name={one.name}"
        for one in table
    ]
    run(["sfdisk", "--quiet", str(out)], stdin="\n".join(lines) + "\n")
    return starts


def make_fat(out: Path, start: int, size: int, label: str, bits: int) -> None:
    """mkfs.vfat knows no offset in Debian 12: a file of its own, then its few written blocks."""
    with tempfile.NamedTemporaryFile(dir=out.parent, prefix="msrt-fat-") as draft:
        draft.truncate(size)
        run(["mkfs.vfat", "-F", str(bits), "-n", label, "-s", "4" if bits == 16 else "1", draft.name])
        copy_in(Path(draft.name), out, start)


def _esp(out: Path, start: int, size: int, system: System, architecture: str) -> None:
    make_fat(out, start, size, "ESP", 32)
    at = f"{out}@@{start}"
    run(["mmd", "-i", at, "::EFI", "::EFI/BOOT", "::loader", "::loader/entries", "::msrt", "::msrt/a", "::msrt/b"])
    run(["mcopy", "-i", at, str(system.loader), f"::EFI/BOOT/{BOOT_LOADERS[architecture][1]}"])
    run(["mcopy", "-i", at, str(system.kernel), str(system.initrd), "::msrt/a/"])
    # What a system over the air has in common with this one need not be sent.
    seed = system.loader.with_name("seed-a")
    seed.mkdir()
    remember_files(dict(zip(MEMBERS[1:], (system.kernel, system.initrd, system.root), strict=True)), seed)
    run(["mcopy", "-i", at, "-s", str(seed), "::msrt/"])
    for text, name in (
        ("timeout 0\neditor no\nauto-entries no\nauto-firmware no\n", "loader/loader.conf"),
        (boot_entry("a", 1, architecture), "loader/entries/msrt-a.conf"),
        (json.dumps({"version": f"factory-{version('msrt')}"}), "msrt/a.json"),
    ):
        draft = system.loader.with_name("draft")
        draft.write_text(text)
        run(["mcopy", "-i", at, str(draft), f"::{name}"])


def make_data(out: Path, start: int, size: int) -> None:
    """Zeros and all: what a medium had in a journal's place could be taken for a part of the journal."""
    with tempfile.NamedTemporaryFile(dir=out.parent, prefix="msrt-data-") as draft:
        make_ext4(Path(draft.name), size, "data", None, "has_journal")
        copy_in(Path(draft.name), out, start, zeros=True)


def make_ext4(out: Path, size: int, label: str, tree: Path | None, journal: str) -> None:
    """Unused inodes are not zeroed (their checksummed group says so); the kernel does it when there is time."""
    script = '[ -z "$1" ] || chown -R 0:0 "$1"; shift; mke2fs "$@"'
    features = ["-q", "-F", "-t", "ext4", "-b", "4096", "-L", label, "-m", "0", "-O", f"{journal},metadata_csum"]
    place = ["-E", "nodiscard,lazy_itable_init=1", *(["-d", str(tree)] if tree else []), str(out), f"{size // 1024}k"]
    as_root(script, str(tree or ""), *features, *place)
