"""What a job that is over leaves on a node's disk."""

from __future__ import annotations

from msrt.training.leavings import clear


def job(tmp_path, toml='name = "job"\n'):
    folder = tmp_path / "jobs" / "job"
    (folder / "sources" / "__pycache__").mkdir(parents=True)
    (folder / "sources" / "job.toml").write_text(toml)
    for name in ("weights", "push-0", "residual-3.f32"):
        (folder / name).write_bytes(b"1234")
    return folder


def test_nothing_is_left_of_a_job_that_is_over(tmp_path):
    """A trigger starts one job after the other, and each of them has a model's weights there a few times."""
    folder = job(tmp_path)
    clear(folder, "n1")
    assert list((tmp_path / "jobs").iterdir()) == []
    clear(folder, "n1")


def test_what_a_node_keeps_to_itself_stays(tmp_path):
    """Its own layers can be served later; what it gave away of its privacy is given away for ever."""
    folder = job(tmp_path)
    (folder / "head-8.f32").write_bytes(b"1234")
    (folder / "releases").write_text("5")
    clear(folder, "n1")
    assert sorted(path.name for path in folder.iterdir()) == ["head-8.f32", "releases"]


def test_checkpoints_of_a_group_go_where_others_see_them(tmp_path):
    """Those that this node began; the last node of the group takes the job's folder along."""
    shared = tmp_path / "shared"
    for node in ("n1", "n2"):
        (shared / "job" / node / "4-0" / "60").mkdir(parents=True)
    (shared / "other").mkdir()
    for node, left in (("n1", ["n2"]), ("n2", None)):
        clear(job(tmp_path, f'name = "job"\n[cluster]\nnodes = 2\nshared = "{shared}"\n'), node)
        assert (sorted(path.name for path in (shared / "job").iterdir()) if left else None) == left
    assert [path.name for path in shared.iterdir()] == ["other"]
