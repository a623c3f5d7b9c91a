"""The agent onto a machine that runs Debian already: copied, compared, installed, given an identity, awaited."""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from msrt.errors import CallerError
from msrt_device.flash.identity.issued import issue
from msrt_device.flash.identity.medium import SettingNotTaken
from msrt_device.flash.identity.settings import IDENTITY_FILE, IdentitySettings, InvalidIdentity
from msrt_device.flash.linux.agent import PLATFORMS, PYTHONS
from msrt_device.flash.remote.host import Host, HostFailed
from msrt_device.flash.targets import Progress, load_target

__all__ = ["Installed", "install"]

TARGET: Final = "generic-systemd"
UNIT: Final = "msrt-device.service"
FOLDER: Final = "/etc/msrt/identity"
LOOK: Final = f"""
echo "uid=$(id -u)"
echo "architecture=$(dpkg --print-architecture 2>/dev/null)"
[ -d /run/systemd/system ] && echo systemd=yes
[ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null && echo root=yes
for one in {" ".join(PYTHONS)}; do command -v python$one >/dev/null && echo "python=$one"; done
echo "folder=$(mktemp -d /var/tmp/msrt-install.XXXXXX)"
"""
INSTALL: Final = """
export DEBIAN_FRONTEND=noninteractive
$2 dpkg --install "$1" >&2 && dpkg-query --show --showformat='${Status}|${Version}' msrt-device
"""
PLACE: Final = f"""
set -e
for file in "$1"/identity/*; do
    $2 install -m 0600 -o msrt -g msrt "$file" {FOLDER}/
done
$2 sync -f {FOLDER}
"""
START: Final = f"""
$1 systemctl restart {UNIT}
left=$2
while [ "$left" -gt 0 ]; do
    state=$(systemctl is-active {UNIT})
    start=$(systemctl show --property=InvocationID --value {UNIT})
    if [ "$state" = active ]; then
        said=$($1 journalctl --quiet --output=cat _SYSTEMD_INVOCATION_ID="$start")
        case "
$said" in
            *"
ready "*) echo ready; exit 0 ;;
        esac
    fi
    sleep 1
    left=$((left - 1))
done
echo "$state"
$1 journalctl --quiet --output=cat --unit={UNIT} --lines=8
"""


@dataclass(frozen=True)
class Installed:
    """What came of it. It is verified, or an error was raised."""

    version: str
    size: int
    """Bytes of the package."""
    ready: bool
    """Its agent has said so; False: there is no identity there to start with."""


def install(
    host: Host,
    package: str,
    settings: IdentitySettings | None,
    progress: Progress,
    *,
    wait_s: int,
    pre_issued: bool = False,
) -> Installed:
    """Install a .deb, or one made for the machine where `package` is `generic-systemd`.

    Raises HostFailed, CallerError, SettingNotTaken, and what makes a package or a certificate raises.
    """
    if settings is not None:
        _refuse(settings)
    found = _look(host)
    root = "" if found["uid"] == ["0"] else "sudo -n"
    (folder,) = found["folder"]
    try:
        with tempfile.TemporaryDirectory(prefix="msrt-deb-") as scratch:
            path = Path(package)
            if package == TARGET and not path.exists():
                path = _make(found, Path(scratch), progress)
            version, size = _package(host, path, f"{folder}/msrt-device.deb", found, root, progress)
        if settings is not None:
            files = issue(settings) if pre_issued else {}
            _identity(host, folder, settings.without_claim() if pre_issued else settings, files, root)
        return Installed(version, size, _started(host, root, wait_s, progress, given=settings is not None))
    finally:
        host.run('rm -rf -- "$1"', folder)


def _refuse(settings: IdentitySettings) -> None:
    """A machine that runs has a network, a locale and a time zone: what would not be applied is not written."""
    for name, value in (("wifi", settings.wifi.ssid), ("locale", settings.locale), ("timezone", settings.timezone)):
        if value:
            raise CallerError(f"{name} is not set over SSH: the machine keeps its own", hint=f"leave --{name} out")


