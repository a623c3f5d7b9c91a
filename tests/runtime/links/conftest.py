"""The transports: `rig` is each of them, `variant` a transport in another dress, `broker_rig` those with a broker."""

from __future__ import annotations

import pytest

from tests.runtime.links.rig import RIGS


@pytest.fixture(params=["zmq", "mosquitto", "amqtt", "memory"])
def rig(request, tmp_path):
    return RIGS[request.param](tmp_path)


@pytest.fixture(params=["ipc", "mosquitto-tls", "amqtt-tls"])
def variant(request, tmp_path):
    return RIGS[request.param](tmp_path)


@pytest.fixture
def zmq_rig(tmp_path):
    return RIGS["zmq"](tmp_path)


@pytest.fixture(params=["mosquitto", "amqtt"])
def broker_rig(request, tmp_path):
    return RIGS[request.param](tmp_path)
