"""The catalogue of errors."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from msrt import errors
from msrt.errors import base
from msrt.serving.oip import status_of

ROOT = Path(__file__).resolve().parents[2]
ROOTS = (errors.MsrtError, errors.CallerError, errors.PeerError, errors.LocalError)
KINDS = sorted(
    {kind for kind in base._by_code.values() if kind.__module__.startswith("msrt.errors.")} - set(ROOTS),
    key=lambda k: k.code,
)


def test_every_error_is_raised_somewhere():
    """A kind that nobody raises is a promise that nobody keeps."""
    code = "\n".join(
        path.read_text() for room in ("runtime", "cloud", "edge", "device") for path in (ROOT / room).rglob("*.py")
    )
    assert [kind for kind in KINDS if not re.search(rf"(?<!class )\b{kind.__name__}\(", code)] == []


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.code)
def test_the_status_of_an_error_says_who_is_at_fault(kind):
    """4xx: asking the same again is in vain; 503, 504, 429: it may be in a while; 500: this node is ill (507: full)."""
    status = status_of(kind.__new__(kind))
    if issubclass(kind, errors.LocalError):
        assert status == (507 if issubclass(kind, errors.DiskFull) else 500)
    elif issubclass(kind, errors.CallerError):
        assert status in {400, 401, 404, 409}
    else:
        assert status in {403, 409, 413, 429, 503, 504}


def test_an_error_of_a_newer_peer_keeps_its_words():
    """Its code is unknown here: who is at fault is all that can be said."""
    error = errors.from_wire("of_tomorrow", "it rained", "take an umbrella")
    assert type(error) is errors.PeerError
    assert str(error) == "it rained; take an umbrella"


def test_a_hint_of_its_kind_stands_where_none_was_given():
    """And one that was given stands in its place."""
    assert str(errors.InviteSpent("it was used")) == "it was used; ask for a new one: msrt invite"
    assert str(errors.InviteSpent("it was used", hint="wait")) == "it was used; wait"
    assert str(errors.from_wire("invite_spent", "it was used")) == "it was used; ask for a new one: msrt invite"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (TimeoutError(), "TimeoutError"),
        (MemoryError(), "MemoryError"),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
        (errors.from_wire("unavailable", ""), "Unavailable"),
        (errors.Revoked("it was removed"), "it was removed; join again with a new invite"),
    ],
)
def test_an_exception_without_words_has_the_name_of_its_type(error, words):
    """Of `TimeoutError()` there is nothing else to tell."""
    assert errors.words_of(error) == words


def test_no_event_has_an_empty_error():
    """Whatever tells of an exception tells it by `words_of`, or by the text that one of ours must have."""
    shows = re.compile(r"\b(?:error|why)=str\((?:error|failure)\b[^)]*\)(?! or )")
    assert [
        f"{path.relative_to(ROOT)}: {found[0]}"
        for room in ("runtime", "cloud", "edge", "device")
        for path in sorted((ROOT / room).rglob("*.py"))
        for found in shows.finditer(path.read_text())
    ] == []
