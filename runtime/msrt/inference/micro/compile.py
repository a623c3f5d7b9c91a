"""A graph to a blob."""

from __future__ import annotations

from dataclasses import replace

from msrt.inference.micro.blob import Blob, Code, Note, Op, constants_offset, pack_blob, read_blob
from msrt.inference.micro.graph import Graph
from msrt.inference.micro.lower import Lowered, input_order, lower
from msrt.inference.micro.plan import Life, plan
from msrt.inference.micro.values import Softmax

__all__ = ["compile_graph"]

_WITH_CONSTANTS = (Code.DENSE, Code.CONV, Code.DEPTHWISE)


def compile_graph(graph: Graph) -> Blob:
    """The blob of a static-QDQ int8 graph. Raises InvalidModel, which names the operator and its node."""
    lowered = lower(graph)
    places, arena = plan(_lives(lowered))
    begin = constants_offset(len(lowered.ops))
    ops = [_placed(op, inputs, output, places, begin) for op, inputs, output in lowered.ops]
    first, last = lowered.input, lowered.output
    blob = Blob(
        ops, lowered.constants, arena, (places[first.number], first.layout.size),
        (places[last.number], last.layout.size), first.quant.scale, first.quant.zero, last.quant.scale,
        last.quant.zero, _note(graph, lowered),
    )  # fmt: skip
    return read_blob(pack_blob(blob))


def _lives(lowered: Lowered) -> dict[int, Life]:
    """The input lives from before the first operator, the output until after the last."""
    end = len(lowered.ops)
    first = {lowered.input.number: -1}
    last = {lowered.output.number: end}
    for at, (_, inputs, output) in enumerate(lowered.ops):
        first.setdefault(output, at)
        for tensor in (*inputs, output):
            last[tensor] = max(last.get(tensor, at), at)
    last.setdefault(lowered.input.number, -1)
    return {tensor: Life(lowered.sizes[tensor], first[tensor], last[tensor]) for tensor in first}


def _placed(op: Op, inputs: tuple[int, ...], output: int, places: dict[int, int], begin: int) -> Op:
    op = replace(op, first=places[inputs[0]], second=places[inputs[-1]], out=places[output])
    if op.code in _WITH_CONSTANTS:
        op.weights, op.bias = op.weights + begin, op.bias + begin
        op.multipliers, op.shifts = op.multipliers + begin, op.shifts + begin
    return op


def _note(graph: Graph, lowered: Lowered) -> Note:
    given, made = graph.inputs[0], graph.outputs[0]
    end = lowered.end
    layout = lowered.output.layout if lowered.output.flat is None else lowered.output.flat.of
    quant = end.quant if isinstance(end, Softmax) else lowered.output.quant
    return Note(
        input=given,
        output=made,
        order=input_order(graph),
        out_order=layout.order,
        quantised_input="" if given.dtype == "FP32" else given.dtype,
        softmax=isinstance(end, Softmax),
        quantised_output="" if made.dtype == "FP32" else made.dtype,
        out_scale=quant.scale if quant is not None else 0.0,
        out_zero=(quant.zero + 128 * quant.unsigned) if quant is not None else 0,
        out_unsigned=quant is not None and quant.unsigned,
    )
