"""Parents that talk without pause and are killed in the middle of it, one after the other, and who listens to them:
`python -m tests.runtime.links.flood TIMES` prints how many packets came. Each of four frames, none with fewer.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys

import zmq

from msrt.links import zmq as zeromq
from msrt.links.link import PARENT, Credentials
from tests.runtime.links.rig import Recorder, until

FRAMES = [b"head", b"b" * 50, b"c" * 200, b"tail"]
ENOUGH = 20_000


def talk():
    """The parent."""
    socket = zmq.Context.instance().socket(zmq.ROUTER)
    sys.stdout.write(f"{socket.bind_to_random_port('tcp://127.0.0.1')}\n")
    sys.stdout.flush()
    child = socket.recv_multipart()[0]
    while True:
        socket.send_multipart([child, *FRAMES])


async def listen():
    """To one parent, until it is gone and its last words were read; the packets that came."""
    argv = [sys.executable, "-m", "tests.runtime.links.flood", "talk"]
    parent = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.PIPE)
    count, here = 0, Recorder()

    def came(_route, _principal, frames):
        nonlocal count
        assert [bytes(frame) for frame in frames] == FRAMES
        count += 1
        if count == ENOUGH:
            parent.kill()

    here.on_packet = came
    here.link = zeromq.dial(f"tcp://127.0.0.1:{int(await parent.stdout.readline())}", Credentials())
    await here.link.start(here)
    await here.send([b"go on"])
    await until(lambda: any(who == PARENT for who, _ in here.gones), 30)
    await here.link.close()
    await parent.wait()
    return count


if __name__ == "__main__":
    if sys.argv[1] == "talk":
        talk()
    sys.stdout.write(f"{sum(asyncio.run(listen()) for _ in range(int(sys.argv[1])))}\n")
