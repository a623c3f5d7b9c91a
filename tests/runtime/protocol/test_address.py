"""Names: what is good is kept as it is, what is not is refused with a sentence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msrt.errors import InvalidAddress
from msrt.protocol import address
from msrt.protocol.address import ModelName, Selector

NODE = address.node_id(bytes(32))


def test_a_node_id_is_the_hash_of_its_identity():
    """26 lower-case base32 characters, the same for the same key."""
    assert NODE == "mzuhvlpymk6xo3epygfy5h4oea"
    assert address.check_node(NODE) == NODE
    assert len(NODE) == 26
    assert address.node_id(b"\x01" * 32) != NODE
    with pytest.raises(InvalidAddress):
        address.node_id(b"short")


@pytest.mark.parametrize("name", ["a", "edge-1", "0", "a" * 63])
def test_good_names_are_kept(name):
    """Names and regions look like one label of a domain name."""
    assert address.check_name(name) == address.check_region(name) == name


@pytest.mark.parametrize("name", ["", "-a", "A", "a_b", "a.b", "é", "a" * 64, "a\n", "a b"])
def test_bad_names_are_refused(name):
    """And the error shows the name and says what a good one is."""
    with pytest.raises(InvalidAddress, match="a good one is"):
        address.check_name(name)
    with pytest.raises(InvalidAddress):
        address.check_region(name)


def test_labels_are_pairs():
    """key=value, each key once."""
    assert address.parse_labels(["site=North_1", "a/b.c=2"]) == {"site": "North_1", "a/b.c": "2"}
    for bad in (["site"], ["=x"], ["site="], ["Site=a"], ["a=1", "a=2"], ["a=b=c"], ["a=b,c"]):
        with pytest.raises(InvalidAddress):
            address.parse_labels(bad)
    with pytest.raises(InvalidAddress):
        address.parse_labels([f"k{n}=v" for n in range(65)])


def test_a_selector_wants_all_its_labels():
    """More labels on the node do no harm; none wanted selects all."""
    selector = Selector.parse("site=a, region=eu")
    assert selector.matches({"site": "a", "region": "eu", "class": "arm64"})
    assert not selector.matches({"site": "a"})
    assert not selector.matches({"site": "a", "region": "us"})
    assert Selector.parse("").matches({})
    assert Selector.parse(str(selector)) == selector == Selector.parse("region=eu,site=a")
    for bad in ("site", "site=a,", ",", "site=a,site=b"):
        with pytest.raises(InvalidAddress):
            Selector.parse(bad)


@pytest.mark.parametrize(
    ("text", "name", "version", "shown"),
    [
        ("digits", "digits", 0, "digits"),
        ("digits@3", "digits", 3, "digits@3"),
        ("default/digits", "digits", 0, "digits"),
        ("ns/kws_v1.2@12", "ns/kws_v1.2", 12, "ns/kws_v1.2@12"),
    ],
)
def test_model_names_have_one_form(text, name, version, shown):
    """The default namespace is not written."""
    model = ModelName.parse(text)
    assert (model.name, model.version, str(model)) == (name, version, shown)
    assert ModelName.parse(shown) == model
    assert model.namespace == (name.split("/")[0] if "/" in name else "default")


@pytest.mark.parametrize(
    "text", ["", "@1", "a@", "a@0", "a@-1", "a@x", "a@1@2", "/a", "a/", "a/b/c", "A", "a b", "a@01"]
)
def test_bad_model_names_are_refused(text):
    """With an error that names the part."""
    with pytest.raises(InvalidAddress):
        ModelName.parse(text)


def test_topics_name_master_direction_and_node():
    """Made and read by the same rules, for nodes and for invites."""
    other = address.node_id(b"\x01" * 32)
    assert address.topic(NODE, "up", other) == f"msrt/{NODE}/up/{other}"
    for node in (other, "invite-abc1"):
        assert address.parse_topic(address.topic(NODE, "down", node)) == (NODE, "down", node)
    for bad in (("x", "up", other), (NODE, "side", other), (NODE, "up", "#"), (NODE, "up", "invite-a/b")):
        with pytest.raises(InvalidAddress):
            address.topic(*bad)


@given(st.text(max_size=40))
def test_any_text_is_good_or_refused(text):
    """Parsers raise nothing but InvalidAddress, and what they accept prints back to itself."""
    for parse in (ModelName.parse, Selector.parse, address.parse_topic, address.check_node):
        try:
            value = parse(text)
        except InvalidAddress:
            continue
        if not isinstance(value, (str, tuple)):
            assert parse(str(value)) == value
