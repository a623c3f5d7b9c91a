"""What every test stands on."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import hypothesis
import pytest
import structlog

# How long an example takes says how busy the machine is, not whether the code is right.
hypothesis.settings.register_profile("house", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("house")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files whose tests take minutes come first: begun last, they would keep one worker busy and the other waiting."""
    items.sort(key=lambda item: item.get_closest_marker("minutes") is None)


@pytest.fixture(autouse=True, scope="session")
def loggers_that_listen() -> Iterator[None]:
    """A command that runs in this process configures loggers that remember how; a simulation after it must still be
    able to record what they say, whatever the order of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        configure = structlog.configure

        @functools.wraps(configure)
        def forgetful(*args: object, **kwargs: object) -> None:
            configure(*args, **{**kwargs, "cache_logger_on_first_use": False})  # type: ignore[arg-type]

        patch.setattr(structlog, "configure", forgetful)
        yield


@pytest.fixture(autouse=True)
def log_level_of_its_own(loggers_that_listen: None) -> Iterator[None]:
    """A command that only speaks of errors leaves the next test's warnings as they were."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)
