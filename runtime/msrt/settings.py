"""Every setting of every tier: its meaning, unit and default, written down here and nowhere else.

Times are seconds, sizes bytes. A listener is HOST:PORT; empty means a free loopback port that the node keeps. A secret
may be given as `file:PATH`: then the file holds it (a relative path starts at the config file's folder).
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import msgspec

from msrt.errors import InvalidConfig
from msrt.protocol.address import check_serial
from msrt.statedir import split_address

__all__ = [
    "CloudConfig", "DeviceConfig", "EdgeConfig", "GatewayConfig", "MasterConfig", "NodeConfig", "SourceConfig",
    "is_loopback",
]  # fmt: skip

Seconds = Annotated[float, msgspec.Meta(gt=0, le=31_536_000)]
Period = Annotated[float, msgspec.Meta(gt=0, le=315_360_000)]
Bytes = Annotated[int, msgspec.Meta(ge=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]

MIB = 1 << 20
GIB = 1 << 30


class _Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    secrets: ClassVar[frozenset[str]] = frozenset()
    """Fields that no log or repr may show."""

    def __repr__(self) -> str:
        shown = (f"{name}={self._shown(name)}" for name in self.__struct_fields__)
        return f"{type(self).__name__}({', '.join(shown)})"

    def _shown(self, name: str) -> str:
        value = getattr(self, name)
        return "'***'" if name in self.secrets and value else repr(value)


class NodeConfig(_Settings, frozen=True, kw_only=True):
    """What every node has."""

    state: str = ""
    """Directory that holds all the node keeps; empty: $XDG_STATE_HOME/msrt/ROLE."""
    name: str = ""
    """The node's name; empty: the host's name, and for edges and devices a short id."""
    log_format: Literal["console", "json"] = "console"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    drain_s: Seconds = 5.0
    """How long work in progress may take to finish when the process is told to stop."""
    cache_bytes: Bytes = 4 * GIB
    """Artifacts kept beyond those in use, the least recently used go first; 0 keeps none."""


class MasterConfig(NodeConfig, frozen=True, kw_only=True):
    """What both masters have: workers below them, and an HTTP front."""

    secrets: ClassVar[frozenset[str]] = frozenset({"http_api_key"})

    listen: str = ""
    """ZeroMQ listener for workers, clients and operators."""
    http: str = ""
    """HTTP listener: Open Inference Protocol, /metrics, /msrt/v1. Off loopback it speaks TLS, and asks for a key
    (`msrt key create`)."""
    grpc: str = ""
    """gRPC listener: the same protocol, by the same certificate and keys; empty: none. Port 0 takes a free one, and
    keeps it."""
    http_plain: bool = False
    """No TLS, for a proxy in front speaks it. Callers on loopback then need a key too: the proxy's come from there."""
    tls_cert: str = ""
    """PEM file with the certificate chain that HTTP and gRPC show; empty: off loopback one that signs itself."""
    tls_key: str = ""
    """PEM file with its private key. Both files are read again when they change."""
    http_body_bytes: Bytes = 16 * MIB
    """Largest request body, and message over gRPC."""
    http_connections: Count = 2048
    """Open HTTP connections; one more is answered 503. Also the gRPC calls at work at a time."""
    http_idle_s: Seconds = 75.0
    """An idle connection is closed after this time."""
    advertise: str = ""
    """Host name or address that invites and parent lists show for this node; empty: the one it listens on."""
    lease_s: Seconds = 1.5
    """A worker silent for longer is dead: its work goes to others. It speaks at least three times in that time."""
    workers: Count = 4096
    """Nodes and clients below this one at a time; one more is refused as overloaded."""
    client_sessions: Count = 256
    """Sessions of one client's or operator's identity at a time; one more is refused as overloaded."""
    trace: str = ""
    """OpenTelemetry collector that gets spans (OTLP over HTTP), http://HOST:4318; empty: as OTEL_EXPORTER_OTLP_ENDPOINT
    says, else none. Needs msrt[trace]."""
    trace_share: Share = 0.01
    """Of the requests whose caller says nothing of it, those that are traced; who asks for it always is."""
    record_share: Share = 0.0
    """Of the dispatcher's decisions, those that are written to `decisions.jsonl` in the state directory."""
    record_bytes: Bytes = 64 * MIB
    """Size of that file, with the one before it."""

    def __post_init__(self) -> None:
        if self.listen:
            split_address(self.listen, "listen")
        if self.http:
            split_address(self.http, "http")
        if self.grpc:
            split_address(self.grpc, "grpc")
        if bool(self.tls_cert) != bool(self.tls_key):
            raise InvalidConfig("tls_cert and tls_key belong together", hint="set both, or neither")
        if self.tls_cert and self.http_plain:
            raise InvalidConfig("tls_cert and http_plain contradict each other", hint="let us speak TLS, or the proxy")


