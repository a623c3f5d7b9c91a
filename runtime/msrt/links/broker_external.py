"""A broker that somebody else runs, named in the config. It is trusted: its administrator can read and write it all.

It must know our ACL (`rules`) and our users; we cannot tell it.
"""

from __future__ import annotations

import structlog

from msrt.errors import InvalidConfig
from msrt.links.broker_files import acl, check_user
from msrt.links.broker_host import is_loopback
from msrt.links.endpoint import parse_endpoint
from msrt.links.link import Credentials

__all__ = ["ExternalBroker"]

log = structlog.get_logger()


class ExternalBroker:
    """The same face as `Broker`. `managed` says that users are not ours to make."""

    managed = False

    def __init__(self, url: str, *, master: str, username: str, password: str, fingerprint: str = "") -> None:
        endpoint = parse_endpoint(url, "mqtt", "mqtts")
        if endpoint.scheme == "mqtt" and not is_loopback(endpoint.host):
            raise InvalidConfig(f"{url} would send passwords in the clear", hint="use mqtts:// off loopback")
        self.address = self.local_address = url
        self.master, self.fingerprint = check_user(master), fingerprint
        self._username, self._password = username, password

    @property
    def rules(self) -> str:
        """The ACL that it needs, in mosquitto's format."""
        return acl(self.master, self._username)

    def credentials(self) -> Credentials:
        """What the master's own link connects with."""
        return Credentials(
            username=self._username, password=self._password, fingerprint=self.fingerprint, master=self.master
        )

    async def start(self) -> None:
        log.warning("broker.external", address=self.address, trusted=True)

    async def set_user(self, name: str, _password: str) -> None:
        """It is for the broker's administrator to let that user in."""
        log.info("broker.user_wanted", address=self.address, user=name)

    async def remove_user(self, name: str) -> None:
        log.warning("broker.user_unwanted", address=self.address, user=name)

    async def close(self) -> None:
        """It runs on."""
