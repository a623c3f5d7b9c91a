from __future__ import annotations

import ast
import inspect
from pathlib import Path

import msgspec
import pytest

from msrt import settings
from msrt.config import CloudConfig, DeviceConfig, EdgeConfig, load, parse_sets
from msrt.errors import InvalidConfig
from msrt.settings import is_loopback

ROOT = Path(__file__).parents[2]


def write(tmp_path, text):
    path = tmp_path / "node.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("type_", [CloudConfig, EdgeConfig, DeviceConfig, settings.GatewayConfig])
def test_nothing_given_is_the_default(type_):
    """Every setting has a default, so that a node starts without a file."""
    assert load(None, type_) == type_()


def test_a_flag_wins_over_the_file_and_the_file_over_the_default(tmp_path):
    """Command line, file, default: in this order. A flag that was not given is None."""
    path = write(tmp_path, 'lease_s = 3\nqueue_items = 7\nname = "a"\n')
    config = load(path, EdgeConfig, {"lease_s": 4.0, "name": None})
    assert (config.lease_s, config.queue_items, config.name, config.queue_bytes) == (4.0, 7, "a", 64 << 20)


def test_settings_are_frozen():
    """Nobody changes them after the start."""
    with pytest.raises(AttributeError):
        load(None, EdgeConfig).lease_s = 9.0


@pytest.mark.parametrize(
    ("typo", "meant"),
    [("leas_s", "lease_s"), ("webhok_url", "webhook_url"), ("tls_crt", "tls_cert"), ("MQTT", "mqtt")],
)
def test_a_typo_names_file_line_and_the_nearest_setting(tmp_path, typo, meant):
    """The error says where, what, and what was probably meant."""
    path = write(tmp_path, f'# an edge\n\nname = "a"\n\n{typo} = 1\n')
    with pytest.raises(InvalidConfig, match=rf"node.toml:5: unknown setting '{typo}'; did you mean '{meant}'\?"):
        load(path, EdgeConfig)


def test_a_typo_in_a_source_is_found_too(tmp_path):
    """The tables below are checked like the top."""
    path = write(tmp_path, '[[source]]\nname = "a"\nmodel = "m"\nkind = "replay"\nintervall_s = 2\n')
    with pytest.raises(InvalidConfig, match=r"node.toml:5: unknown setting 'intervall_s'; did you mean 'interval_s'"):
        load(path, DeviceConfig)


def test_a_typo_on_the_command_line_says_so():
    """There is no file to blame."""
    with pytest.raises(InvalidConfig, match="the command line: unknown setting 'lease'; did you mean 'lease_s'"):
        load(None, EdgeConfig, parse_sets(["lease=3"]))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("lease_s = -1", "node.toml:1: lease_s = -1: expected `float` > 0.0"),
        ('lease_s = "long"', "node.toml:1: lease_s = 'long': expected `float`, got `str`"),
        ("queue_items = 0", "queue_items = 0: expected `int` >= 1"),
        ('log_format = "xml"', "log_format = 'xml': invalid enum value 'xml'; use console or json"),
        ("lease_s = ", "node.toml is not TOML"),
        ('listen = "7000"', "listen '7000' is not an address; write it as HOST:PORT"),
        ('mqtt = "h:port"', "mqtt 'h:port' is not an address"),
        ('mqtt_url = "tcp://h:1"', "no MQTT URL"),
        ('webhook_url = "ftp://h"', "no URL"),
    ],
)
def test_a_bad_value_is_explained(tmp_path, text, fault):
    """Out of range, of the wrong type, contradictory: each names the setting and what would do."""
    with pytest.raises(InvalidConfig) as caught:
        load(write(tmp_path, text), EdgeConfig)
    assert fault in str(caught.value)


def test_a_source_with_a_fault_says_which(tmp_path):
    """The path leads to the field."""
    path = write(tmp_path, '[[source]]\nname = "a"\nmodel = "m"\nkind = 3\n')
    with pytest.raises(InvalidConfig, match=r"node.toml:1: source\[0\].kind: expected `str`, got `int`"):
        load(path, DeviceConfig)