def _look(host: Host) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in host.run(LOOK).splitlines():
        name, _, value = line.partition("=")
        found.setdefault(name, []).append(value)
    wrong = ""
    if found.get("architecture", [""])[0] not in PLATFORMS:
        wrong = "it is no Debian, or its like, on amd64 or arm64"
    elif "systemd" not in found:
        wrong = "systemd does not run there"
    elif "python" not in found:
        wrong = f"it has none of Python {', '.join(PYTHONS)} (apt install python3)"
    elif "root" not in found:
        wrong = "sudo asks for a password there: log in as root, or allow sudo without one"
    if wrong:
        host.run('[ -z "$1" ] || rm -rf -- "$1"', *found.get("folder", [""]))
        raise HostFailed(f"{host.remote} cannot be made a device: {wrong}")
    return found


def _make(found: Mapping[str, list[str]], folder: Path, progress: Progress) -> Path:
    target, out = load_target(TARGET), folder / "msrt-device.deb"
    target.build({"architecture": found["architecture"][0], "python": found["python"][0]}, out, progress)
    return out


def _package(
    host: Host, path: Path, there: str, found: Mapping[str, list[str]], root: str, progress: Progress
) -> tuple[str, int]:
    """Copy, compare, check, install; version and size."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CallerError(f"cannot read {path}: {error.strerror}", hint=f"a .deb, or {TARGET} to make one") from None
    host.put(io.BytesIO(data), len(data), there, lambda done, total: progress("write", done, total))
    if host.run('sha256sum <"$1"', there).split()[:1] != [hashlib.sha256(data).hexdigest()]:
        raise HostFailed(f"{path.name} does not read back from {host.remote} as it was sent")
    progress("verify", len(data), len(data))
    fields = host.run('dpkg-deb --field "$1" Package Architecture Depends', there)
    if "Package: msrt-device" not in fields.splitlines():
        raise CallerError(
            f"{path.name} is not the agent's package", hint="msrt device image generic-systemd -o FILE.deb"
        )
    if f"Architecture: {found['architecture'][0]}" not in fields.splitlines():
        raise CallerError(f"{path.name} is not for {found['architecture'][0]}, which {host.remote} is")
    if not any(f"python{one}" in fields for one in found["python"]):
        raise CallerError(f"{path.name} is for another Python than {', '.join(found['python'])} of {host.remote}")
    status, _, version = host.run(INSTALL, there, root, timeout_s=600.0).partition("|")
    if status != "install ok installed":
        raise HostFailed(f"the package is not installed on {host.remote}: {status}")
    return version.strip(), len(data)


def _identity(host: Host, folder: str, settings: IdentitySettings, files: Mapping[str, bytes], root: str) -> None:
    """Written, synced, read back, compared by fields; before the agent starts and spends the claim."""
    host.run('mkdir -m 0700 "$1/identity"', folder)
    text = settings.render()
    whole = {**files, IDENTITY_FILE: text.encode()}
    for name, data in whole.items():
        host.put(io.BytesIO(data), len(data), f"{folder}/identity/{name}", lambda *_: None)
    host.run(PLACE, folder, root)
    for name, data in files.items():
        said = host.run('$2 cat "$1" | sha256sum', f"{FOLDER}/{name}", root)
        if said.split()[:1] != [hashlib.sha256(data).hexdigest()]:
            raise SettingNotTaken({name: "all of it"}, {})
    try:
        found = IdentitySettings.parse(host.run('$2 cat "$1"', f"{FOLDER}/{IDENTITY_FILE}", root)).flat()
    except InvalidIdentity:
        found = {}
    if found != settings.flat():
        raise SettingNotTaken(settings.flat(), found)


def _started(host: Host, root: str, wait_s: int, progress: Progress, *, given: bool) -> bool:
    member = f"$1 test -e {FOLDER}/{IDENTITY_FILE} || $1 test -e /var/lib/msrt/device/owner.json"
    if not given and host.run(f"if {member}; then echo yes; fi", root).strip() != "yes":
        return False
    progress("start", 0, 1)
    said = host.run(START, root, str(wait_s), timeout_s=wait_s * 3 + 60.0).strip()
    if said != "ready":
        state, _, log = said.partition("\n")
        raise HostFailed(
            f"the agent on {host.remote} is {state}, not ready after {wait_s} s: {log or 'it said nothing'}"
        )
    progress("start", 1, 1)
    return True
