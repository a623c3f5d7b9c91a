"""The Debian package, installed by dpkg into a root of Debian 12, whose programs then run."""

from __future__ import annotations

import os
import subprocess

import pytest

from msrt_device.flash.linux.debian import fetch_root
from msrt_device.flash.linux.run import ToolFailed, missing_tools, run
from msrt_device.flash.targets import load_target
from tests.bench.tree import MSRT, Proc

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def root(tmp_path):
    """Debian 12, unpacked."""
    if os.geteuid() != 0:
        pytest.skip("chroot is root's")
    if missing := [
        *missing_tools({"mmdebstrap": "mmdebstrap", "zstd": "zstd"}),
        *load_target("generic-systemd").needs(),
    ]:
        pytest.skip("; ".join(missing))
    try:
        packages = fetch_root("amd64")
    except ToolFailed as error:
        pytest.skip(f"no Debian mirror can be reached: {error}")
    folder = tmp_path / "root"
    folder.mkdir(mode=0o755)
    unpack = ["tar", "--extract", "--zstd", "--file", str(packages), "--directory", str(folder)]
    run([*unpack, "--exclude=./usr/lib/modules"])
    for name in ("passwd", "group"):  # base-passwd's own script has not run
        (folder / "etc" / name).write_bytes((folder / f"usr/share/base-passwd/{name}.master").read_bytes())
    return folder


def test_the_package_installs_and_its_agent_joins_and_answers(root, tree, tmp_path):
    """The unit is enabled, the user is there, and what the unit starts is a worker of an edge."""
    package = tmp_path / "msrt-device.deb"
    done = subprocess.run(
        [MSRT, "device", "image", "generic-systemd", "-o", str(package)],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run(["dpkg", f"--root={root}", "--force-depends", "--install", str(package)])
    assert (root / "etc/systemd/system/multi-user.target.wants/msrt-device.service").is_symlink()
    assert "msrt:" in (root / "etc/passwd").read_text()
    edge = tree.edge("e1", "north")
    tree.push()
    identity = root / "etc/msrt/identity/identity.toml"
    identity.write_text(f'invite = "{tree.invite("device", "--region", "north")}"\nname = "d1"\n')
    user = ["chroot", "--userspec=msrt:msrt", str(root)]
    run(["chown", "--reference", str(identity.parent), str(identity)])
    argv = [*user, "/usr/bin/msrt-device", "join", "--config", "/etc/msrt/device.toml"]
    argv += ["--state", "/var/lib/msrt/device"]
    worker = tree.procs["d1"] = Proc(argv, tmp_path / "d1.log")
    worker.ready(120)
    tree.serving(edge.field("http"))
    assert "spent = true" in identity.read_text()
