"""A peer that a test can kill: dials, says `alive`, echoes. `python -m tests.runtime.links.child JSON`."""

from __future__ import annotations

import asyncio
import json
import sys
from importlib import import_module

from msrt.links.link import PARENT, Credentials


class Echo:
    def __init__(self, link):
        self.link, self.greeted = link, False

    def received(self, _route, _principal, frames):
        self.link.send(PARENT, frames)

    def gone(self, _route, _error):
        self.greeted = False

    def writable(self):
        if not self.greeted:
            self.greeted = self.link.send(PARENT, [b"alive"])


async def main():
    module, url, facts = json.loads(sys.argv[1])
    for name in ("secret_key", "server_key"):
        facts[name] = bytes.fromhex(facts[name])
    link = import_module(f"msrt.links.{module}").dial(url, Credentials(**facts))
    await link.start(Echo(link))
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
