"""Bodies in gzip and deflate, and those that would fill the memory."""

from __future__ import annotations

import gzip
import json
import zlib

import pytest

from msrt.serving.compression import inflate
from tests.runtime.serving.caller import call

PATH = "/v2/models/digits/infer"
VALUES = list(range(500))
BODY = json.dumps({"inputs": [{"name": "x", "shape": [500], "datatype": "INT32", "data": VALUES}]}).encode()
PACK = {"gzip": gzip.compress, "deflate": zlib.compress, "x-gzip": gzip.compress, "identity": bytes}


def ask(body, encoding, **more):
    return call(PATH, body, headers={"content-encoding": encoding, **more.pop("headers", {})}, **more)


@pytest.mark.parametrize("encoding", PACK)
def test_a_packed_body_is_unpacked(encoding):
    """Gzip and deflate as clients send them."""
    answer = ask(PACK[encoding](BODY), encoding)
    assert (answer.status, answer.json["outputs"][0]["data"]) == (200, VALUES)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_an_answer_is_packed_for_who_asks_for_that_only(encoding):
    """A caller who lists what his library knows gets it plain; one that is small as well."""
    answer = call(PATH, BODY, headers={"accept-encoding": encoding})
    assert answer.headers["content-encoding"] == encoding
    assert json.loads(zlib.decompress(answer.body, 47))["outputs"][0]["data"] == VALUES
    assert "content-encoding" not in call(PATH, BODY, headers={"accept-encoding": "gzip, deflate"}).headers
    small = {"inputs": [{"name": "x", "shape": [1], "datatype": "INT32", "data": [1]}]}
    assert "content-encoding" not in call(PATH, small, headers={"accept-encoding": encoding}).headers


@pytest.mark.parametrize(
    ("body", "encoding", "fault"),
    [
        (BODY, "br", "br"),
        (BODY, "gzip, deflate", "is not supported"),
        (BODY, "gzip", "is not gzip"),
        (gzip.compress(BODY)[:-9], "gzip", "ends too early"),
        (gzip.compress(BODY) + b"more", "gzip", "4 bytes after"),
        (b"", "deflate", "ends too early"),
    ],
)
def test_a_body_that_cannot_be_unpacked_is_refused(body, encoding, fault):
    """400 names why."""
    answer = ask(body, encoding)
    assert (answer.status, fault in answer.json["error"]) == (400, True)


def test_a_bomb_stays_within_the_bound():
    """A body of some KiB that holds 64 MiB: 413, and never more than the bound in memory."""
    bomb = gzip.compress(bytes(64 << 20))
    assert ask(bomb, "gzip").status == 413
    assert ask(bomb, "gzip", max_body=1000).status == 413
    assert len(inflate(gzip.compress(bytes(1000)), b"gzip", 1000)) == 1000
