"""Which artifacts are trusted now: The Update Framework (TUF, specification 1.0) on every floor.

`names` says under which path an artifact is signed, `metadata` reads and checks one signed file, `workflow` is the
client workflow as a pure object, `claims` what is asked, `floor` the shell: it keeps what is trusted on disk, asks the
parent for what is newer, answers the children. The cloud's side (keys, signing) is `msrt_cloud.signing`.
"""

from __future__ import annotations

from msrt.trust.tuf.claims import Claim, Vouch, bundle_claim, manifest_claim
from msrt.trust.tuf.floor import Floor
from msrt.trust.tuf.names import Kind

__all__ = ["Claim", "Floor", "Kind", "Vouch", "bundle_claim", "manifest_claim"]
