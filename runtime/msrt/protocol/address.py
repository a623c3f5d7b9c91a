"""Who and what can be named: nodes, regions, labels, selectors, models, topics; checked when made.

Every function here raises `InvalidAddress` with a sentence that says what a good one looks like.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from msrt.errors import InvalidAddress

__all__ = [
    "DEFAULT_NAMESPACE",
    "ModelName",
    "Selector",
    "check_label",
    "check_name",
    "check_node",
    "check_region",
    "check_serial",
    "node_id",
    "parse_labels",
    "parse_topic",
    "topic",
]

DEFAULT_NAMESPACE: Final = "default"
MAX_LABELS: Final = 64
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_MODEL: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_NODE: Final = re.compile(r"[a-z2-7]{26}")
_KEY: Final = re.compile(r"[a-z0-9][a-z0-9._/-]{0,62}")
_VALUE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,62}")
_SERIAL: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._:-]{0,63})?")
_VERSION: Final = re.compile(r"[1-9][0-9]{0,8}")
_TOPIC: Final = re.compile(r"msrt/([^/]*)/(up|down)/([^/]*)")


def node_id(identity: bytes) -> str:
    """The id of the node that holds this Ed25519 public key (32 bytes): 26 characters."""
    if len(identity) != 32:
        raise InvalidAddress(f"an identity is 32 bytes, not {len(identity)}")
    return base64.b32encode(hashlib.sha256(identity).digest()[:16]).decode().rstrip("=").lower()


def check_node(text: str) -> str:
    return _check(_NODE, text, "node id", "26 characters of a-z and 2-7")


def check_name(text: str) -> str:
    return _check(_NAME, text, "name", "lower-case letters, digits and dashes, at most 63, no dash in front")


def check_region(text: str) -> str:
    return _check(_NAME, text, "region", "lower-case letters, digits and dashes, at most 63, no dash in front")


def check_serial(text: str) -> str:
    """The serial number of a board; it may have none."""
    return _check(_SERIAL, text, "serial number", "letters, digits and . _ : -, at most 64")


def check_label(key: str, value: str) -> tuple[str, str]:
    """A label's key (lower case, may hold . _ - /) and value (letters, digits, . _ : -), at most 63 each."""
    _check(_KEY, key, "label", "key=value, the key of lower-case letters, digits and . _ - /, at most 63")
    _check(_VALUE, value, "label value", "letters, digits and . _ : -, at most 63")
    return key, value


def parse_labels(pairs: Iterable[str]) -> dict[str, str]:
    """`["site=north", "line=2"]` to a mapping; a key given twice is an error."""
    labels: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise InvalidAddress(f"label {_shown(pair)} has no '='", hint="write it as key=value")
        check_label(key, value)
        if key in labels:
            raise InvalidAddress(f"label {key!r} is given twice")
        labels[key] = value
    if len(labels) > MAX_LABELS:
        raise InvalidAddress(f"{len(labels)} labels on one node, at most {MAX_LABELS} fit")
    return labels


@dataclass(frozen=True)
class Selector:
    """Which nodes: all of these labels. A node's `name`, `region` and `class` count as labels; none selects all."""

    wanted: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Selector:
        """`site=a,class=arm64,region=eu`; the empty text selects every node."""
        parts = [part.strip() for part in text.split(",")] if text.strip() else []
        return cls(tuple(sorted(parse_labels(parts).items())))

    def matches(self, labels: Mapping[str, str]) -> bool:
        return all(labels.get(key) == value for key, value in self.wanted)

    def names(self, key: str) -> bool:
        """Whether it says anything of this label."""
        return any(key == wanted for wanted, _ in self.wanted)

    def __str__(self) -> str:
        return ",".join(f"{key}={value}" for key, value in self.wanted)


@dataclass(frozen=True)
class ModelName:
    """A model and perhaps one version of it."""

    name: str
    """Canonical: `digits` in the default namespace, else `namespace/digits`."""
    version: int = 0
    """0: whichever is rolled out."""

    @classmethod
    def parse(cls, text: str) -> ModelName:
        """`[namespace/]name[@version]`."""
        path, at, version = text.partition("@")
        namespace, slash, name = path.rpartition("/")
        if slash:
            _check(_NAME, namespace, "namespace", "lower-case letters, digits and dashes, at most 63")
        _check(_MODEL, name, "model name", "lower-case letters, digits and . _ -, at most 63")
        if at:
            _check(_VERSION, version, "model version", "a whole number from 1 on")
        whole = name if namespace in ("", DEFAULT_NAMESPACE) else f"{namespace}/{name}"
        return cls(whole, int(version) if at else 0)

    @property
    def namespace(self) -> str:
        return self.name.rpartition("/")[0] or DEFAULT_NAMESPACE

    def __str__(self) -> str:
        return f"{self.name}@{self.version}" if self.version else self.name


def topic(master: str, direction: str, node: str) -> str:
    """The MQTT topic between a master and one of its nodes; direction is `up` (to the master) or `down`."""
    if direction not in ("up", "down"):
        raise InvalidAddress(f"topic direction {_shown(direction)} is neither 'up' nor 'down'")
    if not node.startswith("invite-"):
        check_node(node)
    elif not _KEY.fullmatch(node) or "/" in node:
        raise InvalidAddress(f"invite user {_shown(node)} is malformed")
    return f"msrt/{check_node(master)}/{direction}/{node}"


def parse_topic(text: str) -> tuple[str, str, str]:
    """(master, direction, node) of a topic of ours."""
    match = _TOPIC.fullmatch(text)
    if match is None:
        raise InvalidAddress(f"topic {_shown(text)} is malformed; a good one is msrt/MASTER/up|down/NODE")
    master, direction, node = match.groups()
    topic(master, direction, node)
    return master, direction, node


def _check(pattern: re.Pattern[str], text: str, what: str, good: str) -> str:
    if not pattern.fullmatch(text):
        raise InvalidAddress(f"{what} {_shown(text)} is malformed", hint=f"a good one is {good}")
    return text


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
