"""What a device takes for training, and when."""

import asyncio
import dataclasses
import subprocess
import sys

from msrt.protocol.messages import RoundClosed
from tests.device.rig import simulate, until
from tests.device.test_training import Job, Trainers, bundle  # noqa: F401 - a fixture

LOADED = """
import sys
import msrt_device.gateway.field
unwanted = ("msrt.learning", "msrt.dispatch", "msrt.training.settings", "onnxruntime")
print([name for name in sys.modules if name.startswith(unwanted)])
import msrt_device.field
print([name for name in sys.modules if name.startswith(unwanted[:3])])
"""


def test_a_device_at_work_has_no_room_of_training_or_of_a_master_in_memory():
    """They take some MiB of a small machine; the first word of a job brings them. A microcontroller's gateway has no
    engine in memory either: the board is its engine."""
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["[]", "[]"]


def test_what_is_said_while_the_rooms_are_loaded_is_heard_afterwards(bundle):  # noqa: F811
    """In its order: a round is not trained twice, and one that is closed by then is not trained at all."""
    trainers = Trainers()

    async def scenario(rig):
        jobs = rig.device.jobs

        async def slowly(work, *args):
            await asyncio.sleep(0.5)
            return work(*args)

        jobs._world = dataclasses.replace(jobs._world, offload=slowly)
        job = Job(rig, bundle)
        await job.open(1)
        await until(lambda: jobs.working)
        assert jobs.training is None
        rig.edge.peer.send(RoundClosed("job", 1, ()))
        await job.open(2)
        await until(job.updates, 10)
        assert [number for number, *_ in job.updates()] == [2]
        assert trainers.rounds == [2]

    simulate(scenario, trainer=trainers)


def test_a_job_that_is_over_leaves_nothing_on_disk(bundle):  # noqa: F811
    """Once its process is gone; also where the device hears of its end after a restart. A paused one goes on."""
    trainers, cleared = Trainers(), []

    async def scenario(rig):
        rig.device.jobs._clear = cleared.append
        rig.edge.peer.send(RoundClosed("before", 3, (), "finished"))
        await until(lambda: cleared == ["before"])
        job = Job(rig, bundle)
        await job.open(1)
        await until(job.updates, 10)
        rig.edge.peer.send(RoundClosed("job", 1, (), "paused"))
        await asyncio.sleep(1)
        assert cleared == ["before"]
        for _ in range(2):
            rig.edge.peer.send(RoundClosed("job", 1, (), "stopped"))
            await asyncio.sleep(1)
        assert cleared == ["before", "job"]

    simulate(scenario, trainer=trainers)
