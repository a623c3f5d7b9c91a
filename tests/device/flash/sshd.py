"""A real sshd on loopback, with a configuration and keys of its own, and a client's configuration that knows it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from tests.bench.tree import until

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
needs_sshd = pytest.mark.skipif(
    SSHD is None or shutil.which("ssh") is None or os.geteuid() != 0,
    reason="needs openssh-server and openssh-client, and root for sshd",
)


class Sshd:
    """`forced` is what runs in place of a command; it has that in $SSH_ORIGINAL_COMMAND."""

    def __init__(self, folder: Path, forced: str) -> None:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where its unprivileged half lives
        for key in ("host", "user"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)], check=True, timeout=20
            )
        (folder / "authorized").write_bytes((folder / "user.pub").read_bytes())
        script = folder / "forced"
        script.write_text(f"#!/bin/sh\n{forced}\n")
        script.chmod(0o755)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        server = folder / "sshd_config"
        server.write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\n"
            f"AuthorizedKeysFile {folder}/authorized\n"
            f"PermitRootLogin prohibit-password\nPasswordAuthentication no\nStrictModes no\nUsePAM no\nPidFile none\n"
            f"LogLevel VERBOSE\nForceCommand {script}\n"
        )
        self.known, self.config, self.log = folder / "known", folder / "ssh_config", folder / "sshd.log"
        self.config.write_text(
            f"Host *\n  IdentityFile {folder}/user\n  IdentitiesOnly yes\n  UserKnownHostsFile {self.known}\n"
            f"  GlobalKnownHostsFile /dev/null\n  BatchMode yes\n"
        )
        self.known.write_text(f"[127.0.0.1]:{self.port} {(folder / 'host.pub').read_text()}")
        with self.log.open("wb") as said:
            self.popen = subprocess.Popen([str(SSHD), "-D", "-e", "-f", str(server)], stderr=said)
        until("sshd listens", lambda: "Server listening" in self.log.read_text())

    @property
    def url(self) -> str:
        return f"ssh://root@127.0.0.1:{self.port}"

    def stop(self) -> None:
        self.popen.terminate()
        self.popen.wait(10)
