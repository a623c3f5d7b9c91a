"""What `msrt train` prints and writes, from what the cloud says."""

from __future__ import annotations

import asyncio
import csv
import io

import pytest
from click.testing import CliRunner
from rich.console import Console
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from msrt import cli, errors
from msrt.operator import train
from msrt.operator.plot import plot
from msrt.operator.session import patient
from msrt.operator.train_compare import costs, differing
from msrt.operator.train_export import as_csv, write_boards, write_csv
from msrt.operator.train_list import list_jobs, moment
from msrt.operator.train_logs import _excuse
from msrt.operator.train_watch import _Lines, _note, size, view


def line(number, accuracy, **more):
    """A round's line of a report."""
    return {
        "round": number, "loss": 1 / number, "accuracy": accuracy, "worst_decile": accuracy, "seconds": 2.0,
        "bytes_up": 100, "bytes_down": 300, "nodes": 3, "late": {}, "failed": {"n1": "it broke"}, "absent": 0,
        "stragglers": [], "wall": 1000.0 + number, **more,
    }  # fmt: skip


ROUNDS = [line(1, 0.5), line(2, 0.8), line(3, 0.9), line(4, 0.85)]
REPORT = {"job": "digits", "rounds": ROUNDS}
ROW = {
    "job": "digits", "state": "running", "round": 4, "rounds": 10, "metrics": {"loss": 0.25, "accuracy": 0.85},
    "reported": 2, "expected": 3, "stragglers": ["camera-7"], "bytes_up": 400, "bytes_down": 1_200_000, "reason": "",
}  # fmt: skip


def drawn(thing):
    console = Console(width=120, force_terminal=True, color_system=None)
    with console.capture() as shown:
        console.print(thing)
    return shown.get()


def test_a_watched_job_shows_rounds_nodes_bytes_and_who_is_waited_for():
    """The bars, a line a round, the straggler by name."""
    shown = drawn(view(ROW, ROUNDS))
    for word in ("4/10", "2/3 nodes", "waiting for camera-7", "up 400 B", "down 1.2 MB", "0.85"):
        assert word in shown, shown
    assert len(shown.splitlines()) == 2 + 1 + 1 + 1 + len(ROUNDS)


def test_a_watched_job_shows_whom_it_asked_and_what_they_did_of_their_work():
    """Only where a round asks a part of all, or somebody did a part of its epochs."""
    plain = drawn(view(ROW, [line(1, 0.5, asked=3, eligible=3, work=1.0)]))
    assert "work" not in plain
    assert "3/3" not in plain
    shown = drawn(view(ROW, [line(1, 0.5, asked=4, eligible=40, work=0.625)]))
    assert "3 of 4/40" in shown
    assert "0.625" in shown
    row = {**ROW, "worst_decile": 0.41, "metrics": {"accuracy": 0.85, "work": 0.62}}
    assert "accuracy=0.8500 worst tenth=0.4100 work=0.62 " in _note(row)


def test_without_a_terminal_a_change_is_one_line():
    """With the same facts."""
    assert _note(ROW) == "running loss=0.2500 accuracy=0.8500 2/3 reported waiting for camera-7 up 400 B down 1.2 MB"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (999_700, "1 MB"), (2.5e9, "2.5 GB"), (9e15, "9e+03 TB")],
)
def test_bytes_are_for_people(count, text):
    """Three figures and a unit."""
    assert size(count) == text


def test_what_a_job_reached_and_what_the_way_there_cost():
    """Final, best, and rounds, seconds and bytes until an accuracy; nothing where it was never reached."""
    found = costs(ROUNDS, 0.8)
    assert (found["accuracy"], found["best_accuracy"], found["loss"], found["best_loss"]) == (0.85, 0.9, 0.25, 0.25)
    assert (found["rounds_to"], found["seconds_to"], found["bytes_up_to"], found["bytes_down_to"]) == (2, 4.0, 200, 600)
    assert (found["seconds"], found["bytes_up"]) == (8.0, 400)
    assert costs(ROUNDS, 0.95)["rounds_to"] is None
    assert costs([], None)["accuracy"] is None


def test_only_settings_that_differ_are_shown():
    """By their path, defaults filled in, the same codec said in two ways being the same."""
    one = {"name": "a", "task": "t:T", "compression": "fp32", "train": {"lr": 0.1}}
    two = {"name": "b", "task": "t:T", "compression": {"device": "fp32", "region": "fp32"}, "rounds": 5}
    assert differing({"a": one, "b": two}) == {"rounds": {"a": 20, "b": 5}, "train.lr": {"a": 0.1, "b": 0.05}}


