"""What a broker reads: its configuration, who may connect, and who may write and read where.

Both brokers that we run ourselves read the same password and ACL files, in mosquitto's formats.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import b64decode
from binascii import Error as Base64Error
from pathlib import Path
from typing import Final

from msrt.errors import InvalidAddress
from msrt.protocol.wire import MQTT_LIMIT

__all__ = [
    "PACKET_LIMIT",
    "Acl",
    "acl",
    "check_entry",
    "check_user",
    "mosquitto_conf",
    "parse_passwords",
    "password_matches",
]

PACKET_LIMIT: Final = MQTT_LIMIT + (4 << 10)
"""Largest MQTT packet: our largest payload, its packing, and the topic."""
MEMORY_LIMIT: Final = 256 << 20
_ENTRY: Final = re.compile(r"\$7\$[0-9]{1,7}\$[A-Za-z0-9+/=]{1,200}\$[A-Za-z0-9+/=]{1,200}")
_USER: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,126}")


def check_user(name: str) -> str:
    """A user name that is safe in a topic, a pattern and a password line. Raises InvalidAddress."""
    if not _USER.fullmatch(name):
        raise InvalidAddress(f"{name!r} cannot be an MQTT user", hint="a good one is a node id, or invite-ID")
    return name


def check_entry(entry: str) -> str:
    """A password hash that is safe in a line of its own. Raises InvalidAddress."""
    if not _ENTRY.fullmatch(entry):
        raise InvalidAddress("a password entry is malformed", hint="a good one is $7$ITERATIONS$SALT$HASH")
    return entry


def acl(master: str, username: str = "") -> str:
    """The ACL that a broker needs for this master (connecting as `username`) and its nodes, in mosquitto's format.

    With it a node can write only as itself and read only what is for it; %u is the user name.
    """
    base = f"msrt/{check_user(master)}"
    return (
        f"user {username or master}\n"
        f"topic read {base}/up/+\n"
        f"topic read {base}/gone/+\n"
        f"topic write {base}/down/+\n"
        "\n"
        f"pattern write {base}/up/%u\n"
        f"pattern write {base}/gone/%u\n"
        f"pattern read {base}/down/%u\n"
        f"pattern read {base}/gone/{master}\n"
    )


def mosquitto_conf(folder: Path, host: str, port: int, *, tls: bool, root: bool) -> str:
    """mosquitto.conf for our child. `root`: we run as root, so mosquitto stays it and can read our private files."""
    lines = [
        "per_listener_settings false",
        "allow_anonymous false",
        f"password_file {folder / 'broker.users'}",
        f"acl_file {folder / 'broker.acl'}",
        "set_tcp_nodelay true",  # without it a packet waits 44 ms for the one before
        f"max_packet_size {PACKET_LIMIT}",
        f"memory_limit {MEMORY_LIMIT}",
        "max_queued_messages 1000",
        "queue_qos0_messages false",
        "retain_available false",
        "persistence false",
        "sys_interval 0",
        "log_dest stderr",
        "log_type error",
        "connection_messages false",
        f"listener {port} {host}",
        # Nobody can take another's connection over. Above its listener this line opens a second one, on 0.0.0.0:1883.
        "use_username_as_clientid true",
    ]
    if tls:
        lines += [f"certfile {folder / 'broker.crt'}", f"keyfile {folder / 'broker.key'}"]
    if root:
        lines.append("user root")
    return "\n".join(lines) + "\n"


def parse_passwords(text: str) -> dict[str, str]:
    """User names and their hashes."""
    users = {}
    for line in text.splitlines():
        name, colon, entry = line.partition(":")
        if colon:
            users[name] = entry
    return users


def password_matches(entry: str, password: str) -> bool:
    """Whether a `$7$ITERATIONS$SALT$HASH` entry (PBKDF2-HMAC-SHA512) is of this password."""
    parts = entry.split("$")
    if len(parts) != 5 or parts[1] != "7" or not parts[2].isdigit():
        return False
    try:
        salt, expected = b64decode(parts[3], validate=True), b64decode(parts[4], validate=True)
    except Base64Error:
        return False
    return hmac.compare_digest(hashlib.pbkdf2_hmac("sha512", password.encode(), salt, int(parts[2])), expected)


class Acl:
    """An ACL file in mosquitto's format, as far as `acl` uses it."""

    def __init__(self, text: str) -> None:
        self._rules: list[tuple[str, str, str]] = []  # user or "" for a pattern, access, filter
        user = ""
        for line in text.splitlines():
            words = line.split()
            if len(words) == 2 and words[0] == "user":
                user = words[1]
            elif len(words) == 3 and words[0] in ("topic", "pattern"):
                self._rules.append((user if words[0] == "topic" else "", words[1], words[2]))

    def allows(self, user: str, access: str, topic: str) -> bool:
        """Whether `user` may `read` or `write` a topic, or subscribe (`read`) to a filter no wider than a rule."""
        if "%" in user or "+" in user or "#" in user:
            return False
        return any(
            rule_user in ("", user) and access == rule_access and _covers(rule.replace("%u", user), topic)
            for rule_user, rule_access, rule in self._rules
        )


def _covers(rule: str, topic: str) -> bool:
    rules, levels = rule.split("/"), topic.split("/")
    return len(rules) == len(levels) and all(
        ours in ("+", theirs) and theirs != "#" and (theirs != "+" or ours == "+")
        for ours, theirs in zip(rules, levels, strict=True)
    )
