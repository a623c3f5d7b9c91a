"""The listener as a config names it."""

from __future__ import annotations

import asyncio
import socket

import pytest

from msrt.errors import InvalidConfig, PortInUse
from msrt.joining import new_member
from msrt.process import StateDir
from msrt.serving.front import open_front
from msrt.serving.grpc import messages as m
from msrt.settings import EdgeConfig
from msrt.trust.api_keys import KeyBook
from tests.runtime.serving.grpc.rig import Caller, Keeper, question


def opened(folder, scenario=None, **config):
    """What a node prints of its front."""

    async def main():
        with StateDir.open(folder, "edge") as state:
            world, _ = new_member(folder)
            front = await open_front(Keeper(), state, EdgeConfig(**config), world, KeyBook)
            lines = dict(line.split() for line in front.lines())
            try:
                if scenario is not None:
                    await scenario(lines)
                return lines
            finally:
                await front.close()

    return asyncio.run(main())


def test_it_is_off_unless_it_is_named(tmp_path):
    """HTTP alone."""
    assert "grpc" not in opened(tmp_path / "edge")


def test_its_port_is_kept(tmp_path):
    """Port 0 is the one that it had."""
    first = opened(tmp_path / "edge", grpc="127.0.0.1:0")["grpc"]
    assert opened(tmp_path / "edge", grpc="127.0.0.1:0")["grpc"] == first


def test_the_settings_bound_it(tmp_path):
    """The largest body is also the largest message."""

    async def scenario(lines):
        caller = Caller(lines["grpc"].rpartition(":")[2])
        big = question(inputs=[{"name": "x", "datatype": "UINT8", "shape": [2000]}], raw_input_contents=[bytes(2000)])
        assert (await caller.refused("ModelInfer", big))[0] == "RESOURCE_EXHAUSTED"
        assert (await caller.infer()).model_name == "digits"
        code, details, _ = await caller.refused("RepositoryIndex", m.RepositoryIndexRequest())
        assert (code, "repository" in details) == ("UNAVAILABLE", True)
        await caller.channel.close()

    opened(tmp_path / "edge", scenario, grpc="127.0.0.1:0", http_body_bytes=1000)


def test_a_front_that_cannot_open_leaves_nothing_open(tmp_path):
    """HTTP is closed again, and can be had at the next start."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUse):
            opened(tmp_path / "edge", grpc=f"127.0.0.1:{port}")
    assert opened(tmp_path / "edge", grpc=f"127.0.0.1:{port}")["grpc"] == f"127.0.0.1:{port}"


def test_an_address_that_is_none_is_a_setting_that_is_wrong():
    """Before anything is opened."""
    with pytest.raises(InvalidConfig, match="grpc"):
        EdgeConfig(grpc="here")
