"""Signing: the keys of the cloud's TUF repository, and the metadata that they sign. The only rooms that import `tuf`.

`keys` keeps private keys, `signed` turns metadata into bytes and back, `lists` says what follows from a change,
`repository` publishes artifacts and renews what ends, `rotation` makes new roots, `offline` is for keys that are
elsewhere. What checks all this is `msrt.trust.tuf`.
"""

from __future__ import annotations

from msrt_cloud.signing.keys import FolderRing, KeyRing, SeededRing
from msrt_cloud.signing.periods import Periods
from msrt_cloud.signing.repository import Repository

__all__ = ["FolderRing", "KeyRing", "Periods", "Repository", "SeededRing"]
