"""A foreign stateful model, silero-vad, on real audio over real processes: cloud, edge, device."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import wave
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import msrt
from msrt.errors import SequenceLost
from tests.bench.tree import Tree, post, until

DATA = Path(os.environ.get("MSRT_DATA", Path(__file__).parents[3] / "shared" / "data")) / "silero-vad"
FILE = DATA / "silero_vad.onnx"
RATE, STEP, CONTEXT = 16000, 512, 64
FRAMES = 60

pytestmark = pytest.mark.skipif(not FILE.exists(), reason="MSRT_DATA has no silero-vad")


def audio():
    """The recording in windows as the model takes them, each with the end of the one before."""
    with wave.open(str(DATA / "test.wav")) as file:
        sound = np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.float32) / 32768
    padded = np.concatenate([np.zeros(CONTEXT, np.float32), sound])
    return [padded[at : at + CONTEXT + STEP][None] for at in range(0, len(sound) - STEP, STEP)]


def bare(windows):
    """What the engine says by itself, the state fed back by hand."""
    session = onnxruntime.InferenceSession(FILE, providers=["CPUExecutionProvider"])
    state, found = np.zeros((2, 1, 128), np.float32), []
    for window in windows:
        output, state = session.run(None, {"input": window, "state": state, "sr": np.array(RATE)})
        found.append(float(output[0, 0]))
    return found


def asked(window):
    return {"input": window, "sr": np.array(RATE, np.int64)}


@pytest.fixture(scope="module")
def house():
    """An edge, two devices, the model."""
    with Tree() as tree:
        tree.edge("e1", "north")
        for name in ("d1", "d2"):
            tree.device(name, "north")
        pushed = json.loads(tree.cli("model", "push", str(FILE), "--name", "vad", "--json"))
        assert pushed["report"]["state"] == "state -> stateN"
        tree.cli("model", "rollout", "vad", "--window", "0.3")
        yield tree


def url(house):
    return house.procs["e1"].field("http")


def serving(house, devices):
    """Wait until all of these have answered lone requests."""
    seen = set()

    def answers():
        status, answer = post_step(house, audio()[0])
        if status == 200:
            seen.add(answer["parameters"]["device"])
        return devices <= seen

    until(f"{devices} answer", answers, 30)


def post_step(house, window, **parameters):
    """One step in plain JSON, as any client of the protocol would."""
    inputs = [
        {"name": "input", "shape": list(window.shape), "datatype": "FP32", "data": window.ravel().tolist()},
        {"name": "sr", "shape": [], "datatype": "INT64", "data": [RATE]},
    ]
    body = json.dumps({"inputs": inputs, "parameters": parameters})
    status, answer = post(f"{url(house)}/v2/models/vad/infer", body)
    return status, json.loads(answer) if status else answer


@pytest.mark.parametrize("way", ["zmq", "http"])
def test_interleaved_recordings_are_heard_as_by_the_bare_engine(house, way):
    """Three sequences at once, frame by frame, each equal to one session of its own; both devices take part."""
    serving(house, {"d1", "d2"})
    windows = audio()
    parts = [windows[:FRAMES], windows[400 : 400 + FRAMES], windows[900 : 900 + FRAMES]]
    wanted = [bare(part) for part in parts]
    assert max(map(max, wanted)) > 0.9, "nobody speaks in these parts"

    async def listen(client, part):
        async with client.sequence("vad") as sequence:
            found = []
            for window in part:
                answer = await sequence.infer(asked(window))
                found.append((float(answer["output"][0, 0]), answer.device))
            return found

    async def all_of_them():
        async with msrt.AsyncClient([house.procs["e1"].field(way)], state=house.path / "cloud") as client:
            return await asyncio.gather(*(listen(client, part) for part in parts))

    for found, expected in zip(asyncio.run(all_of_them()), wanted, strict=True):
        assert [value for value, _ in found] == expected
        assert len({device for _, device in found}) == 1


def test_a_lone_request_begins_with_silence(house):
    """Without a sequence each request is one of its own: the same frame, the same answer."""
    serving(house, {"d1"})
    loud = audio()[420]
    said = {post_step(house, loud)[1]["outputs"][0]["data"][0] for _ in range(5)}
    assert [pytest.approx(bare([loud])[0])] == list(said)


def test_a_sequence_dies_with_its_device_and_says_so(house):
    """Killed in the middle: a typed error to the library, a status and a code to plain HTTP, never another answer; a
    device that comes back does not know the sequence, and lone requests go on meanwhile."""
    serving(house, {"d1", "d2"})
    windows = audio()[420:480]
    with msrt.connect([house.procs["e1"].field("zmq")], state=house.path / "cloud") as client:
        with client.sequence("vad") as sequence:
            for window in windows[:10]:
                device = sequence.infer(asked(window)).device
            status, answer = 0, {}
            for number in range(40):  # one over HTTP that lives there too
                status, answer = post_step(house, windows[0], sequence_id=number + 1, sequence_start=True)
                if answer["parameters"]["device"] == device:
                    break
            assert (status, answer["parameters"]["device"]) == (200, device)
            ident = number + 1
            assert post_step(house, windows[1], sequence_id=ident)[0] == 200
            house.procs[device].signal(signal.SIGKILL)
            house.procs[device].popen.wait()
            with pytest.raises(SequenceLost):
                sequence.infer(asked(windows[10]), deadline=5)
            status, answer = post_step(house, windows[2], sequence_id=ident)
            assert status == 409
            assert "sequence" in answer["error"], answer
            house.start(device, "device", "join")
            serving(house, {"d1", "d2"})
            status, answer = post_step(house, windows[3], sequence_id=ident)
            assert status == 409
            assert "sequence" in answer["error"], answer
        assert client.infer("vad", asked(windows[0]))["output"].shape == (1, 1)
        with client.sequence("vad") as again:
            expected = bare(windows[:5])
            assert [float(again.infer(asked(w))["output"][0, 0]) for w in windows[:5]] == expected


def test_an_update_leaves_running_sequences_on_their_version(house):
    """Begun before, gone on with after: the same numbers from the same version; what begins later is on the new one."""
    serving(house, {"d1", "d2"})
    windows = audio()[420:440]
    expected = bare(windows)
    with msrt.connect([house.procs["e1"].field("zmq")], state=house.path / "cloud") as client:
        with client.sequence("vad") as sequence:
            before = [sequence.infer(asked(window)) for window in windows[:10]]
            house.cli("model", "push", str(FILE), "--name", "vad")
            house.cli("model", "rollout", "vad", "--window", "0.3")
            until("version 2 answers", lambda: client.infer("vad", asked(windows[0])).version == 2)
            after = [sequence.infer(asked(window)) for window in windows[10:]]
        answers = before + after
        assert {answer.version for answer in answers} == {1}
        assert [float(answer["output"][0, 0]) for answer in answers] == expected
        with client.sequence("vad") as later:
            assert later.infer(asked(windows[0])).version == 2


def test_what_is_no_sequence_is_refused_in_words(house):
    """A step that nobody began: the code's status and a sentence."""
    status, answer = post_step(house, audio()[0], sequence_id="nobody")
    assert status == 409
    assert "nobody keeps the sequence" in answer["error"]
