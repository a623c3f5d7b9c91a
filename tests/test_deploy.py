"""What deploy/ hands out works: each file is read by the program that it is for, or by a strict parser."""

from __future__ import annotations

import configparser
import contextlib
import os
import re
import shlex
import shutil
import socket
import subprocess
import time
import tomllib
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
import yaml

from msrt.config import CloudConfig, DeviceConfig, EdgeConfig, GatewayConfig, load
from msrt.links.broker_files import acl
from msrt.serving.tally import Tally
from msrt.telemetry import Metrics
from msrt.telemetry.serving import shown
from msrt.trust import Identity
from msrt.trust.tls import mosquitto_password
from msrt_device.wiping import Decommissioned

DEPLOY = Path(__file__).parent.parent / "deploy"
FLASH = Path(__file__).parent.parent / "device/msrt_device/flash/linux"
TYPES = {"cloud": CloudConfig, "edge": EdgeConfig, "device": DeviceConfig}
CONFIGS = {**TYPES, "gateway": GatewayConfig}
MASTER = Identity(b"1" * 32, b"2" * 32).node


def example(name):
    return yaml.safe_load((DEPLOY / name).read_text())


files = pytest.mark.parametrize("role", [*TYPES, "gateway"])


@files
def test_the_example_config_loads(role):
    """As it stands, without a change."""
    assert load(DEPLOY / "config" / f"{role}.toml", CONFIGS[role]).log_format == "json"


@files
def test_the_example_config_names_every_setting(role):
    """In the order of the struct, each with a sentence before it; `source` stands at the end as tables."""
    text = (DEPLOY / "config" / f"{role}.toml").read_text()
    named = re.findall(r"^## .*\n(?:# )?([a-z_]+) = ", text, re.MULTILINE)
    assert named == [name for name in CONFIGS[role].__struct_fields__ if name != "source"]


@files
def test_the_example_config_tells_the_true_defaults(role):
    """A line that is switched on changes nothing."""
    text = (DEPLOY / "config" / f"{role}.toml").read_text()
    defaults = dict(
        next(iter(tomllib.loads(line).items())) for line in re.findall(r"^# ([a-z_]+ = .*)$", text, re.MULTILINE)
    )
    assert defaults
    assert load(None, CONFIGS[role], defaults) == CONFIGS[role]()


def test_the_example_device_has_its_sensors():
    """A replay and a command."""
    assert [source.kind for source in load(DEPLOY / "config" / "device.toml", DeviceConfig).source] == [
        "replay",
        "command",
    ]


UNITS = {
    "cloud": ("msrt-cloud", "cloud start", "cloud"),
    "edge": ("msrt-edge", "edge join", "edge"),
    "device": ("msrt-device", "device join", "device"),
    "gateway": ("msrt-gateway@", "device gateway", "gateway-%i"),
}
units = pytest.mark.parametrize(("unit", "verb", "name"), UNITS.values(), ids=UNITS)


@units
def test_the_unit_starts_what_exists(unit, verb, name):
    """It calls a command of ours with an example's file, drains on SIGTERM, comes back, and is shut in."""
    found = configparser.ConfigParser(strict=True, interpolation=None)
    found.optionxform = str
    text = (DEPLOY / "systemd" / f"{unit}.service").read_text()
    found.read_string(re.sub(r"^DeviceAllow=.*\n", "", text, flags=re.MULTILINE))  # the one key that may come again
    service = found["Service"]
    command = shlex.split(service["ExecStart"])
    assert command == [
        "/opt/msrt/bin/msrt", *verb.split(), "--config", f"/etc/msrt/{name}.toml", "--state", f"/var/lib/msrt/{name}",
    ]  # fmt: skip
    assert service["KillMode"] == "mixed"
    assert service["Restart"] == "on-failure"
    assert service["StateDirectory"] == f"msrt/{name}"
    assert service["ProtectSystem"] == "strict"
    assert service["NoNewPrivileges"] == "yes"


