"""Files on FAT volumes that are not mounted: what we write, mtools reads and fsck finds sound, and back."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msrt.errors import CallerError
from msrt_device.flash.identity.medium import SettingNotTaken, read_identity, write_identity
from msrt_device.flash.identity.settings import IdentitySettings, Wifi
from msrt_device.flash.volumes.fat import FatVolume, VolumeFull
from msrt_device.flash.volumes.partitions import Partition, partitions
from msrt_device.flash.writing.errors import BadImage
from tests.device.flash.media import IDENTITY_AT, MIB, Medium, disk, run, tools, volume_file

SETTINGS = IdentitySettings(
    invite="msrt1-" + "b" * 100, name="oven-7", serial="SN-1", labels={"site": "a"},
    wifi=Wifi(ssid="hall", password="correct horse", country="DE"),
)  # fmt: skip


def sound(path, medium):
    medium.sync()
    path.write_bytes(bytes(medium.held))
    found = subprocess.run(["fsck.vfat", "-n", "-v", str(path)], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout
    return path


class Live(Medium):
    """Without a cache, so that what was just written can be read."""

    def write(self, offset, data):
        super().write(offset, data)
        self.sync()


@pytest.fixture(params=[12, 16, pytest.param(32, marks=pytest.mark.slow)])
def volume(request, tmp_path):
    """Each width of FAT, as mkfs.vfat makes it."""
    path = volume_file(tmp_path / "volume", request.param)
    data = path.read_bytes()
    medium = Live(len(data), content=data)
    return path, medium, FatVolume.open(medium, Partition(1, 0, len(data), ""))


@tools
def test_what_we_write_mtools_reads(volume):
    """Long names, an empty file, another content for a file that is there; fsck is content."""
    path, medium, ours = volume
    assert ours.label == "MSRTID"
    files = {
        "identity.toml": b"a = 1\n" * 900,
        "user-data": b"#cloud-config\n",
        "empty": b"",
        "Mixed.Case.txt": b"x" * 513,
    }
    for name in files:
        ours.write(name, b"before")
    for name, data in files.items():
        ours.write(name, data)
    sound(path, medium)
    for name, data in files.items():
        assert run("mtype", "-i", path, f"::{name}") == data
        assert ours.read(name.upper()) == data
    assert sorted(ours.names()) == sorted(files)


@tools
def test_what_mtools_writes_we_read_and_remove(volume, tmp_path):
    """Its bytes are zeros afterwards, and the others stay."""
    path, _, _ = volume
    (tmp_path / "a longer name.txt").write_bytes(b"secret" * 700)
    run("mcopy", "-i", path, tmp_path / "a longer name.txt", "::")
    run("mcopy", "-i", path, tmp_path / "a longer name.txt", "::SHORT.TXT")
    data = path.read_bytes()
    medium = Live(len(data), content=data)
    ours = FatVolume.open(medium, Partition(1, 0, len(data), ""))
    assert ours.read("a longer name.txt") == ours.read("short.txt") == b"secret" * 700
    ours.remove("short.txt")
    ours.remove("a longer name.txt")
    assert b"secret" not in medium.held
    assert ours.names() == []
    sound(path, medium)


@tools
@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["a.txt", "a much longer name.toml", "A Much.Longer", "b"]), st.integers(-1, 9000)),
        max_size=12,
    )
)
def test_any_order_of_writes_and_removals_leaves_a_sound_volume(volume, tmp_path, steps):
    """The files are those of a dictionary that was treated the same way."""
    _, medium, ours = volume
    for name in ours.names():
        ours.remove(name)
    model = {}
    for number, (name, size) in enumerate(steps):
        if size < 0:
            assert ours.remove(name) == (model.pop(name, None) is not None)
        else:
            model[name] = bytes([number + 1]) * size
            ours.write(name, model[name])
    assert {name: ours.read(name) for name in ours.names()} == model
    sound(tmp_path / "checked", medium)


@tools
def test_a_full_volume_and_a_bad_name_are_refused(volume):
    """Before anything is changed but the file of that name."""
    path, medium, ours = volume
    with pytest.raises(VolumeFull, match="no room"):
        ours.write("big", bytes(len(medium.held)))
    with pytest.raises(CallerError):
        ours.write("a/b", b"")
    sound(path, medium)


def fill(ours, count):
    for number in range(count):
        ours.write(f"a file with a long name {number}.txt", str(number).encode())


@tools
@pytest.mark.slow
def test_fat32_grows_its_root_directory(tmp_path):
    """By clusters, which no file has."""
    data = volume_file(tmp_path / "volume", 32).read_bytes()
    medium = Live(len(data), content=data)
    ours = FatVolume.open(medium, Partition(1, 0, len(data), ""))
    fill(ours, 30)
    assert [ours.read(f"a file with a long name {number}.txt") for number in range(30)] == [
        str(number).encode() for number in range(30)
    ]
    sound(tmp_path / "volume", medium)


@tools
def test_the_root_directory_of_fat12_has_an_end(tmp_path):
    """The file that did not fit leaves nothing behind."""
    data = volume_file(tmp_path / "volume", 12).read_bytes()
    medium = Live(len(data), content=data)
    ours = FatVolume.open(medium, Partition(1, 0, len(data), ""))
    with pytest.raises(VolumeFull, match="full"):
        fill(ours, 512)
    sound(tmp_path / "volume", medium)


@tools
@pytest.mark.parametrize("label", ["gpt", "dos"])
def test_the_identity_is_found_by_its_label_and_read_back(tmp_path, label):
    """In either kind of partition table; the other volume is left alone."""
    data = disk(tmp_path, label)
    medium = Live(len(data), content=data)
    assert [one.offset for one in partitions(medium)] == [MIB, IDENTITY_AT]
    write_identity(medium, len(data), SETTINGS)
    assert read_identity(medium, len(data)) == SETTINGS
    assert medium.held[:IDENTITY_AT] == data[:IDENTITY_AT]
    (tmp_path / "out").write_bytes(bytes(medium.held))
    assert b'name = "oven-7"' in run("mtype", "-i", f"{tmp_path / 'out'}@@3M", "::identity.toml")


@tools
def test_a_setting_that_did_not_take_is_an_error_that_names_it(tmp_path):
    """A medium that says yes and keeps something else; secrets are named, not shown."""

    class Forgets(Live):
        def write(self, offset, data):
            super().write(offset, memoryview(bytes(data).replace(b'"DE"', b'"FR"').replace(b"correct", b"incorre")))

    data = disk(tmp_path, "gpt")
    with pytest.raises(SettingNotTaken) as raised:
        write_identity(Forgets(len(data), content=data), len(data), SETTINGS)
    assert raised.value.settings == ["wifi.country", "wifi.password"]
    assert "'FR' instead of 'DE'" in str(raised.value)
    assert "horse" not in str(raised.value)


@tools
def test_a_damaged_partition_table_is_refused(tmp_path):
    """By its checksum, whichever byte it is."""
    data = bytearray(disk(tmp_path, "gpt"))
    for at in (512 + 60, 1024 + 40):
        broken = data.copy()
        broken[at] ^= 1
        with pytest.raises(BadImage, match="damaged"):
            partitions(Medium(len(data), content=broken))
