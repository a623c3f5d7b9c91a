"""Content-addressed bytes: models, job bundles, checkpoints, images. Immutable, verified, fetched from the parent."""

from msrt.artifacts.store import ArtifactStore, BlobSink, Fetch, Lent

__all__ = ["ArtifactStore", "BlobSink", "Fetch", "Lent"]
