"""Who is asked while nodes die: the client library, with an identity of its own, knowing both edges."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from msrt.client import AsyncClient
from msrt.demo.judge import Answer
from msrt.demo.load import Infer
from msrt.demo.story import MODEL, Story
from msrt.demo.tree import DemoFailed, program
from msrt.process import child_argv

__all__ = ["both_edges"]


@contextlib.asynccontextmanager
async def both_edges(story: Story) -> AsyncIterator[Infer]:
    """A client that logged in with an invite, over ZeroMQ. Raises DemoFailed when it cannot."""
    folder = story.tree.folder / "client"
    async with story.session() as ask:
        invite = (await ask("invite.create", role="client"))["invite"]
    await _login(invite, folder)
    rows = story.judge.rows
    async with AsyncClient([story.tree[edge].said("zmq") for edge in story.urls], state=folder) as client:

        async def infer(row: int) -> Answer:
            answer = await client.infer(MODEL, {"input": rows[row : row + 1]})
            return Answer(answer["output"], answer.version, answer.variant, answer.device)

        await infer(0)
        yield infer


async def _login(invite: str, folder: Path) -> None:
    argv = [program(), "login", invite, "--name", "demo", "--state", str(folder)]
    process = await asyncio.create_subprocess_exec(
        *child_argv(argv), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    if process.returncode:
        raise DemoFailed(f"msrt login failed: {said.decode().strip()}")
