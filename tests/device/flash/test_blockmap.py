"""Block maps: of holes, as bmaptool writes and reads them, and what is refused of a stranger's."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from msrt_device.flash.writing.blockmap import BLOCK, BlockMap
from msrt_device.flash.writing.errors import BadImage
from tests.device.flash.media import MIB, noise

bmaptool = pytest.mark.skipif(shutil.which("bmaptool") is None, reason="needs bmap-tools")


@pytest.fixture
def sparse(tmp_path):
    """Data, a hole, data, a hole to an end that is no whole block."""
    path = tmp_path / "sparse.img"
    with path.open("wb") as file:
        file.write(noise(70_000))
        file.seek(3 * MIB)
        file.write(noise(9000))
        file.truncate(6 * MIB + 100)
    return path


def test_holes_are_not_mapped(sparse):
    """Extents are whole blocks, and cover every byte that is not zero."""
    found = BlockMap.of_file(sparse)
    assert found.size == 6 * MIB + 100
    assert [extent.offset for extent in found.extents] == [0, 3 * MIB]
    assert all(extent.length % BLOCK == 0 for extent in found.extents)
    data = sparse.read_bytes()
    assert not any(data[found.extents[0].end : 3 * MIB])
    assert BlockMap.parse(found.render(), "x.bmap") == found


@bmaptool
def test_bmaptool_and_we_agree(sparse, tmp_path):
    """It reads ours and copies by it; we read its own, with the same ranges and digests."""
    ours, its = tmp_path / "ours.bmap", tmp_path / "its.bmap"
    ours.write_text(BlockMap.of_file(sparse).render())
    subprocess.run(["bmaptool", "create", str(sparse), "-o", str(its)], check=True, capture_output=True)
    assert BlockMap.parse(its.read_text(), "its") == BlockMap.of_file(sparse)
    copy = tmp_path / "copy.img"
    subprocess.run(["bmaptool", "copy", "--bmap", str(ours), str(sparse), str(copy)], check=True, capture_output=True)
    assert copy.read_bytes() == sparse.read_bytes()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("<BlockSize> 4096", "<BlockSize> 1000", "damaged"),
        ("<ImageSize>", "<ImageNumber>", "ImageSize"),
        ("sha256 </ChecksumType>", "sha1 </ChecksumType>", "sha1"),
        ("<bmap", "<!ENTITY x><bmap", "no block map"),
        ("> 0-", "> 9-", "damaged"),
    ],
)
def test_a_bad_block_map_is_refused(sparse, old, new, said):
    """Naming the file and the fault."""
    text = BlockMap.of_file(sparse).render()
    assert old in text
    with pytest.raises(BadImage, match=said):
        BlockMap.parse(text.replace(old, new), "x.bmap")


def test_ranges_out_of_order_are_refused():
    """Also in a map without a checksum of its own."""
    text = "<bmap><ImageSize>8192</ImageSize><BlockSize>4096</BlockSize><Range> 1 </Range><Range> 0 </Range></bmap>"
    with pytest.raises(BadImage, match="out of order"):
        BlockMap.parse(text, "x.bmap")
