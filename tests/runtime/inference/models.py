"""Small ONNX models made on the spot, and manifests that a test cloud signed."""

import hashlib
import itertools

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from msrt.errors import BadSignature
from msrt.inference.bundle import Manifest, Variant, sign_manifest
from msrt.protocol.messages import Placement, TensorSpec

KEY = b"the test cloud's key"


def model_of(nodes, inputs, outputs, constants=(), opset=17) -> ModelProto:
    """`inputs` and `outputs`: (name, onnx type, shape)."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(*spec) for spec in inputs],
        [helper.make_tensor_value_info(*spec) for spec in outputs],
        list(constants),
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("my.ops", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def mlp(sizes=(4, 8, 3), seed=0, rows="n", scale=1.0) -> bytes:
    """Linear layers with Relu between them; `rows`: a symbol, or a number for a fixed batch."""
    generator = np.random.default_rng(seed)
    nodes, constants, last = [], [], "x"
    for index, (a, b) in enumerate(itertools.pairwise(sizes)):
        weight = generator.normal(0, scale / np.sqrt(a), (a, b)).astype(np.float32)
        constants += [
            numpy_helper.from_array(weight, f"w{index}"),
            numpy_helper.from_array(generator.normal(0, 0.1, b).astype(np.float32), f"b{index}"),
        ]
        final = index == len(sizes) - 2
        nodes.append(helper.make_node("Gemm", [last, f"w{index}", f"b{index}"], ["y" if final else f"h{index}"]))
        if not final:
            nodes.append(helper.make_node("Relu", [f"h{index}"], [f"r{index}"]))
            last = f"r{index}"
    inputs = [("x", TensorProto.FLOAT, [rows, sizes[0]])]
    return model_of(nodes, inputs, [("y", TensorProto.FLOAT, [rows, sizes[-1]])], constants).SerializeToString()


def coupled() -> bytes:
    """Subtracts the mean over the rows: rows touch each other."""
    nodes = [helper.make_node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1), helper.make_node("Sub", "xm", ["y"])]
    spec = [TensorProto.FLOAT, ["n", 4]]
    return model_of(nodes, [("x", *spec)], [("y", *spec)]).SerializeToString()


def echo_strings() -> bytes:
    spec = [TensorProto.STRING, ["n"]]
    node = helper.make_node("Identity", ["text"], ["same"])
    return model_of([node], [("text", *spec)], [("same", *spec)]).SerializeToString()


def scale(width=4, given="raw", gives="x") -> bytes:
    """Whole numbers to a hundredth of them."""
    hundredth = numpy_helper.from_array(np.float32(0.01), "s")
    nodes = [
        helper.make_node("Cast", [given], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "s"], [gives]),
    ]
    inputs = [(given, TensorProto.INT8, ["n", width])]
    return model_of(nodes, inputs, [(gives, TensorProto.FLOAT, ["n", width])], [hundredth]).SerializeToString()


def best(width=3, given="y") -> bytes:
    """Scores to probabilities, and the class."""
    nodes = [
        helper.make_node("Softmax", [given], ["p"], axis=1),
        helper.make_node("ArgMax", [given], ["class"], axis=1, keepdims=0),
    ]
    outputs = [("p", TensorProto.FLOAT, ["n", width]), ("class", TensorProto.INT64, ["n"])]
    return model_of(nodes, [(given, TensorProto.FLOAT, ["n", width])], outputs).SerializeToString()


def sign(data: bytes) -> bytes:
    return hashlib.sha256(KEY + data).digest()


async def vouch(claim):
    """As a floor in a tree from before TUF does it."""
    verify(claim.signed, claim.signature)


def verify(data: bytes, signature: bytes) -> None:
    if sign(data) != signature:
        raise BadSignature("the manifest's signature does not match")


def manifest_of(files: dict[str, bytes], *, version=1, model="net", **fields) -> Manifest:
    defaults = {
        "inputs": (TensorSpec("x", "FP32", (-1, 4)),),
        "outputs": (TensorSpec("y", "FP32", (-1, 3)),),
        "batchable": True,
    }
    variants = {name: Variant(hashlib.sha256(data).hexdigest(), len(data)) for name, data in files.items()}
    return Manifest(model=model, version=version, variants=variants, **(defaults | fields))


def placed(manifest: Manifest, variant="fp32", *, serve=True) -> Placement:
    data, signature = sign_manifest(manifest, sign)
    return Placement(manifest.model, manifest.version, variant, data, signature, serve)
