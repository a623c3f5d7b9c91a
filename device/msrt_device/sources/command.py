"""Reads the standard output of a program, one reading a line; starts it again when it ends badly."""

from __future__ import annotations

import asyncio
import shutil

import structlog

from msrt import errors
from msrt.process import spawn_child, stop_child
from msrt.settings import SourceConfig
from msrt.world.world import World
from msrt_device.sources.source import Source, parse_line

__all__ = ["command"]

log = structlog.get_logger()
PAUSE_S = 1.0
PAUSE_MAX_S = 30.0
LINE_LIMIT = 1 << 20


async def command(_world: World, config: SourceConfig, _skip: int) -> Source:
    """Yield one reading a line. A program that exits 0 ends the source; another status is retried with backoff."""
    if not config.command:
        raise errors.InvalidConfig(f"source {config.name!r} names no command", hint='command = ["program", "argument"]')
    if shutil.which(config.command[0]) is None:
        raise errors.InvalidConfig(f"source {config.name!r}: there is no program {config.command[0]} here")
    pause = PAUSE_S
    while True:
        process = await spawn_child(
            config.command, stdout=asyncio.subprocess.PIPE, stdin=asyncio.subprocess.DEVNULL, limit=LINE_LIMIT
        )
        assert process.stdout is not None
        try:
            async for line in process.stdout:
                try:
                    yield parse_line(line, config.name)
                except errors.InvalidTensor as error:
                    log.warning("source.bad_reading", source=config.name, error=error.text)
                    continue
                pause = PAUSE_S
                await asyncio.sleep(config.interval_s)
            status = await process.wait()
        finally:
            if process.returncode is None:
                await stop_child(process, grace_s=0.0)
        if status == 0:
            return
        log.warning("source.command_died", source=config.name, status=status, again_in_s=pause)
        await asyncio.sleep(pause)
        pause = min(pause * 2, PAUSE_MAX_S)
