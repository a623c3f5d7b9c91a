"""Keys and TLS on real processes: an edge that other machines can reach, and who comes in. One tree for all."""

from __future__ import annotations

import http.client
import json
import os
import ssl
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest

import msrt
from msrt import errors
from tests.bench.tree import BODY, MSRT, Tree, X, until

FAR = {"X-Forwarded-For": "192.0.2.1"}
"""What makes a request from this machine one of another's."""
BLIND = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
BLIND.check_hostname, BLIND.verify_mode = False, ssl.CERT_NONE


class House:
    """A cloud on loopback, an edge off it, a device, and a model."""

    def __init__(self, tree):
        self.tree = tree
        self.edge = tree.edge("e1", "north", "--http", "0.0.0.0:0")
        self.port = int(self.edge.field("http").rpartition(":")[2])
        tree.device("d1", "north")
        tree.push()
        self.key("first", "client")
        until("the model is served", lambda: self.ask(self.keys["first"])[0] == 200, 30)

    keys: dict[str, str]

    @property
    def url(self):
        return f"https://127.0.0.1:{self.port}"

    def key(self, name, role, *more):
        """Make a key, and wait until the edge knows it."""
        self.keys = {**getattr(self, "keys", {}), name: self.tree.cli("key", "create", name, "--role", role, *more)}
        until(f"the edge knows {name}", lambda: self.ask(self.keys[name], "/v2")[0] != 401)
        return self.keys[name]

    def ask(self, key="", path="/v2/models/mlp/infer", body=None, headers=FAR):
        """Status, headers and body of one request."""
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=10, context=BLIND)
        try:
            sent = {**headers, **({"Authorization": f"Bearer {key}"} if key else {})}
            infer = path.endswith("/infer")
            connection.request("POST" if infer else "GET", path, (body or BODY) if infer else None, sent)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()


@pytest.fixture(scope="module")
def house():
    with Tree() as tree:
        yield House(tree)


def test_nobody_comes_in_without_a_key(house):
    """No key, a made-up one, one of another tree's shape: 401 and a sentence; health is everybody's."""
    for key in ("", "secret", "msrt_aaaaaaaaaaaaaaaa_" + "x" * 43, house.keys["first"][:-2]):
        status, headers, body = house.ask(key)
        assert (status, headers["WWW-Authenticate"]) == (401, "Bearer")
        assert "API key" in json.loads(body)["error"]
    assert house.ask(path="/v2/health/ready")[0] == 200


def test_a_caller_on_the_edges_own_machine_needs_none(house):
    """It comes from loopback, through nobody."""
    assert house.ask(headers={})[0] == 200
    assert house.ask(path="/metrics", headers={})[0] == 200


def test_a_client_may_ask_and_an_operator_may_see_more(house):
    """403 names the key and what it may not."""
    client, operator = house.key("app", "client"), house.key("ops", "operator")
    assert house.ask(client)[0] == 200
    status, _, body = house.ask(client, "/metrics")
    assert status == 403
    assert "'app' of role client may not see events and metrics" in json.loads(body)["error"]
    assert house.ask(operator, "/metrics")[0] == 200


def test_a_key_in_haste_is_told_when_to_come_back(house):
    """429 with Retry-After, and the other keys notice nothing."""
    slow = house.key("slow", "client", "--rate", "2/s")
    answers = [house.ask(slow) for _ in range(12)]
    late = [headers["Retry-After"] for status, headers, _ in answers if status == 429]
    assert late
    assert set(late) == {"1"}
    assert {status for status, _, _ in answers} <= {200, 429}
    assert house.ask(house.keys["first"])[0] == 200


def test_a_key_expires(house):
    """By the clock alone, with a sentence that says so."""
    brief = house.tree.cli("key", "create", "brief", "--role", "client", "--expires", str(1.5 / 86400))
    until("it expires", lambda: b"'brief' has expired" in house.ask(brief, "/v2")[2])


