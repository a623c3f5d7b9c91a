"""What `import msrt` gives, and what it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import msrt


@pytest.mark.parametrize("name", msrt.__all__)
def test_public_names_are_there(name):
    """Each can be had from the package, and shows up in dir()."""
    assert getattr(msrt, name) is not None
    assert name in dir(msrt)


def test_unknown_names_are_attribute_errors():
    """As with any module."""
    with pytest.raises(AttributeError, match="nonsense"):
        _ = msrt.nonsense


def test_importing_the_package_imports_nothing_else():
    """No room of the house, no numpy, no zmq: they are imported by who uses them."""
    code = (
        "import sys, msrt; print([m for m in sys.modules if m.startswith('msrt.') or m in ('numpy', 'zmq', 'torch')])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
