"""A whole federated job in one process: no network, no clock, and otherwise the code that runs in the tree.

shape   who is below whom
limits  what a simulation cannot show, refused in words
master  a region: its round, its sum, what its codec left out
job     Simulation: the cloud's part, round after round, and the report

Importing this package brings torch.
"""

from __future__ import annotations

from msrt.training.simulation.job import Chances, Simulation
from msrt.training.simulation.shape import Shape, parse_shape

__all__ = ["Chances", "Shape", "Simulation", "parse_shape"]
