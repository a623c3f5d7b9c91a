from __future__ import annotations

import asyncio
from pathlib import Path

from msrt.training.spool import Spool
from msrt.world.field import field_world
from msrt.world.world import World


def _run(world: World, keys: list[str]) -> list[bytes]:
    async def keep() -> list[bytes]:
        spool = Spool(world, 100)
        kept = await asyncio.gather(*(spool.keep(key, key.encode()) for key in keys))
        spool.release()
        spool.drop(keys[0])
        spool.close()
        late = await spool.keep("late", b"late")
        return [bytes(one) for one in [*kept, late]]

    return asyncio.run(keep())


def test_updates_that_come_at_once_share_one_file(tmp_path: Path) -> None:
    """And one that comes after the end is only handed back."""
    keys = [f"key{n}" for n in range(20)]
    assert _run(field_world(tmp_path), keys) == [*(key.encode() for key in keys), b"late"]
    assert list(tmp_path.iterdir()) == []
