"""What the cloud signs about one version of a model: its tensors, its files by digest, which file to run where."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from typing import Final

import msgspec

from msrt.errors import MalformedFrame
from msrt.inference.reference import Reference
from msrt.inference.signature import Signature
from msrt.protocol.address import ModelName
from msrt.protocol.messages import TensorSpec
from msrt.protocol.wire import pack, unpack

__all__ = [
    "FP32",
    "INT8",
    "LOGITS",
    "MCU",
    "MEASURE",
    "MICRO",
    "PROBABILITIES",
    "Manifest",
    "Stage",
    "StateTensor",
    "Variant",
    "choose",
    "engine_variants",
    "read_manifest",
    "runs_on",
    "sign_manifest",
    "signature_of",
]

FP32: Final = "fp32"
INT8: Final = "int8"
MICRO: Final = "micro"
"""A blob for microcontrollers, see msrt.inference.micro: no other device runs it."""
MCU: Final = "mcu"
"""Device class of a microcontroller behind its gateway."""
LOGITS: Final = "logits"
PROBABILITIES: Final = "probabilities"
MEASURE: Final = "measure"
"""As the variant of a placement: load every variant the manifest allows, keep the fastest, report all."""

MANIFEST_LIMIT: Final = 256 << 10
"""Bytes of a packed manifest: it travels inside a placement."""


class Variant(msgspec.Struct, frozen=True, omit_defaults=True):
    """One file of a model."""

    digest: str
    """SHA-256 hex of the ONNX file: an artifact."""
    size: int
    """Bytes of the file."""
    weight_bytes: int = 0
    """Bytes of its initialisers, scales and zero points included."""
    latency_us: int = 0
    """One call with one row on the registry's own machine; provisional, devices measure again."""
    method: str = ""
    """How it was made: as given, static or dynamic."""
    flash: int = 0
    """Of `micro`: bytes that a board keeps of it."""
    ram: int = 0
    """Of `micro`: bytes for its tensors there."""


class Stage(msgspec.Struct, frozen=True, omit_defaults=True):
    """A graph that runs where the model runs, before or after it, in the same call."""

    digest: str
    """SHA-256 hex of the ONNX file: an artifact."""
    size: int
    """Bytes of the file."""


class StateTensor(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the graph hands from one call to the next: neither a request nor an answer has it."""

    input: str
    output: str
    """Fed back as `input` of the sequence's next call."""
    dtype: str
    shape: tuple[int, ...]
    """Zeros of this shape begin a sequence; -1 is axis 0 of what the request brings."""


class Manifest(msgspec.Struct, frozen=True, omit_defaults=True):
    """One version of a model. Immutable once signed; unknown fields of a newer cloud are ignored."""

    model: str
    """Canonical name: `digits` or `namespace/digits`."""
    version: int
    inputs: tuple[TensorSpec, ...]
    """What a request brings, in the graph's order; -1 is a free dimension. Those of `pre`, if there is one."""
    outputs: tuple[TensorSpec, ...]
    """What an answer brings. Those of `post`, if there is one."""
    variants: dict[str, Variant]
    """By name: fp32, int8, micro."""
    chosen: dict[str, str] = {}
    """Device class to variant, where it is settled; a class that is not named measures."""
    require: str = ""
    """Only this variant may serve (`--require int8`); empty: the faster one."""
    batchable: bool = False
    """Axis 0 of every tensor is free and rows do not touch each other: requests may be joined."""
    rowwise: bool = False
    """Axis 0 of every tensor is exactly 1: requests may ride together and are run row by row."""
    sample: dict[str, tuple[int, ...]] = {}
    """Input name to a shape the model is known to run with: for warm-up and measuring."""
    labels: tuple[str, ...] = ()
    """Names of the classes of the first output, if it has classes."""
    pre: Stage | None = None
    """Makes the model's inputs of a request's; the same for every variant."""
    post: Stage | None = None
    """Makes an answer of the model's outputs; the same for every variant."""
    scores: str = ""
    """What the first output says about its classes: LOGITS or PROBABILITIES; empty: neither, or nobody looked."""
    temperature: float = 1.0
    """Fitted at push where the scores could be held against labels: logits, or logarithms of probabilities, divided by
    it give probabilities that are as often right as they say. Never changes which class is first."""
    state: tuple[StateTensor, ...] = ()
    """What the device keeps for each sequence. `inputs` and `outputs` do not name these."""
    report: dict[str, object] = {}
    """What the gate measured."""
    reference: Reference | None = None
    """What its inputs were like when it was pushed: devices hold their readings against it."""
    home: str = ""
    """Node id of the one device that may run it, and on whose disk alone its file lies: the model has layers of its own
    there ([train] keep_local). Empty: its files are fetched by whoever is to run it."""

    @property
    def rides(self) -> bool:
        """Whether several requests may travel and be answered in one message."""
        return self.batchable or self.rowwise


def signature_of(manifest: Manifest) -> Signature:
    """The compiled check of requests for this model; keep it, making it is not free."""
    return Signature(
        manifest.inputs, manifest.outputs, batchable=manifest.batchable, rowwise=manifest.rowwise, model=manifest.model
    )


def engine_variants(manifest: Manifest) -> list[str]:
    """Those that onnxruntime runs, by name."""
    return sorted(name for name in manifest.variants if name != MICRO)


def runs_on(manifest: Manifest, device_class: str, node: str = "") -> bool:
    """Whether a device of this class, or just this one, can hold it at all."""
    return (device_class != MCU or MICRO in manifest.variants) and manifest.home in ("", node)


def choose(manifest: Manifest, device_class: str) -> str:
    """The variant for a device class, or MEASURE where nobody of that class has measured yet."""
    if device_class == MCU:
        return MICRO
    if manifest.require:
        return manifest.require
    names = engine_variants(manifest)
    if len(names) == 1:
        return names[0]
    return manifest.chosen.get(device_class, MEASURE)


def sign_manifest(manifest: Manifest, sign: Callable[[bytes], bytes]) -> tuple[bytes, bytes]:
    """The manifest's bytes and their signature. Raises MalformedFrame for one that no device would take."""
    _check(manifest)
    data = pack(manifest)
    if len(data) > MANIFEST_LIMIT:
        raise MalformedFrame(f"the manifest of {manifest.model} takes {len(data)} bytes, over {MANIFEST_LIMIT}")
    return data, sign(data)


def read_manifest(data: bytes) -> Manifest:
    """The manifest in `data`, which somebody vouched for before (`msrt.trust.tuf`). Raises MalformedFrame."""
    manifest = unpack(data, Manifest, limit=MANIFEST_LIMIT)
    _check(manifest)
    return manifest


def _check(manifest: Manifest) -> None:
    name = ModelName.parse(manifest.model)
    if manifest.version < 1 or name.version:
        raise MalformedFrame(f"a manifest names one version from 1 on, not {manifest.model}@{manifest.version}")
    if not manifest.variants or not manifest.inputs or not manifest.outputs:
        raise MalformedFrame(f"the manifest of {manifest.model} lacks variants, inputs or outputs")
    if not isfinite(manifest.temperature) or manifest.temperature <= 0:
        raise MalformedFrame(f"the manifest of {manifest.model} has a temperature of {manifest.temperature}")
    if manifest.state and manifest.rides:
        raise MalformedFrame(f"{manifest.model} keeps state: its requests cannot ride together")
    named = {manifest.require, *manifest.chosen.values()} - {""}
    if not named <= manifest.variants.keys():
        missing = ", ".join(sorted(named - manifest.variants.keys()))
        raise MalformedFrame(f"the manifest of {manifest.model} chooses {missing}, which it does not hold")