class CloudConfig(MasterConfig, frozen=True, kw_only=True):
    """The cloud master: `msrt cloud start --config cloud.toml`."""

    invite_ttl_s: Seconds = 86_400.0
    """How long an invite may be used, where its maker does not say."""
    journal_snapshot_entries: Count = 20_000
    """A snapshot is taken and the tail before it trimmed after so many entries."""
    model_bytes: Bytes = 2 * GIB
    """Largest ONNX file that `msrt model push` takes."""
    data: str = ""
    """Directory that jobs find as data in the cloud's own process: for baselines, and for what a model is judged on."""
    quantise_timeout_s: Seconds = 900.0
    """How long the child process that checks and quantises a model may run."""
    rollout_ready_s: Seconds = 120.0
    """How long devices may take to fetch and warm a new version before the rollout is rolled back."""
    rollout_window_s: Seconds = 5.0
    """How long a new version must stay healthy before the rollout goes on."""
    rollout_failures: Share = 0.02
    """Share of a device's requests that may fail; above it, and with at least three failures, the rollout is undone. A
    canary that gets a share of the traffic is bad when it fails by that much more than the version that serves."""
    rollout_slow: Share = 0.15
    """The same for answers slower than the time that 95 % of the serving version's keep to."""
    rollout_disagreement: Share = 0.2
    """Share of copies answered differently that makes a canary bad, where it is the model's shadow as well."""
    rollout_alpha: Annotated[float, msgspec.Meta(gt=0, le=0.5)] = 0.01
    """Of canaries that are no worse than what serves, at most this share is rolled back by their evidence."""
    rollout_beta: Annotated[float, msgspec.Meta(gt=0, le=0.5)] = 0.01
    """Of canaries that are worse by the shares above, at most this share is promoted."""
    rollout_evidence_s: Seconds = 600.0
    """How long a canary that gets a share of the traffic may stay undecided; what becomes of it then says the next."""
    rollout_undecided: Literal["rollback", "promote"] = "rollback"
    """rollback: what serves goes on serving. promote: the canary goes on, if it is ready and healthy."""
    orphan_grace_s: Annotated[float, msgspec.Meta(ge=0)] = 86_400.0
    """What nothing names any longer (left by removed jobs, by uploads that were never used) stays on disk for so long;
    0: for ever."""
    rejoin_leases: Annotated[float, msgspec.Meta(ge=0, le=10_000)] = 8.0
    """For so many leases after its start the cloud waits for the edges and devices it knew, before it opens a round."""
    image_bytes: Bytes = 2048 * MIB
    """Largest image of an agent, system or firmware."""
    updates_kept: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 20
    """Update campaigns that are over and replaced by newer ones: so many stay, with what became of each device."""
    job_bundle_bytes: Bytes = 64 * MIB
    """Largest job bundle."""
    train_forkserver_s: Annotated[float, msgspec.Meta(ge=0)] = 60.0
    """As on devices: torch stays loaded for so long after the last job's process ended; 0: off."""
    event_bytes: Bytes = 256 * MIB
    """Events kept for `msrt events`; the oldest go first and are counted."""
    trust_timestamp_s: Period = 14 * 86_400.0
    """For how long floors accept new artifacts without a newer word of the cloud; it signs again after an eighth."""
    trust_targets_s: Period = 365 * 86_400.0
    """How long the lists of signed artifacts are good; they are signed again after half of it."""
    trust_root_s: Period = 730 * 86_400.0
    """How long a root is good: the cloud makes the next one after three quarters of it while the root key is here, else
    whoever has it does (`msrt cloud keys rotate-root`)."""


