"""What the caller passed cannot work."""

from __future__ import annotations

from msrt.errors.base import CallerError

__all__ = [
    "Conflict",
    "InvalidAddress",
    "InvalidConfig",
    "InvalidImage",
    "InvalidJob",
    "InvalidModel",
    "InvalidTensor",
    "NotFound",
    "QualityGate",
    "Unauthorized",
]


class InvalidAddress(CallerError):
    """A name, node id, region, label, topic or endpoint is malformed."""

    code = "invalid_address"


class InvalidConfig(CallerError):
    """A setting is unknown or out of range."""

    code = "invalid_config"


class InvalidTensor(CallerError):
    """A tensor has the wrong name, shape, dtype or byte count."""

    code = "invalid_tensor"


class InvalidModel(CallerError):
    """An ONNX file cannot be accepted: truncated, external data, unknown operator, fails to run."""

    code = "invalid_model"


class QualityGate(CallerError):
    """A model did not pass the quality gate."""

    code = "quality_gate"


class InvalidJob(CallerError):
    """A training job's bundle or settings cannot work."""

    code = "invalid_job"


class InvalidImage(CallerError):
    """An image of an agent, system or firmware cannot be used: damaged, of another kind, for other devices."""

    code = "invalid_image"


class NotFound(CallerError):
    """A model, version, node, job or artifact of that name does not exist."""

    code = "not_found"


class Conflict(CallerError):
    """The request contradicts the present state."""

    code = "conflict"


class Unauthorized(CallerError):
    """No API key where one is needed, or one that is unknown, expired or revoked."""

    code = "unauthorized"
    hint = "send it as Authorization: Bearer KEY or X-API-Key: KEY"