def test_settings_of_a_newer_cloud_are_compared_as_they_are():
    """What this version does not know is no fault."""
    assert differing({"a": {"unheard": {"of": 1}}, "b": {}}) == {"unheard.of": {"a": 1, "b": None}}


def test_curves_are_drawn_between_their_ends():
    """The best at the top, a mark at the end of each; gaps and one single point are no fault, nothing draws nothing."""
    lines = plot({"a": [0.0, 0.5, 1.0], "b": [None, 0.25]}, "accuracy", width=20, height=5)
    assert lines[1].strip().startswith("1 ┤")
    assert lines[1].endswith("●")
    assert lines[5].strip().startswith("0 ┤")
    assert [one.strip() for one in lines[-2:]] == ["● a", "▲ b"]
    assert plot({"a": [0.3]}, "loss")
    assert plot({"a": [None, float("nan")]}, "loss") == []


def test_curves_are_a_table_for_others():
    """A header and a line a round; lists of nodes are how many they are."""
    rows = list(csv.DictReader(io.StringIO(as_csv(REPORT))))
    assert [row["round"] for row in rows] == ["1", "2", "3", "4"]
    assert (rows[0]["accuracy"], rows[0]["failed"], rows[0]["bytes_down"]) == ("0.5", "1", "300")


def test_curves_are_scalars_for_tensorboard(tmp_path):
    """Each number of each round at its time; an export again replaces the one before."""
    for _ in range(2):
        write_boards(tmp_path / "digits", REPORT)
    [file] = (tmp_path / "digits").iterdir()
    events = [event for event in EventFileLoader(str(file)).Load() if event.summary.value]
    assert [event.step for event in events] == [1, 2, 3, 4]
    assert events[0].wall_time == 1001.0
    found = {value.tag: value.tensor.float_val[0] for value in events[1].summary.value}
    assert found["accuracy"] == pytest.approx(0.8)
    assert found["bytes_up"] == 100


def test_a_file_that_cannot_be_written_is_one_sentence(tmp_path):
    """With its name."""
    with pytest.raises(errors.LocalError, match="cannot be written to"):
        write_csv(tmp_path / "nowhere" / "x.csv", REPORT)
    (tmp_path / "file").touch()
    with pytest.raises(errors.LocalError, match="cannot be written to"):
        write_boards(tmp_path / "file" / "job", REPORT)


@pytest.mark.parametrize(
    ("text", "wall"), [("", 0.0), ("2h", 92_800.0), ("1.5m", 99_910.0), ("1970-01-02T00:00+00:00", 86_400.0)]
)
def test_a_moment_is_a_date_or_so_long_ago(text, wall):
    """As people say it."""
    assert moment(text, 100_000.0) == wall


def test_a_moment_that_is_none_is_refused():
    """With the forms that there are."""
    with pytest.raises(errors.CallerError, match="2h, 3d"):
        moment("yesterday", 0.0)


def test_what_a_private_job_spent_is_seen_wherever_its_rounds_are():
    """In the watched table, the line, the comparison and the CSV; other jobs have no such column."""
    private = [line(1, 0.5, epsilon=1.25, delta=1e-5), line(2, 0.6, epsilon=2.5, delta=1e-5)]
    assert "epsilon" not in drawn(view(ROW, ROUNDS))
    assert "2.5" in drawn(view(ROW, private)).splitlines()[-1]
    assert "epsilon=2.5000" in _note({**ROW, "metrics": {"epsilon": 2.5}})
    assert costs(private, None)["epsilon"] == 2.5
    assert costs(ROUNDS, None)["epsilon"] is None
    rows = list(csv.DictReader(io.StringIO(as_csv({"rounds": private}))))
    assert [row["epsilon"] for row in rows] == ["1.25", "2.5"]


@pytest.mark.parametrize(
    ("options", "said"), [((), "no job yet: msrt train run FOLDER"), (("--only", "failed"), "no such job")]
)
def test_an_empty_list_says_what_to_do(monkeypatch, options, said):
    """Nothing was ever trained, or nothing is as was asked for."""
    monkeypatch.setattr("msrt.operator.train_list.ask", lambda *_: [])
    shown = CliRunner().invoke(list_jobs, options)
    assert shown.exit_code == 0
    assert said in shown.output


def test_a_node_whose_process_fails_is_named_once_with_what_it_said(capsys):
    """In a row of lines once and not at every look; on a terminal as long as it is so."""
    row = ROW | {"failed": {"camera-9": "training: ValueError: shard 1 is broken"}}
    assert "camera-9 failed: training: ValueError: shard 1 is broken" in drawn(view(row, ROUNDS))
    lines = _Lines()
    for round_ in (4, 5):
        asyncio.run(lines.show(None, row | {"round": round_}))
    assert capsys.readouterr().err.count("camera-9 failed") == 1