class EdgeConfig(MasterConfig, frozen=True, kw_only=True):
    """An edge master: `msrt edge join [INVITE] --config edge.toml`; the invite is for the first time."""

    secrets: ClassVar[frozenset[str]] = frozenset({"mqtt_password", "webhook_secret"})

    mqtt: str = ""
    """Listener of our own MQTT broker. Off loopback it speaks TLS."""
    mqtt_broker: Literal["auto", "mosquitto", "amqtt", "none"] = "auto"
    """Our own broker: mosquitto if it is on PATH, else amqtt; none: no MQTT unless `mqtt_url` names a broker."""
    mqtt_url: str = ""
    """A broker of yours instead: mqtt://HOST:PORT or mqtts://HOST:PORT. It is trusted to keep its ACL (see deploy/)."""
    mqtt_username: str = ""
    """Our user name there."""
    mqtt_password: str = ""
    """Our password there. Secret."""
    mqtt_fingerprint: str = ""
    """SHA-256 of that broker's certificate, hex; empty: the system's certificate authorities decide."""
    queue_items: Count = 2048
    """Requests waiting for a device; one more is answered 503 with Retry-After."""
    queue_bytes: Bytes = 64 * MIB
    """The same in bytes of tensors."""
    queue_age_s: Seconds = 5.0
    """A request that waited so long is answered 503."""
    request_deadline_s: Seconds = 10.0
    """Deadline of a request that names none."""
    request_deadline_max_s: Seconds = 300.0
    """Longest deadline a request may name."""
    request_attempts: Count = 3
    """Devices that one request is tried on."""
    batch_window: Count = 2
    """Batches in flight to one device and model; what arrives meanwhile rides in the next one."""
    batch_rows: Count = 64
    """Rows in one batch."""
    stall_s: Seconds = 0.15
    """A device that is silent so long, and for several times its usual answer, gets no work and its own is retried."""
    event_bytes: Bytes = 256 * MIB
    """Events on disk that the cloud, the webhook or a follower has not taken; the oldest go first and are counted."""
    event_age_s: Seconds = 7 * 86_400.0
    """Events older than that are dropped and counted."""
    webhook_url: str = ""
    """Each event is posted there as JSON, at least once; empty: no webhook."""
    webhook_secret: str = ""
    """Key of the HMAC-SHA256 in the header `X-Msrt-Signature`. Secret; empty: not signed."""
    webhook_timeout_s: Seconds = 5.0
    """How long one post may take."""
    webhook_batch: Count = 100
    """Events in one post."""
    webhook_retry_max_s: Seconds = 60.0
    """Longest pause between tries; an unreachable webhook never blocks anything else."""
    update_streams: Count = 4
    """Training updates received at a time; the others wait for credit."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mqtt:
            split_address(self.mqtt, "mqtt")
        if self.mqtt_url and not self.mqtt_url.startswith(("mqtt://", "mqtts://")):
            raise InvalidConfig(
                f"mqtt_url = {self.mqtt_url!r} is no MQTT URL", hint="write mqtt://HOST:PORT or mqtts://..."
            )
        if self.webhook_url and not self.webhook_url.startswith(("http://", "https://")):
            raise InvalidConfig(f"webhook_url = {self.webhook_url!r} is no URL", hint="write http://... or https://...")


class SourceConfig(_Settings, frozen=True, kw_only=True):
    """One `[[source]]` of a device's config: a sensor, and the model that reads it."""

    name: str
    model: str
    """Which of the models placed on this device reads it."""
    kind: str
    """replay, command, mqtt, or the name of an entry point in the group msrt.sources."""
    path: str = ""
    """replay: a .npy, .csv or .jsonl file, or a directory of .npy and raw .bin files, read in name order."""
    command: tuple[str, ...] = ()
    """command: program and arguments; each line of its output is one reading (JSON array, or numbers)."""
    topic: str = ""
    """mqtt: topic filter; each payload is one reading."""
    url: str = ""
    """mqtt: the broker, mqtt://HOST:PORT."""
    interval_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """Least time between two readings."""
    loop: bool = False
    """replay: begin again at the end."""
    dtype: str = "float32"
    """Of raw .bin files."""
    min_score: float | None = None
    """Post an event only when the best score reaches this (a score may be negative where a model ends in logits)."""
    on_change: bool = False
    """Post an event only when the label differs from the last one."""
    drift: Annotated[float, msgspec.Meta(ge=0)] = 0.25
    """Post an event when readings are so far (population stability index) from the data that the model was pushed with:
    0.1 is some, 0.25 much. 0: nothing is measured."""
    drift_readings: Count = 500
    """So many readings are held against that data together."""
    options: dict[str, Any] = {}
    """Passed to a plug-in."""


