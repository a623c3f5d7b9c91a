"""A whole exchange in memory: the real machines of both sides, and hands to lose devices at any stage."""

from __future__ import annotations

import hashlib
import random

import numpy as np

from msrt.errors import BadUpdate
from msrt.learning.secure_aggregation import Fixed, Me, SecureClient
from msrt.learning.secure_aggregation import events as e
from msrt.learning.secure_aggregation.client import Leave, Ready, Say
from msrt.learning.secure_aggregation.fixed import add
from msrt.learning.secure_aggregation.server import SecureServer, Stage
from msrt.learning.secure_aggregation.unmask import unmask
from msrt.protocol.messages import SecurePlan
from msrt.trust.certificate import Certificate, issue
from msrt.trust.identity import Identity, Purpose

MOST = 100
SIZE = 257


def identity(name: str) -> Identity:
    return Identity(*(hashlib.sha256(f"{name}/{kind}".encode()).digest() for kind in "ab"))


CLOUD = identity("cloud")


def me(number: int, seed: int = 0, role: str = "device") -> Me:
    """The identity of one device; the same seed gives it the same keys and masks."""
    one = identity(f"device-{number}")
    certificate = Certificate(
        node=one.node, role=role, name=f"d{number}", identity=one.public, link_key=one.link_public
    )  # fmt: skip
    blob = issue(CLOUD, certificate)
    rng = random.Random(f"{seed}/{number}")
    return Me(one.node, blob, one.signer(Purpose.SECURE), CLOUD.public, rng.randbytes)


def update(number: int, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(number).normal(size=size).astype(np.float32) / 16


class Exchange:
    """`count` devices. Those in `lost[stage]` say nothing more from that stage on."""

    def __init__(self, count, lost=None, seed=0, **plan):
        self.plan = SecurePlan(clip=plan.pop("clip", 4.0), session=plan.pop("session", "job/1.0/edge/1/0"), **plan)
        self.lost = {stage: set(numbers) for stage, numbers in (lost or {}).items()}
        self.clients, self.numbers = {}, {}
        for number in range(count):
            one = me(number, seed)
            self.numbers[one.node] = number
            self.clients[one.node] = SecureClient(one, "job", self.plan, MOST)
        ring = hashlib.sha256(str(seed).encode()).digest()
        self.server = SecureServer("job", self.plan, self.clients, CLOUD.public, ring, 0.0, 10.0)
        self.now = 0.0
        self.heard: list = []
        """Every message that the edge received."""
        self.payloads: dict[str, memoryview] = {}
        self.left: dict[str, str] = {}
        self.excluded: dict[str, str] = {}
        self.reason = ""
        self.work = None

    def alive(self, node, stage):
        order = ["announce", "share", "upload", "reveal"]
        return not any(self.numbers[node] in self.lost.get(one, ()) for one in order[: order.index(stage) + 1])

    # --- the edge

    def tell(self, event):
        self.perform(self.server.handle(event, self.now))

    def perform(self, actions):
        for action in actions:
            match action:
                case e.Tell(node, message):
                    stage = {"SecureRoster": "share", "SecureUnmask": "reveal"}.get(type(message).__name__)
                    if stage is None or self.alive(node, stage):
                        self.to_device(node, message)
                case e.Exclude(node, reason):
                    self.excluded[node] = reason
                case e.Unmask(work):
                    self.work = work
                case e.GiveUp(reason):
                    self.reason = reason

    def hear(self, node, message):
        self.heard.append((node, message))
        self.tell(e.Said(node, message))

    # --- the devices

    def to_device(self, node, message):
        for action in self.clients[node].handle(message):
            match action:
                case Say(said):
                    self.hear(node, said)
                case Leave(reason):
                    self.left[node] = reason
                case Ready():
                    pass

    # --- a round

    def keys(self):
        """Everybody announces, and what follows; then time ends what waits."""
        for node, client in self.clients.items():
            if self.alive(node, "announce"):
                self.hear(node, client.keys)
        for _ in range(2):
            if self.server.stage in (Stage.ANNOUNCE, Stage.SHARE):
                self.now = max(self.now, self.server.wake)
                self.tell(e.Tick())
        return self

    def upload(self, updates=None, samples=None):
        """Each device that is ready masks its update."""
        for node, client in self.clients.items():
            if client.stage.value == "ready" and self.alive(node, "upload"):
                number = self.numbers[node]
                flat = update(number) if updates is None else updates[number]
                weight = number + 1 if samples is None else samples[number]
                self.payloads[node] = client.mask(flat, weight, {"loss": 1.0 + number, "accuracy": 0.5})
        return self

    def reveal(self):
        """The edge has added up what came, and asks; then time ends what waits."""
        self.tell(e.Sealed(frozenset(self.payloads), self.now + 5))
        if self.server.stage is Stage.REVEAL:
            self.now = self.server.wake
            self.tell(e.Tick())
        return self

    def fixed(self, size=SIZE):
        return Fixed(size, len(self.server.ring), MOST, self.plan.clip, self.plan.span, self.plan.bits)

    def total(self, size=SIZE) -> memoryview:
        """The unmasked sum. Raises BadUpdate."""
        if self.work is None:
            raise BadUpdate(self.reason)
        total = memoryview(bytearray(self.fixed(size).bytes))
        for payload in self.payloads.values():
            add(payload, total, self.plan.bits)
        unmask(total, self.work)
        return total

    def run(self):
        return self.keys().upload().reveal()