@pytest.mark.parametrize(
    "path",
    [
        DEPLOY / "systemd" / "msrt-device.service", DEPLOY / "systemd" / "msrt-gateway@.service",
        FLASH / "package" / "msrt-device.service", FLASH / "rootfs/etc/systemd/system/msrt-device.service",
    ],
    ids=lambda path: "-".join(path.parts[-2:]),
)  # fmt: skip
def test_a_decommissioned_device_is_not_started_again(path):
    """Its unit knows the status that it ends with, and does not call that a failure."""
    lines = path.read_text().splitlines()
    assert f"RestartPreventExitStatus={Decommissioned.exit_status}" in lines
    assert f"SuccessExitStatus={Decommissioned.exit_status}" in lines


@units
def test_systemd_understands_the_unit(unit, verb, name, tmp_path):
    """The real parser finds no unknown line."""
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("systemd-analyze is not installed")
    text = (DEPLOY / "systemd" / f"{unit}.service").read_text().replace("/opt/msrt/bin/msrt", "/bin/true")
    file = tmp_path / f"{unit}{'one' if unit.endswith('@') else ''}.service"
    file.write_text(text)
    done = subprocess.run([tool, "verify", file], capture_output=True, text=True, timeout=60, check=False)
    assert file.name not in done.stderr


def test_a_gateway_reaches_serial_ports_and_no_other_device():
    """Each rule names a driver's terminals; everything else of /dev is closed."""
    lines = (DEPLOY / "systemd" / "msrt-gateway@.service").read_text().splitlines()
    allowed = [line.partition("=")[2] for line in lines if line.startswith("DeviceAllow=")]
    assert "DevicePolicy=closed" in lines
    assert allowed
    assert all(rule.startswith("char-tty") for rule in allowed)


def test_compose_mounts_what_is_here():
    """Each file that a container reads exists, or is the one that the README tells to make; nothing leaves loopback."""
    services = example("compose.yaml")["services"]
    assert {"mosquitto", "prometheus", "grafana"} == set(services)
    for name, service in services.items():
        assert ":" in service["image"], name
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            if source.startswith("./") and source != "./mosquitto.users":
                assert (DEPLOY / source).is_file()
    assert "--web.listen-address=127.0.0.1:9090" in services["prometheus"]["command"]
    assert example("grafana/datasource.yml")["datasources"][0]["url"] == "http://127.0.0.1:9090"


def test_prometheus_scrapes_where_the_examples_listen():
    """The ports are those of config/*.toml."""
    (job,) = example("prometheus.yml")["scrape_configs"]
    found = {entry["labels"]["tier"]: entry["targets"] for entry in job["static_configs"]}
    listeners = {role: load(DEPLOY / "config" / f"{role}.toml", type_) for role, type_ in CONFIGS.items()}
    assert found == {
        "cloud": [listeners["cloud"].http], "edge": [listeners["edge"].http], "device": [listeners["device"].metrics],
        "gateway": [listeners["gateway"].metrics],
    }  # fmt: skip


def test_alerts_speak_of_metrics_that_exist():
    """A renamed metric must not silence its alert."""
    metrics = Metrics()
    metrics.text(shown(Tally()))
    page = metrics.render().decode()
    tallies = set(re.findall(r'"([a-z_]+_total)"', "".join(p.read_text() for p in DEPLOY.parent.glob("*/msrt*/*.py"))))
    for rule in example("alerts.yml")["groups"][0]["rules"]:
        for name in re.findall(r"msrt_[a-z_]+", rule["expr"]):
            assert f"# TYPE {name.removesuffix('_bucket')} " in page or name.removeprefix("msrt_") in tallies
    assert "expr" in rule


