"""Content-addressed bytes: models, job bundles, checkpoints, images. Immutable, verified, fetched from the parent."""

from msrt.artifacts.lent import Lent
from msrt.artifacts.store import ArtifactStore, BlobSink, Fetch

__all__ = ["ArtifactStore", "BlobSink", "Fetch", "Lent"]
