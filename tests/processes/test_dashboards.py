"""Grafana's dashboards, against the pages that a running tree shows."""

from __future__ import annotations

import json
import re
import socket
import urllib.request
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.bench.tree import Tree

pytestmark = pytest.mark.processes
DEPLOY = Path(__file__).parents[2] / "deploy"
BOARDS = {path.stem: json.loads(path.read_text()) for path in sorted((DEPLOY / "grafana").glob("*.json"))}
TARGET = {"job", "instance", "tier", "region", "le"}
"""Labels that Prometheus adds, or a histogram has."""
METRIC = re.compile(r"\b((?:msrt|nv|process)_\w+|up)\b(?:\{([^}]*)\})?")
SUFFIXES = ("_bucket", "_sum", "_count", "_total")


def queries(board):
    """Title and expression of each query."""
    return [(panel["title"], target["expr"]) for panel in board["panels"] for target in panel.get("targets", ())]


@pytest.fixture(scope="module")
def families():
    """Name to (kind, labels that its samples have) of cloud, edge and device; kinds of all, labels where known."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with Tree() as tree:
        edge = tree.edge("edge", "north")
        tree.device("one", "north", "--metrics", f"127.0.0.1:{port}")
        tree.push()
        tree.serving(edge.field("http"))
        urls = tree.procs["cloud"].field("http"), edge.field("http"), f"http://127.0.0.1:{port}"
        pages = [urllib.request.urlopen(f"{url}/metrics", timeout=10).read().decode() for url in urls]
    found: dict[str, tuple[str, set[str]]] = {}
    for page in pages:
        for name, kind in re.findall(r"^# TYPE (\w+) (\w+)$", page, re.MULTILINE):
            found.setdefault(name, (kind, set()))
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                name = next((n for n in (sample.name, base(sample.name)) if n in found), sample.name)
                found.setdefault(name, (family.type, set()))[1].update(sample.labels)
    return found


def base(name):
    return next((name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix)), name)


def family_of(name, families):
    """A query names a sample, a page a family."""
    return families.get(name) or families.get(base(name))


@pytest.mark.parametrize("name", BOARDS)
def test_every_query_names_an_exported_metric(name, families):
    """And chooses by labels that it has, as far as there is a sample to see them at."""
    for title, expr in queries(BOARDS[name]):
        named = METRIC.findall(expr)
        assert named, (title, expr)
        for metric, matchers in named:
            if metric == "up":
                continue
            family = family_of(metric, families)
            assert family is not None, f"{title}: nobody exports {metric}"
            labels = {label.removeprefix("exported_") for label in re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"', matchers)}
            assert not family[1] or labels <= family[1] | TARGET | {"region"}, f"{title}: {metric} has {family[1]}"


@pytest.mark.parametrize("name", BOARDS)
def test_rates_are_taken_of_counters_alone(name, families):
    """A rate of a gauge is a number without meaning."""
    for title, expr in queries(BOARDS[name]):
        for metric in re.findall(r"(?:rate|increase)\((\w+)", expr):
            kind, _ = family_of(metric, families)
            assert kind in ("counter", "histogram"), f"{title}: {metric} is a {kind}"
        for metric in re.findall(r"(?<!rate\()(?<!increase\()\b(msrt_\w+_total)\b", expr):
            pytest.fail(f"{title}: {metric} without a rate")


@pytest.mark.parametrize("name", BOARDS)
def test_queries_are_well_formed(name):
    """Brackets are closed in their order, variables are the board's own."""
    own = {variable["name"] for variable in BOARDS[name]["templating"]["list"]} | {"__rate_interval"}
    for title, expr in queries(BOARDS[name]):
        bare, open_ = re.sub(r'"[^"]*"', '""', expr), []
        for sign in bare:
            if sign in "([{":
                open_.append(sign)
            elif sign in ")]}":
                assert "".join(open_[-1:]) + sign in ("()", "[]", "{}"), (title, expr)
                open_.pop()
        assert not open_, (title, expr)
        assert set(re.findall(r"\$(\w+)", expr)) <= own, (title, expr)


@pytest.mark.parametrize("name", BOARDS)
def test_panels_say_what_they_show(name):
    """Each has a title, a unit and a place of its own; boards have names that stay."""
    board = BOARDS[name]
    assert (board["uid"], board["title"]) == (f"msrt-{name}", f"msrt: {name}")
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        assert panel["title"]
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
        if panel["type"] != "row":
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
            assert panel["datasource"]["uid"] == "msrt"
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_boards_choose_by_region_model_and_version():
    """What an operator narrows by."""
    names = {name: [variable["name"] for variable in board["templating"]["list"]] for name, board in BOARDS.items()}
    assert names["serving"] == ["region", "model", "version"]
    assert "region" in names["tree"]
    assert names["training"][0] == "task"


def test_grafana_is_told_of_them():
    """The provider reads the folder where compose puts all of them."""
    (provider,) = yaml.safe_load((DEPLOY / "grafana" / "dashboards.yml").read_text())["providers"]
    volumes = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["grafana"]["volumes"]
    mounted = {volume.split(":")[1] for volume in volumes}
    assert {f"{provider['options']['path']}/{name}.json" for name in BOARDS} <= mounted
    assert "/etc/grafana/provisioning/dashboards/msrt.yml" in mounted
