"""Models for microcontrollers: an int8 graph becomes a blob that fixed kernels interpret.

`graph` is what a compiler is given (the registry reads ONNX and hands it over), `lower` turns it into operators of
`blob`, `plan` lays their tensors into one arena, `compile` writes the blob. `interpret` is the reference: what the C
kernels must give bit for bit. `host` is what stays with whoever asks: floats to int8 and back, softmax. Pure.
"""

from msrt.inference.micro.blob import Blob, read_blob
from msrt.inference.micro.compile import compile_graph
from msrt.inference.micro.lower import check_operators

__all__ = ["Blob", "check_operators", "compile_graph", "read_blob"]
