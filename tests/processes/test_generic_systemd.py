"""The Debian package, installed by dpkg into a root of Debian 12, whose programs then run: by hand, and over SSH."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from msrt_device.flash.linux.debian import fetch_root
from msrt_device.flash.linux.run import ToolFailed, missing_tools, run
from msrt_device.flash.targets import load_target
from tests.bench.tree import MSRT, Proc
from tests.device.flash.sshd import Sshd, needs_sshd

pytestmark = [pytest.mark.slow, pytest.mark.minutes, pytest.mark.timeout(900)]
SYSTEMCTL = """#!/bin/sh
# No systemd runs in a chroot: what `restart` starts is the unit's own command line, as the unit's own user.
unit=/usr/lib/systemd/system/msrt-device.service
case "$*" in
    "restart msrt-device.service")
        [ -e /etc/msrt/identity/identity.toml ] || exit 0
        [ ! -e /run/service.pid ] || kill "$(cat /run/service.pid)" 2>/dev/null
        while read -r line; do case $line in ExecStart=*) command=${line#ExecStart=} ;; esac; done <$unit
        umask 077 # as the unit has it
        setsid setpriv --reuid=msrt --regid=msrt --init-groups -- $command </dev/null >/run/service.log 2>&1 &
        echo $! >/run/service.pid
        ;;
    "is-active msrt-device.service")
        kill -0 "$(cat /run/service.pid)" 2>/dev/null && echo active || { echo failed; exit 3; }
        ;;
    show*) echo 1 ;;
    *) echo "$*" >>/run/asked ;;
esac
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The agent's."""
    out = tmp_path_factory.mktemp("deb") / "msrt-device.deb"
    subprocess.run([MSRT, "device", "image", "generic-systemd", "-o", str(out)], check=True, timeout=600)
    return out


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


def test_the_package_installs_and_its_agent_joins_and_answers(package, root, tree, tmp_path):
    """The unit is enabled, the user is there, and what the unit starts is a worker of an edge."""
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


@pytest.fixture
def machine(root, tmp_path):
    """A Debian behind an sshd, each of whose commands runs in its root."""
    (root / "run/systemd/system").mkdir(parents=True)
    (root / "usr/local/bin").mkdir(parents=True, exist_ok=True)
    for name, text in (("systemctl", SYSTEMCTL), ("journalctl", "#!/bin/sh\ncat /run/service.log\n")):
        (root / "usr/local/bin" / name).write_text(text)
        (root / "usr/local/bin" / name).chmod(0o755)
    # The root is an unpacked one: it has no diff, and its packages were never configured.
    shutil.copy("/usr/bin/diff", root / "usr/local/bin/diff")
    (root / "etc/dpkg/dpkg.cfg.d").mkdir(parents=True, exist_ok=True)
    (root / "etc/dpkg/dpkg.cfg.d/unconfigured").write_text("force-depends\n")
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    server = Sshd(tmp_path, f'exec env -i PATH={path} chroot {root} /bin/sh -c "$SSH_ORIGINAL_COMMAND"')
    yield server
    server.stop()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        pid = (root / "run/service.pid").read_text().strip()
        if b"msrt" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(int(pid), signal.SIGKILL)


def flash(machine, *argv):
    return subprocess.run(
        [MSRT, "device", "flash", argv[0], machine.url, "--ssh-config", str(machine.config), "--json", *argv[1:]],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip


@needs_sshd
def test_a_machine_that_runs_becomes_a_device_over_ssh(machine, package, root, tree, tmp_path):
    """Copied, installed, given an identity, started; it is ready, has spent its claim, and answers."""
    before = flash(machine, str(package))
    assert before.returncode == 0, before.stderr
    told = json.loads(before.stdout.splitlines()[-1])
    assert (told["verified"], told["ready"], told["identity"]) == (True, False, False)
    edge = tree.edge("e1", "north")
    tree.push()
    claim = tmp_path / "claim"
    claim.write_text(tree.invite("device", "--region", "north"))
    done = flash(machine, str(package), "--invite", str(claim), "--name", "d1", "--label", "site=a")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert (told["verified"], told["ready"]) == (True, True)
    tree.serving(edge.field("http"))
    identity = root / "etc/msrt/identity/identity.toml"
    assert "spent = true" in identity.read_text()
    assert '"site" = "a"' in identity.read_text()
    assert identity.stat().st_mode & 0o777 == 0o600
    assert "enable msrt-device.service" in (root / "run/asked").read_text()
    assert not list((root / "var/tmp").glob("msrt-install*"))


@needs_sshd
def test_an_agent_that_does_not_get_ready_is_an_error_with_its_words(machine, package, tmp_path):
    """Here its claim is of a tree that is nowhere."""
    identity = tmp_path / "identity.toml"
    identity.write_text('name = "d1"\n')
    done = flash(machine, str(package), "--identity", str(identity), "--wait", "15")
    assert done.returncode != 0
    assert "not ready after 15 s" in done.stderr
    assert '"verified":true' not in done.stdout.replace(" ", "")
