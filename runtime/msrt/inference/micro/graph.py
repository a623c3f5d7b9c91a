"""What the compiler is given: nodes, constants and the two ends of a graph, as ONNX names them, without ONNX."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from msrt.protocol.messages import TensorSpec

__all__ = ["Graph", "Node"]


@dataclass(frozen=True)
class Node:
    """One operator. Empty names in `inputs` are what was left out."""

    operator: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def shown(self) -> str:
        """For errors."""
        return f"{self.operator} (node {self.name or self.outputs[0]})"


@dataclass(frozen=True)
class Graph:
    """Nodes in an order in which they can run."""

    nodes: tuple[Node, ...]
    constants: dict[str, NDArray[Any]]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
