"""What the table's figures are made of."""

from __future__ import annotations

import pytest

from tests.bench import headlines
from tests.bench.load import Ask, lua, parsed
from tests.bench.serving import ratio_row
from tests.bench.stats import median_ratio

SAID = """
  Latency Distribution
     50%    1.05ms
     75%    1.10ms
     90%    1.30ms
     99%  950.00us
  40000 requests in 2.00s, 9.00MB read
  Socket errors: connect 0, read 1, write 0, timeout 2
  Non-2xx or 3xx responses: 4
Requests/sec:  19876.54
"""


def test_wrk_is_read():
    """Rate, latencies in ms whatever the unit, and everything that was not answered."""
    run = parsed(SAID)
    assert run.rate == 19876.54
    assert (run.p50_ms, run.p99_ms) == (1.05, pytest.approx(0.95))
    assert run.bad == 7


def test_any_byte_can_be_a_body():
    """A quote, a newline or a zero in a tensor is no end of the script's string."""
    assert lua(Ask("u", b'"\n\x00\xff', {})).splitlines()[-1] == 'wrk.body = "\\034\\010\\000\\255"'


def test_a_ratio_is_of_pairs():
    """The machine's slow spell, in both of a pair, leaves the ratio; the interval holds the median."""
    pairs = [(200.0, 100.0)] * 5 + [(20.0, 10.0)] * 5
    assert median_ratio(pairs) == (2.0, 2.0, 2.0)
    value, low, high = median_ratio([(100.0 + n, 100.0) for n in range(-5, 6)])
    assert low < value == 1.0 < high


def test_a_peer_that_fails_is_said():
    """Answers of the peer that were errors are seen in its row."""
    mine, other = parsed(SAID), parsed(SAID)
    row = ratio_row("x", [mine], [other], "Peer", 2.0)
    assert row.value == 1.0
    assert not row.holds
    assert "7 of its answers failed" in row.peer


def test_the_front_page_quotes_what_was_measured():
    """Its table is that of RESULTS.md, as `--keep` writes it; `tests.bench.headlines.renew()` brings it there."""
    assert headlines.table(headlines.RESULTS.read_text()) in headlines.README.read_text()


def test_every_headline_is_a_row():
    """None is left out because its row has another name now."""
    kept = headlines.sections(headlines.RESULTS.read_text())
    assert [what for _, part, what in headlines.HEADLINES if f"| {what} |" not in kept[part]] == []
