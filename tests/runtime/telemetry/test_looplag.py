from __future__ import annotations

import asyncio
import contextlib
import time

from msrt.telemetry import LoopLag, Metrics


async def watched(lag, during, interval_s=0.005):
    task = asyncio.create_task(lag.watch(interval_s))
    await during()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def test_a_held_loop_is_seen():
    """A callback that blocks shows up as lag of at least most of its length, in the histogram too."""
    metrics = Metrics()
    lag = LoopLag(time.monotonic, metrics.loop_lag.observe)

    async def hold():
        await asyncio.sleep(0.02)
        time.sleep(0.1)  # noqa: ASYNC251 - the very fault
        await asyncio.sleep(0.02)

    asyncio.run(watched(lag, hold))
    assert lag.quantile(1.0) >= 0.09
    assert b'msrt_loop_lag_seconds_bucket{le="+Inf"}' in metrics.render()


def test_quantiles_are_of_the_samples():
    """With a clock that goes as told: lags of 0, 10, 20, 30 ms."""
    times = iter([0.0, 0.005, 1.0, 1.015, 2.0, 2.025, 3.0, 3.035, 4.0])
    lag = LoopLag(lambda: next(times))

    async def main():
        with contextlib.suppress(RuntimeError):  # the clock has run out: StopIteration inside a coroutine
            await lag.watch(0.005)

    asyncio.run(main())
    assert [round(lag.quantile(share), 3) for share in (0.0, 0.25, 0.5, 0.999, 1.0)] == [0, 0.01, 0.02, 0.03, 0.03]
    lag.reset()
    assert lag.quantile(0.5) == 0.0