def test_nginx_asks_the_example_edge(tmp_path):
    """Blocks are closed, and the first upstream is the edge of the example."""
    text = re.sub(r"#.*", "", (DEPLOY / "nginx.conf").read_text())
    assert text.count("{") == text.count("}")
    assert all(line.rstrip().endswith((";", "{", "}")) for line in text.splitlines() if line.strip())
    assert f"server {load(DEPLOY / 'config' / 'edge.toml', EdgeConfig).http} " in text
    if tool := shutil.which("nginx"):  # what can be said without it is said above
        (tmp_path / "nginx.conf").write_text(f"pid {tmp_path}/pid; events {{}} http {{ include {DEPLOY}/nginx.conf; }}")
        subprocess.run([tool, "-t", "-p", tmp_path, "-c", tmp_path / "nginx.conf"], check=True, timeout=20)


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@pytest.fixture
def broker(tmp_path):
    """A mosquitto with our example files: other paths, another port, three users."""
    tool = shutil.which("mosquitto")
    if tool is None:
        pytest.skip("mosquitto is not installed")
    (tmp_path / "mosquitto.acl").write_text((DEPLOY / "mosquitto.acl").read_text().replace("MASTER", MASTER))
    users = "".join(f"{user}:{mosquitto_password('pw', os.urandom(12))}\n" for user in ("edge", "dev-a", "dev-b"))
    (tmp_path / "mosquitto.users").write_text(users)
    for _ in range(5):  # another process may take the port between the look and the bind
        port = free_port()
        text = (DEPLOY / "mosquitto.conf").read_text()
        text = text.replace("/mosquitto/config", str(tmp_path)).replace("listener 1883 ", f"listener {port} ")
        (tmp_path / "mosquitto.conf").write_text(text + ("user root\n" if os.getuid() == 0 else ""))
        with subprocess.Popen([tool, "-c", tmp_path / "mosquitto.conf"], stderr=subprocess.PIPE, text=True) as process:
            if any("running" in line for line in process.stderr):
                yield port
                process.terminate()
                return
    pytest.fail("mosquitto did not start")


def test_the_example_acl_is_the_one_that_the_edge_asks_for():
    """Rule by rule."""
    text = re.sub(r"#.*\n", "", (DEPLOY / "mosquitto.acl").read_text()).replace("MASTER", MASTER)
    assert text.split() == acl(MASTER, "edge").split()


@contextlib.contextmanager
def connected(port, user, password="pw"):
    """A plain MQTT client and the list of what it received."""
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.username_pw_set(user, password)
    client.got, client.answer = [], []
    client.on_connect = lambda *args: client.answer.append(str(args[3]))
    client.on_message = lambda _client, _data, message: client.got.append((message.topic, message.payload))
    client.connect("127.0.0.1", port)
    client.loop_start()
    try:
        yield client
    finally:
        client.disconnect()
        client.loop_stop()


def until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_example_broker_keeps_devices_apart(broker):
    """A device speaks as itself only and hears its own only; the edge hears all; a stranger hears nothing."""
    with connected(broker, "edge") as edge, connected(broker, "dev-a") as one, connected(broker, "dev-b") as two:
        for client, filters in (
            (edge, [f"msrt/{MASTER}/up/+"]),
            (one, [f"msrt/{MASTER}/down/dev-a"]),
            (two, [f"msrt/{MASTER}/down/+", "#"]),
        ):
            until(client.is_connected)
            done = []
            client.on_subscribe = lambda *args, done=done: done.append(args)
            for topic in filters:
                client.subscribe(topic)
            until(lambda done=done, filters=filters: len(done) == len(filters))
        two.publish(f"msrt/{MASTER}/up/dev-a", b"forged")
        two.publish(f"msrt/{MASTER}/down/dev-a", b"forged")
        two.publish(f"msrt/{MASTER}/up/dev-b", b"own")
        until(lambda: edge.got)
        edge.publish(f"msrt/{MASTER}/down/dev-a", b"work")
        edge.publish(f"msrt/{MASTER}/down/dev-b", b"other")
        until(lambda: one.got and two.got)
        assert edge.got == [(f"msrt/{MASTER}/up/dev-b", b"own")]
        assert one.got == [(f"msrt/{MASTER}/down/dev-a", b"work")]
        assert set(two.got) == {(f"msrt/{MASTER}/down/dev-b", b"other")}  # by two subscriptions, so perhaps twice
    with connected(broker, "dev-a", "guess") as stranger:
        until(lambda: stranger.answer)
        assert stranger.answer == ["Not authorized"]
