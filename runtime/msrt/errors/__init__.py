"""Every error msrt raises, under one root, split by who is at fault.

`CallerError`: what you passed cannot work. `PeerError`: the other side broke a rule or refused.
`LocalError`: this machine (disk, port, state directory) is in the way. Each error carries a stable `code`
that crosses the wire, a sentence that names the fault, and a `hint` that says what to do.
"""

from msrt.errors import base, caller, local, peer
from msrt.errors.base import *
from msrt.errors.caller import *
from msrt.errors.local import *
from msrt.errors.peer import *

__all__ = base.__all__ + caller.__all__ + local.__all__ + peer.__all__
