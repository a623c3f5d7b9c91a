"""Which device should hold which model version, and which version answers who names none. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from msrt.dispatch.events import VersionTable
from msrt.inference.bundle import MCU, MEASURE, Manifest, choose, runs_on
from msrt.journal.facts import ModelPushed, RolloutSet
from msrt.journal.rollouts import board_follows, versions_for
from msrt.journal.state import State
from msrt.protocol.address import Selector
from msrt.protocol.messages import DeviceReport, Placement

__all__ = ["Device", "Measured", "place", "version_table", "wanted_digests"]


@dataclass(frozen=True)
class Device:
    """One device as placement sees it."""

    node: str
    region: str
    device_class: str
    labels: Mapping[str, str]
    """With name, region, class and tier among them."""
    local: bool = False
    """A master's own engine: it runs only what names its tier, `--to tier=edge`."""


@dataclass
class Measured:
    """What devices of a class measured: the faster variant of a model version."""

    faster: dict[tuple[str, int, str], str] = field(default_factory=dict)
    """Model, version and device class to variant."""
    tried: set[tuple[str, int, str]] = field(default_factory=set)
    """Model, version and node: this device measured and keeps what it found."""

    def learn(self, node: str, device_class: str, report: DeviceReport) -> bool:
        """Take a device's latencies; True if they decide something for others."""
        fresh = False
        for model in report.models:
            if len(model.latency_us) < 2:
                continue
            self.tried.add((model.model, model.version, node))
            key = (model.model, model.version, device_class)
            if key not in self.faster:
                self.faster[key] = min(model.latency_us, key=model.latency_us.__getitem__)
                fresh = True
        return fresh

    def variant(self, manifest: Manifest, device: Device) -> str:
        """What a device should run; MEASURE while nobody of its class has tried."""
        chosen = choose(manifest, device.device_class)
        if chosen != MEASURE or (manifest.model, manifest.version, device.node) in self.tried:
            return chosen
        return self.faster.get((manifest.model, manifest.version, device.device_class), MEASURE)


def _versions(rollout: RolloutSet, device: Device) -> list[int]:
    """Versions a device should hold for one rollout, the one it serves first."""
    selector = Selector.parse(rollout.selector)
    if not selector.matches(device.labels) or (device.local and not selector.names("tier")):
        return []
    return versions_for(rollout, device.region, device.node)


def place(
    state: State, manifests: Mapping[tuple[str, int], Manifest], measured: Measured, device: Device
) -> tuple[Placement, ...]:
    """All that a device should hold, in the order of model names. Versions that devices of its class cannot run are
    left out, and those that nobody vouched for here: what served before them goes on serving. A microcontroller gets
    one model, see `msrt.journal.rollouts`."""
    found: dict[str, list[Placement]] = {}
    rollouts = state.rollouts_in(device.region)
    for model, rollout in sorted(rollouts.items()):
        versions = _versions(rollout, device)
        if versions and not any((model, version) in manifests for version in versions) and rollout.previous:
            versions = [rollout.previous]
        policy = state.policies.get(model)
        if versions and policy is not None and policy.shadow and policy.shadow not in versions:
            versions = [*versions, policy.shadow]  # beside: it gets copies only
        for number, version in enumerate(versions):
            pushed: ModelPushed | None = state.models.get(model, {}).get(version)
            manifest = manifests.get((model, version))
            if pushed is None or manifest is None or not runs_on(manifest, device.device_class, device.node):
                continue
            variant = measured.variant(manifest, device)
            placement = Placement(model, version, variant, pushed.manifest, pushed.signature, serve=number == 0)
            found.setdefault(model, []).append(placement)
    if device.device_class == MCU and len(found) > 1:
        return tuple(found[board_follows(rollouts[model] for model in found).model])
    return tuple(placement for placements in found.values() for placement in placements)


def version_table(rollout: RolloutSet, ready: Mapping[str, frozenset[int]]) -> VersionTable:
    """Who answers a request without a version; `ready`: node to the versions of this model it has ready.

    While the version spreads, each device answers with the newest it was given; so no request waits for a switch.
    """
    if rollout.state == "rolled_back":
        return VersionTable(rollout.model, rollout.previous)
    if rollout.state == "canary" and rollout.traffic and rollout.previous:
        return VersionTable(rollout.model, rollout.previous, rollout.version, share=rollout.traffic)
    holders = frozenset(node for node, versions in ready.items() if rollout.version in versions)
    others = any(rollout.previous in versions for node, versions in ready.items() if node not in holders)
    if not rollout.previous or rollout.previous == rollout.version or (holders and not others):
        return VersionTable(rollout.model, rollout.version)
    return VersionTable(rollout.model, rollout.previous, rollout.version, workers=holders)


def wanted_digests(
    state: State, manifests: Mapping[tuple[str, int], Manifest], region: str = ""
) -> Iterable[tuple[str, int]]:
    """Artifacts (digest, size) that devices of this region may ask for: every version that a rollout names. What
    has its file at its home alone is nobody else's to hold."""
    for rollout in state.rollouts_in(region).values():
        policy = state.policies.get(rollout.model)
        for version in {rollout.version, rollout.previous, policy.shadow if policy is not None else 0}:
            manifest = manifests.get((rollout.model, version))
            if manifest is not None and not manifest.home:
                files = (*manifest.variants.values(), manifest.pre, manifest.post)
                yield from ((file.digest, file.size) for file in files if file is not None)