def test_nodes_that_have_no_lines_for_one_reason_are_one_line(capsys):
    """A thousand devices that a job never reached do not scroll away what the cloud printed."""
    rows = [{"node": f"n{i}", "name": f"cam-{i}", "lines": [], "error": "no process ran here"} for i in range(6)]
    silent = {}
    _excuse(rows, silent)
    _excuse(rows, silent)
    assert capsys.readouterr().err == "cam-0, cam-1, cam-2, cam-3 and 2 more: no process ran here\n"


class Away:
    """A cloud that raises or returns one of these after the other; `back`: a new session comes at once."""

    def __init__(self, *answers, back=True):
        self._answers, self._back = list(answers), back

    async def __call__(self, *_method, **_params):
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def here(self, _within_s):
        return self._back


def test_a_watch_goes_on_when_its_lease_was_given_away(capsys):
    """By a cloud that was busy, or that is another process by now: without a word while it is back at once."""
    cloud = Away(errors.StaleEpoch("the parent gave this node's lease away"), errors.Disconnected("gone"), [ROW])
    assert asyncio.run(patient(cloud, "train.status", job="digits")) == [ROW]
    assert capsys.readouterr().err == ""


def test_a_watch_says_once_that_it_waits_for_the_cloud_and_when_that_is_back(capsys):
    """However often it asks meanwhile; also where a call waits for the session by itself."""
    for answers in ([errors.Disconnected("gone"), errors.Disconnected("no parent"), [ROW]], [[ROW]]):
        capsys.readouterr()
        assert asyncio.run(patient(Away(*answers, back=False), "train.status", job="digits")) == [ROW]
    assert capsys.readouterr().err.splitlines() == [
        "the cloud is away: waiting for it, for 10 minutes at most", "the cloud is back",
    ]  # fmt: skip


def test_a_table_of_jobs_has_the_columns_that_say_something(capsys):
    """How many reported only while a round is open, a reason only where there is one."""
    train._table([ROW])
    assert "2/3" in capsys.readouterr().out
    train._table([ROW | {"reported": 0, "expected": 0, "stragglers": []}])
    assert capsys.readouterr().out.split("\n")[0].split() == [
        "job",
        "state",
        "round",
        "rounds",
        "metrics",
        "up",
        "down",
    ]


def test_who_stops_watching_is_told_that_the_job_goes_on(monkeypatch, capsys):
    """Ctrl-C ends the watch and not the job: how to come back, and how to end that too."""

    def interrupted(_state, _work):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "ask", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train._follow(None, "digits", None, as_json=False)
    assert "digits goes on: msrt train status digits --watch" in capsys.readouterr().err


def test_a_list_of_jobs_is_not_as_wide_as_its_longest_reason(capsys):
    """One job alone shows it whole."""
    row = ROW | {"state": "failed", "reason": "5 rounds in a row were given up: " + 40 * "no space is left; "}
    train._table([row])
    assert row["reason"].strip() in capsys.readouterr().out
    train._table([row, ROW])
    shown = capsys.readouterr().out
    assert "5 rounds in a row were given up" in shown
    assert max(map(len, shown.splitlines())) < 220


def test_a_trigger_says_only_what_may_start_it():
    """Events, drift, or both."""
    found = {"watches": True, "events": 3, "of": 40, "model": "dig", "drift": 0.0, "drifted": [], "devices": 1}
    assert train._trigger(found | {"cooldown_s": 0.0}) == "3/40 events of dig"
    drifts = {"of": 0, "drift": 0.25, "cooldown_s": 5.0}
    assert train._trigger(found | drifts) == "drift at 0/1 devices, not within 5 s"


def test_a_report_that_could_not_be_written_is_refused_before_the_job_runs(tmp_path, monkeypatch, capsys):
    """And not after hours of it."""
    monkeypatch.setattr(train, "ask", lambda *_: pytest.fail("the cloud was asked"))
    (tmp_path / "job.toml").write_text('name = "j"\ntask = "a:B"\n')
    file = tmp_path / "nowhere" / "report.json"
    assert cli.main(["train", "run", str(tmp_path), "--report", str(file)]) == 1
    assert f"there is no folder {file.parent}" in capsys.readouterr().err


def test_an_accuracy_to_reach_is_a_share(capsys):
    """95 is none."""
    assert cli.main(["train", "compare", "a", "b", "--to", "95"]) == 2
    assert "0<=x<=1" in capsys.readouterr().err
