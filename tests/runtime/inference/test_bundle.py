import pytest

from msrt.errors import InvalidAddress, MalformedFrame
from msrt.inference.bundle import MEASURE, choose, read_manifest, sign_manifest, signature_of

from .models import manifest_of, sign

FILES = {"fp32": b"float", "int8": b"int"}


def test_signed_manifest_comes_back_as_it_was():
    """What the cloud signed is what a device reads."""
    manifest = manifest_of(FILES, report={"accuracy_fp32": 0.97, "tried": [{"recipe": "static"}]}, labels=("a", "b"))
    assert read_manifest(sign_manifest(manifest, sign)[0]) == manifest


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"version": 0}, MalformedFrame),
        ({"chosen": {"arm": "int4"}}, MalformedFrame),
        ({"require": "fp16"}, MalformedFrame),
        ({"inputs": ()}, MalformedFrame),
        ({"model": "no spaces"}, InvalidAddress),
        ({"report": {"curve": "x" * 300_000}}, MalformedFrame),
    ],
)
def test_manifest_that_no_device_could_follow_is_never_signed(fields, error):
    """A cloud's mistake is found by the cloud."""
    with pytest.raises(error):
        sign_manifest(manifest_of(FILES, **fields), sign)


def test_choice_is_what_is_required_then_what_is_settled_then_measured():
    """`--require` beats a class's choice; a class that nobody settled measures; a single file is no choice."""
    assert choose(manifest_of(FILES, require="int8", chosen={"arm": "fp32"}), "arm") == "int8"
    assert choose(manifest_of(FILES, chosen={"arm": "fp32"}), "arm") == "fp32"
    assert choose(manifest_of(FILES, chosen={"arm": "fp32"}), "x86") == MEASURE
    assert choose(manifest_of({"int8": b""}), "x86") == "int8"


def test_manifest_compiles_to_the_check_of_its_requests():
    """The signature knows tensors and how rows ride."""
    signature = signature_of(manifest_of(FILES))
    assert signature.output_names == ("y",)
    assert signature.batchable
    assert not signature.rowwise
