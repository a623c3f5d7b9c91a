"""`msrt model stats`, and the share of the traffic that `msrt model rollout` takes."""

from __future__ import annotations

import json

import pytest

from msrt import errors
from msrt.operator.model import _evidence, _traffic
from msrt.operator.stats import _show

ROW = {
    "model": "net", "version": 2, "region": "north", "per_s": 12.5, "requests": 100, "errors": 3, "p50_ms": 1.25,
    "p99_ms": 8.5, "queue_ms": 0.5, "compute_ms": 0.75, "batch": 1.5, "cache_hits": None, "escalated": None,
    "elsewhere": None, "copies": None, "disagree": None, "canary": True,
}  # fmt: skip


def test_a_table_shows_what_there_is(capsys):
    """Columns of which nothing is known are left out; a canary is called one."""
    _show([ROW], as_json=False)
    head, line = capsys.readouterr().out.splitlines()
    assert "p99 ms" in head
    assert "cache" not in head
    assert "2 canary" in line
    _show([{**ROW, "cache_hits": 0.25}], as_json=False)
    out = capsys.readouterr().out
    assert "cache hits" in out
    assert "25.0%" in out


def test_json_has_everything(capsys):
    """One document, as the cloud said it."""
    _show([ROW], as_json=True)
    assert json.loads(capsys.readouterr().out) == [ROW]


def test_without_requests_it_says_so(capsys):
    """No empty table."""
    _show([], as_json=False)
    assert "no requests yet" in capsys.readouterr().out


def test_stats_of_a_real_cloud(cloud, msrt):
    """A list before the first request; a model that is not there is one clear sentence."""
    done = msrt("model", "stats", "--json", "--state", cloud.state)
    assert (done.code, json.loads(done.out)) == (0, [])
    done = msrt("model", "stats", "ghost", "--state", cloud.state)
    assert done.code == 1
    assert "no model is named 'ghost'" in done.err


@pytest.mark.parametrize("text", ["5", "0%", "100%", "-1%", "x%", "nan%"])
def test_a_share_that_is_none_is_refused(text):
    """Between 1 % and 99 %: with all of the traffic there is nothing to compare with."""
    with pytest.raises(errors.CallerError, match="1% to 99%"):
        _traffic(text)


def test_a_share_is_told_to_the_cloud():
    """Without the option nothing is, so that an older cloud understands."""
    assert _traffic("2.5%") == {"traffic": 0.025}
    assert _traffic("") == {}


def test_progress_says_what_is_known_of_a_canary():
    """Each thing judged, its share and what is found; nothing once it is over."""
    known = [{"what": "errors", "share": 0.01, "of": 300, "finding": "open"}]
    assert _evidence({"state": "canary", "evidence": known}) == "canary  errors 1.0% of 300 (open)"
    assert _evidence({"state": "done", "evidence": known}) == "done"
