"""`python -m msrt.links.amqtt_broker CONFIG`: the broker for machines without mosquitto, in a process of its own.

amqtt (pure Python, MQTT 3.1.1) with a plug-in that reads mosquitto's password and ACL files, again when they change.
The only file that imports amqtt.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from amqtt.broker import Broker
from amqtt.contexts import Action
from amqtt.plugins.base import BaseAuthPlugin, BaseTopicPlugin
from amqtt.session import Session

from msrt.links.broker_files import Acl, parse_passwords, password_matches

__all__ = ["Guard", "main"]

GUARD: Final = "msrt.links.amqtt_broker.Guard"


class _Watched:
    """A file's text, read again when it was replaced."""

    def __init__(self, path: str) -> None:
        self._path, self._stamp, self._text = Path(path), (0, 0), ""

    def text(self) -> tuple[str, bool]:
        """The text, and whether it is new."""
        try:
            stat = self._path.stat()
        except OSError:
            return "", bool(self._text)  # no list is an empty list: nobody comes in
        stamp = (stat.st_ino, stat.st_mtime_ns)
        if stamp == self._stamp:
            return self._text, False
        self._stamp, self._text = stamp, self._path.read_text()
        return self._text, True


class Guard(BaseAuthPlugin, BaseTopicPlugin):  # type: ignore[misc]
    """Who may connect, and where they may write and read.

    A client id is its user name, so that nobody can take another's connection over. The topic of a Will is judged when
    it is left with us, as amqtt publishes it without asking.
    """

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self._passwords, self._rules = _Watched(self.config.users), _Watched(self.config.acl)
        self._users: dict[str, str] = {}
        self._acl = Acl("")

    def _refresh(self) -> None:
        text, new = self._passwords.text()
        if new:
            self._users = parse_passwords(text)
        text, new = self._rules.text()
        if new:
            self._acl = Acl(text)

    async def authenticate(self, *, session: Session) -> bool | None:
        self._refresh()
        entry = self._users.get(session.username or "")
        if entry is None or not password_matches(entry, session.password or ""):
            return False
        if session.client_id != session.username:
            return False
        return not session.will_flag or self._acl.allows(session.username, "write", session.will_topic or "")

    async def topic_filtering(
        self, *, session: Session | None = None, topic: str | None = None, action: Action | None = None
    ) -> bool | None:
        self._refresh()
        if session is None or not topic or session.username not in self._users:
            return False
        return self._acl.allows(session.username, "write" if action is Action.PUBLISH else "read", topic)

    @dataclass
    class Config:
        """The files."""

        users: str = ""
        acl: str = ""


class _Broker(Broker):  # type: ignore[misc]
    """amqtt's broker, but a client must be who it says before anything happens to an older connection of that name.

    Left alone, it throws the older session away at the first packet, password or not, and keeps every refused one.
    """

    async def _delete_session(self, client_id: str) -> None:
        """Not yet: amqtt calls this before it has asked for the password."""

    async def _handle_client_session(
        self, reader: Any, writer: Any, client_session: Session, handler: Any, server: Any, listener_name: str
    ) -> None:
        name = client_session.client_id
        refused = not await self._authenticate(client_session, self.listeners_config[listener_name])
        if refused:
            name = client_session.client_id = f"refused {id(client_session):x}"
        elif name in self._sessions:
            _old, old_handler = self._sessions[name]
            await super()._delete_session(name)
            await old_handler.handle_connection_closed()
            await old_handler.stop()
        try:
            await super()._handle_client_session(reader, writer, client_session, handler, server, listener_name)
        finally:
            if refused:
                self._sessions.pop(name, None)


async def _serve(config: dict[str, Any]) -> None:
    listener: dict[str, Any] = {"type": "tcp", "bind": f"{config['host']}:{config['port']}"}
    if config["tls"]:
        listener |= {"ssl": True, "certfile": config["certfile"], "keyfile": config["keyfile"]}
    broker = _Broker(
        {
            "listeners": {"default": listener},
            "plugins": {GUARD: {"users": config["users"], "acl": config["acl"]}},
        }
    )
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, lambda: None)  # the files are looked at anyway
    await broker.start()
    await stop.wait()
    await broker.shutdown()


def main() -> None:
    logging.basicConfig(level=logging.CRITICAL)
    asyncio.run(_serve(json.loads(Path(sys.argv[1]).read_text())))


if __name__ == "__main__":
    main()