def test_a_revoked_key_ends_in_the_middle_of_its_requests(house):
    """It is answered until then, with 401 from then on, and the requests of another key go on."""
    seen, over = {"gone": [], "stays": []}, threading.Event()
    keys = {name: house.key(name, "client") for name in seen}

    def load(name):
        while not over.is_set():
            seen[name].append(house.ask(keys[name])[0])

    threads = [threading.Thread(target=load, args=(name,)) for name in seen]
    for thread in threads:
        thread.start()
    try:
        until("both are answered", lambda: all(200 in found for found in seen.values()))
        house.tree.cli("key", "revoke", "gone")
        until("the edge heard of it", lambda: 401 in seen["gone"])
        more = len(seen["gone"]) + 10
        until("more requests", lambda: len(seen["gone"]) > more)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    turn = seen["gone"].index(401)
    assert set(seen["gone"][:turn]) == {200}
    assert set(seen["gone"][turn:]) == {401}
    assert set(seen["stays"]) == {200}
    states = {row["name"]: row["state"] for row in json.loads(house.tree.cli("key", "list", "--json"))}
    assert (states["gone"], states["stays"]) == ("revoked", "active")


def test_the_client_library_pins_the_edge_and_shows_its_key(house):
    """By argument and by environment; without the pin, or with another key, it says what is wrong."""
    rows, pin, key = np.array([X], np.float32), house.edge.field("sha256"), house.keys["first"]
    with msrt.connect(house.url, key=key, fingerprint=pin) as client:
        answer = client.infer("mlp", {"x": rows})
        assert answer.device == "d1"
        until("the list of edges", lambda: [edge.http_fingerprint for edge in client.edges] == [pin])
        answers = list(client.stream("mlp", ({"x": rows} for _ in range(300))))
        assert [each.index for each in answers] == list(range(300))
        large = client.infer("mlp", {"x": np.repeat(rows, 3000, axis=0)})
        np.testing.assert_allclose(large["y"], np.repeat(answer["y"], 3000, axis=0), rtol=1e-5)
    with msrt.connect(house.url, key="msrt_wrong", fingerprint=pin) as client, pytest.raises(errors.Unauthorized):
        client.infer("mlp", {"x": rows})
    with msrt.connect(house.url, key=key) as client, pytest.raises(errors.WrongServerKey, match="vouches"):
        client.infer("mlp", {"x": rows})


def test_the_command_line_shows_its_key(house, tmp_path):
    """`msrt infer` with --key, or MSRT_KEY."""
    file = tmp_path / "x.json"
    file.write_text(json.dumps({"x": [X]}))

    def infer(*more, **env):
        done = subprocess.run(
            [MSRT, "infer", "mlp", str(file), "--url", house.url, "--fingerprint", house.edge.field("sha256"), *more],
            capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **env},
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    assert "on d1" in infer("--key", house.keys["first"])[1]
    assert infer(MSRT_KEY=house.keys["first"])[0] == 0
    code, said = infer("--key", "msrt_wrong")
    assert (code, said.count("\n")) == (1, 1)
    assert "not known here" in said


def test_the_secret_is_nowhere_on_disk(house):
    """Neither in a journal, nor in a log, of any node."""
    secrets = [key.split("_", 2)[2].encode() for key in house.keys.values()]
    read = 0
    for file in Path(house.tree.path).rglob("*"):
        if file.is_file():
            data = file.read_bytes()
            read += len(data)
            assert not any(secret in data for secret in secrets), file
    assert read


def test_an_edge_that_starts_without_its_cloud_knows_the_keys(house):
    """Also the revoked ones; its port, its certificate and its fingerprint are those from before."""
    good, bad, pin = house.key("kept", "client"), house.key("lost", "client"), house.edge.field("sha256")
    house.tree.cli("key", "revoke", "lost")
    until("the edge heard of it", lambda: house.ask(bad, "/v2")[0] == 401)
    house.tree.procs["cloud"].stop()
    house.edge.stop()
    house.edge = house.tree.start("e1", "edge", "join", "--http", f"0.0.0.0:{house.port}")
    assert house.edge.field("sha256") == pin
    assert house.ask(good, "/v2")[0] == 200
    status, _, body = house.ask(bad, "/v2")
    assert status == 401
    assert "revoked" in json.loads(body)["error"]
    assert house.ask("", "/v2")[0] == 401
    until("its device is back", lambda: house.ask(good)[0] == 200, 30)
