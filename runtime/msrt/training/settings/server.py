"""How what the nodes did becomes the next model."""

from __future__ import annotations

from msrt.training.settings.base import Rate, Table

__all__ = ["ServerSettings"]


class ServerSettings(Table, frozen=True):
    """[server]: how the mean of the updates moves the model."""

    lr: Rate = 1.0