class DeviceConfig(NodeConfig, frozen=True, kw_only=True):
    """A device worker: `msrt device join [INVITE] --config device.toml`; the invite is for the first time."""

    link: Literal["zmq", "mqtt"] = "zmq"
    """How it talks to its edge."""
    metrics: str = ""
    """HTTP listener of /metrics; empty: a free loopback port; `off`: none."""
    labels: dict[str, str] = {}
    """Labels it reports beside those of its invite."""
    serial: str = ""
    """Serial number of the board, for the inventory: letters, digits, . _ : -"""
    cache_bytes: Bytes = 512 * MIB
    """Artifacts kept beyond those in use, the least recently used go first; 0 keeps none."""
    engine_threads: Count = 1
    """Threads of one onnxruntime call."""
    engine_queue: Count = 64
    """Batches of slow models that may wait; one more is refused, and the edge tries another device."""
    model_memory: Bytes = 0
    """Bytes for loaded models, estimated as one and a half of their files; 0: half of the machine's memory. The least
    recently used go first, and are loaded again when asked for."""
    sequences: Count = 1024
    """Sequences whose state is kept; with all of them in use one more is refused."""
    sequence_bytes: Bytes = 64 * MIB
    """Bytes of all their states; the least recently used are forgotten first."""
    sequence_idle_s: Seconds = 120.0
    """A sequence that was idle so long is forgotten."""
    sequence_drain_s: Seconds = 30.0
    """Sequences stay on the version where they began; when it was replaced they have so long to end."""
    reconnect_max_s: Seconds = 5.0
    """Longest pause between two tries of the whole list of parents."""
    home_s: Annotated[float, msgspec.Meta(ge=0)] = 30.0
    """At an edge of another region, it looks about so often whether one of its own is there again, and goes to it at a
    quiet moment: none of its sequences open, no round in work; 0: it stays where it is, as it does where both edges
    share one MQTT broker."""
    source: tuple[SourceConfig, ...] = ()
    """Its own sensors."""
    event_bytes: Bytes = 64 * MIB
    """Events on disk that the edge has not taken; the oldest go first and are counted."""
    train: bool = True
    """Takes part in training rounds (needs msrt[train])."""
    train_forkserver_s: Annotated[float, msgspec.Meta(ge=0)] = 60.0
    """Torch stays loaded in a process of its own for so long after the last job's process ended, so that the next one
    starts in a moment; 0: no such process, which saves its memory (about 80 MiB beside one job)."""
    data: str = ""
    """Directory that jobs find as the node's own data."""
    train_pause_ms: Annotated[float, msgspec.Meta(ge=0)] = 50.0
    """Training pauses for a moment when a model's call took longer than this, milliseconds; 0: never."""
    update_window: str = ""
    """When an update may restart it: HH:MM-HH:MM, local time; empty: whenever nobody asks it anything."""
    update_idle_s: Annotated[float, msgspec.Meta(ge=0)] = 2.0
    """So long nobody must have asked."""
    update_patience_s: Seconds = 600.0
    """One that is always busy is restarted after so long all the same: others answer meanwhile."""
    update_tries: Count = 1
    """How often a new version may be started before it is committed; with 1 any restart before that brings back the
    old one."""
    update_trial_s: Seconds = 300.0
    """In that time an edge must have welcomed it and its models must have answered."""

    def __post_init__(self) -> None:
        _check_metrics(self.metrics)
        check_serial(self.serial)
        names = [source.name for source in self.source]
        if twice := {name for name in names if names.count(name) > 1}:
            raise InvalidConfig(f"two sources are named {min(twice)!r}", hint="give each [[source]] a name of its own")


class GatewayConfig(NodeConfig, frozen=True, kw_only=True):
    """A microcontroller's stand-in: `msrt device gateway --serial PATH --invite INVITE --config gateway.toml`."""

    serial: str = ""
    """PATH or PATH@BAUD of the board's serial port; 115200 baud if not said."""
    tcp: str = ""
    """HOST:PORT of the board where it has no serial port; one of the two is needed."""
    board_lease_s: Seconds = 6.0
    """The board answers for so long without hearing of us; a third of it lies between two heartbeats."""
    sense_ms: Annotated[int, msgspec.Meta(ge=0, le=86_400_000)] = 0
    """Between two readings of the board's own sensor, milliseconds; 0: it is not read."""
    link: Literal["zmq", "mqtt"] = "zmq"
    """How it talks to its edge."""
    labels: dict[str, str] = {}
    """Labels it reports beside those of its invite, and `board` and `serial` as the board says."""
    engine_queue: Count = 64
    """Batches that may wait for the board; one more is refused, and the edge tries another device."""
    reconnect_max_s: Seconds = 5.0
    """Longest pause between two looks for the board, or two tries of the whole list of parents."""
    home_s: Annotated[float, msgspec.Meta(ge=0)] = 30.0
    """At an edge of another region, it looks about so often whether one of its own is there again; 0: it stays."""
    event_bytes: Bytes = 16 * MIB
    """Events on disk that the edge has not taken; the oldest go first and are counted."""
    metrics: str = ""
    """HTTP listener of /metrics; empty: a free loopback port; `off`: none."""

    def __post_init__(self) -> None:
        _check_metrics(self.metrics)


def _check_metrics(address: str) -> None:
    if address not in {"", "off"} and not is_loopback(address, "metrics"):
        raise InvalidConfig(f"metrics = {address!r} is reachable from other machines", hint="use 127.0.0.1:PORT")


def is_loopback(address: str, what: str = "address") -> bool:
    """Does HOST:PORT stay on this machine? Raises InvalidConfig."""
    host, _ = split_address(address, what)
    return host in {"localhost", "::1"} or host.startswith("127.")
