"""Content-addressed bytes that travel down the tree: models, job bundles, weights. Named by SHA-256, never changed.

`store` keeps and verifies them, `transfer` brings one from a parent and serves one to a child.
"""

from msrt.artifacts.store import ArtifactStore

__all__ = ["ArtifactStore"]
