"""Secure aggregation with drop-outs: an edge adds up masked updates and learns nothing but their sum.

Bonawitz 2017 (double masking: a mask with each neighbour, which cancels in the sum, and one of its own, of which shares
are with the neighbours) on the sparse graph of Bell 2020. README.md beside this file says whom it trusts with what.

fixed    updates as whole numbers mod 2^bits whose sum cannot overflow
shamir   a secret in shares
masks    key agreement, and streams added to a vector
graph    who is whose neighbour, how many neighbours it takes
keys     fresh keys of an exchange, signed by a device's identity
client   a device's part, as a table
server   an edge's part, as a table
masked   what an edge does with masked payloads
unmask   what it computes in the end
"""

from __future__ import annotations

from msrt.learning.secure_aggregation.client import SecureClient
from msrt.learning.secure_aggregation.fixed import Fixed
from msrt.learning.secure_aggregation.keys import Me

__all__ = ["Fixed", "Me", "SecureClient"]