def test_two_sources_of_one_name_are_refused():
    """Their events could not be told apart."""
    source = {"name": "a", "model": "m", "kind": "replay"}
    with pytest.raises(InvalidConfig, match="two sources are named 'a'"):
        load(None, DeviceConfig, {"source": [source, source]})


def test_a_missing_file_is_named(tmp_path):
    """And so is one that cannot be text."""
    with pytest.raises(InvalidConfig, match=r"cannot read .*none.toml: No such file"):
        load(tmp_path / "none.toml", EdgeConfig)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidConfig, match="not UTF-8"):
        load(tmp_path / "binary.toml", EdgeConfig)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"tls_cert": "c.pem"}, "belong together"),
        ({"tls_key": "k.pem"}, "belong together"),
        ({"tls_cert": "c.pem", "tls_key": "k.pem", "http_plain": True}, "contradict"),
        ({"http": "nowhere"}, "http"),
    ],
)
def test_tls_settings_that_cannot_be_meant_are_refused(wrong, said):
    """A certificate without its key, and TLS that is both ours and a proxy's."""
    with pytest.raises(InvalidConfig, match=said):
        load(None, EdgeConfig, wrong)


@pytest.mark.parametrize("address", ["127.0.0.1:80", "127.9.9.9:0", "[::1]:80", "localhost:80"])
def test_loopback_is_known(address):
    """IPv4, IPv6 and by name."""
    assert is_loopback(address)


def test_secrets_are_not_shown():
    """A config in a log gives nothing away."""
    config = load(None, EdgeConfig, {"mqtt_password": "pa55", "webhook_secret": "s3cret"})
    assert not any(secret in repr(config) for secret in ("pa55", "s3cret"))
    assert "lease_s=1.5" in repr(config)


def test_a_secret_may_lie_in_a_file(tmp_path):
    """`file:` reads it, relative to the config; a missing one is named."""
    (tmp_path / "key").write_text("k3y\n")
    path = write(tmp_path, 'mqtt_password = "file:key"\n')
    assert load(path, EdgeConfig).mqtt_password == "k3y"
    with pytest.raises(InvalidConfig, match="mqtt_password"):
        load(None, EdgeConfig, {"mqtt_password": f"file:{tmp_path}/none"})


def test_set_takes_toml_and_bare_words():
    """Numbers, booleans and lists are TOML; a word needs no quotes."""
    assert parse_sets(["lease_s=2.5", "log_format=json", "train = false", 'name="a b"']) == {
        "lease_s": 2.5, "log_format": "json", "train": False, "name": "a b",
    }  # fmt: skip
    with pytest.raises(InvalidConfig, match="SETTING=VALUE"):
        parse_sets(["lease_s"])


def test_config_has_no_setting_without_words():
    """Each setting's meaning stands below it, except where its choices say it all."""
    for node in ast.walk(ast.parse(inspect.getsource(settings))):
        if isinstance(node, ast.ClassDef) and issubclass(getattr(settings, node.name), msgspec.Struct):
            for field, after in zip(node.body, [*node.body[1:], None], strict=True):
                if isinstance(field, ast.AnnAssign) and "ClassVar" not in ast.unparse(field.annotation):
                    told = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                    assert told or "Literal" in ast.unparse(field.annotation) or field.target.id == "name"


def test_every_setting_is_read_somewhere():
    """A setting that no code looks at is a promise that nobody keeps."""
    sources = [path for tier in ("runtime", "cloud", "edge", "device") for path in (ROOT / tier).rglob("*.py")]
    read = {
        node.attr
        for path in sources
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and _is_config(node.value)
    }
    for type_ in (CloudConfig, EdgeConfig, DeviceConfig, settings.GatewayConfig, settings.SourceConfig):
        assert set(type_.__struct_fields__) - read == set(), type_.__name__


def _is_config(node):
    """`config.x`, `self._config.x`, `setup.config.x`, `source.x`."""
    name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
    return name.strip("_") in {"config", "settings", "source"}
