"""What private jobs spend: equal to dp-accounting asked directly."""

from __future__ import annotations

import asyncio
import math

import dp_accounting as dp
import pytest
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant

from msrt.errors import InvalidJob
from msrt.training.accounting import Mechanism, Question, account, account_apart, question
from msrt.training.settings import parse_config

HEAD = 'name = "job"\ntask = "a:B"\n'


def asked(privacy, rounds=20, tail=""):
    region = 'compression = "fp32"\n'
    return question(parse_config(f"{HEAD}rounds = {rounds}\n{region}[privacy]\n{privacy}\n{tail}"))


def test_central_rounds_cost_what_a_gaussian_mechanism_costs_each_time():
    """With the multiplier of the job; the closed form is below what Renyi gives, and what PLD gives is close to it."""
    found = account(asked('mode = "central"\nclip = 0.5\nnoise = 1.1'))
    assert found.noise == 1.1
    for rounds in (1, 7, 20):
        event = dp.SelfComposedDpEvent(dp.GaussianDpEvent(1.1), rounds)
        renyi = RdpAccountant().compose(event).get_epsilon(1e-5)
        exact = dp.get_epsilon_gaussian(1.1 / math.sqrt(rounds), 1e-5)
        assert found.after(rounds) == pytest.approx(exact, rel=1e-9)
        assert exact <= renyi
    assert found.after(1) == pytest.approx(PLDAccountant().compose(dp.GaussianDpEvent(1.1)).get_epsilon(1e-5), rel=1e-3)
    assert found.after(0) == 0.0


def test_a_local_update_is_told_from_any_other():
    """Two updates differ by twice the clip: half the multiplier counts."""
    found = account(asked('mode = "local"\nclip = 3.0\nnoise = 4.0', 3))
    assert found.spent == pytest.approx([dp.get_epsilon_gaussian(2.0 / math.sqrt(n), 1e-5) for n in (1, 2, 3)])


def test_samples_are_drawn_by_chance_in_every_step():
    """Renyi bounds of the Poisson-sampled Gaussian mechanism, 2 epochs of 1 / rate steps a round."""
    found = account(asked('mode = "sample"\nclip = 1.0\nnoise = 1.0\nrate = 0.05', 3, "[train]\nepochs = 2"))
    event = dp.PoissonSampledDpEvent(0.05, dp.GaussianDpEvent(1.0))
    for rounds in (1, 3):
        direct = RdpAccountant().compose(event, 40 * rounds).get_epsilon(1e-5)
        assert found.after(rounds) == pytest.approx(direct, rel=1e-9)


@pytest.mark.parametrize(
    "mode", ['mode = "central"', 'mode = "local"', 'mode = "sample"\nrate = 0.1'], ids=["central", "local", "sample"]
)
def test_the_noise_follows_from_epsilon(mode):
    """All rounds together spend it, within a thousandth, and not more; the last round is not refused for rounding."""
    found = account(asked(f"{mode}\nclip = 1.0\nepsilon = 4.0", 10))
    assert 3.996 <= found.after(10) <= 4.0 * (1 + 1e-6)
    assert found.affordable(4.0) == 10


def test_rounds_that_can_be_paid():
    """As many as do not spend more than the budget."""
    found = account(asked('mode = "central"\nclip = 1.0\nnoise = 2.0', 30))
    assert found.affordable(found.after(12)) == 12
    assert found.affordable(found.after(1) / 2) == 0
    assert found.affordable(math.inf) == 30


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_what_was_spent_before_counts(rate):
    """A job that goes on from another one begins where that ended: the same as one long job, and as dp-accounting says
    of unlike ones."""
    one = Mechanism(1.5, rate, 5)
    long = account(Question(one, 9, 1e-5))
    assert account(Question(one, 4, 1e-5, before=((one, 5),))).spent == pytest.approx(long.spent[5:])
    other = Mechanism(0.9, rate, 2)
    found = account(Question(other, 3, 1e-5, before=((one, 5),)))
    gaussian = [dp.GaussianDpEvent(noise) for noise in (1.5, 0.9)]
    events = [dp.PoissonSampledDpEvent(rate, event) if rate else event for event in gaussian]
    direct = RdpAccountant().compose(events[0], 25).compose(events[1], 6).get_epsilon(1e-5)
    assert found.after(3) <= direct * (1 + 1e-9)
    assert found.after(3) >= 0.85 * direct


def test_an_epsilon_that_is_spent_already_is_refused():
    """No noise is enough."""
    before = ((Mechanism(0.5), 10),)
    for rate in (0.0, 0.1):
        with pytest.raises(InvalidJob, match="no noise"):
            account(Question(Mechanism(None, rate), 5, 1e-5, 2.0, before))


def test_the_answer_of_the_process_is_the_same():
    """It runs apart; what is wrong comes back as the error that it is."""
    question_ = asked('mode = "central"\nclip = 1.0\nepsilon = 3.0', 5)
    assert asyncio.run(account_apart(question_)) == account(question_)
    with pytest.raises(InvalidJob, match="no noise"):
        asyncio.run(account_apart(Question(Mechanism(None), 5, 1e-5, 2.0, ((Mechanism(0.5), 10),))))


def test_without_dp_accounting_a_job_is_refused_with_what_to_install(monkeypatch):
    """And not with an ImportError."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(InvalidJob, match=r"msrt\[private\]"):
        account(asked('mode = "central"\nclip = 1.0\nnoise = 1.0'))


def test_more_rounds_than_can_be_counted_are_refused():
    with pytest.raises(InvalidJob, match="20000 private rounds"):
        asked('mode = "central"\nclip = 1.0\nnoise = 1.0', 20_000)
