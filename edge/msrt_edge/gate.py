"""Who may come in at an edge: devices, clients and other edges with a certificate of the cloud; joiners are relayed."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from msrt import errors
from msrt.hop import Uplink
from msrt.journal.state import State
from msrt.protocol.messages import Enrol, Enrolled, Hello, Parent
from msrt.trust.certificate import Certificate, check_certificate
from msrt.trust.roles import Role

__all__ = ["EdgeGate"]

RELAY_S = 10.0


class EdgeGate:
    """`parents`: where a node of this edge may go, this edge first."""

    def __init__(
        self,
        cloud_identity: bytes,
        state: Callable[[], State],
        uplink: Uplink,
        parents: Callable[[], tuple[Parent, ...]],
    ) -> None:
        self._cloud, self._state, self._uplink, self._parents = cloud_identity, state, uplink, parents

    def admit(self, hello: Hello, principal: bytes) -> Certificate:
        """Works with the cloud away: the certificate and the journal on disk say enough."""
        certificate = check_certificate(hello.certificate, self._cloud)
        if certificate.node != hello.node:
            raise errors.NotEnrolled(f"the certificate is of {certificate.node}, not of {hello.node}")
        if principal not in (certificate.link_key, hello.node.encode()):
            raise errors.NotEnrolled("the link was opened with another key than the certificate's")
        if certificate.role not in (Role.DEVICE, Role.CLIENT, Role.OPERATOR, Role.EDGE):
            raise errors.Forbidden(f"an edge takes devices, clients and other edges, not the role {certificate.role!r}")
        self._state().check_standing(certificate.node, certificate.serial, certificate.name)
        return certificate

    def parents(self, _certificate: Certificate) -> tuple[Parent, ...]:
        """This edge, then its neighbours."""
        return self._parents()

    async def enrol(self, enrol: Enrol, _principal: bytes) -> Enrolled:
        """Ask the cloud: only it spends invites. Raises Unavailable while it is away."""
        try:
            answer = await self._uplink.call("enrol", msgspec.to_builtins(enrol, builtin_types=(bytes,)), RELAY_S)
        except (errors.Disconnected, errors.DeadlineExceeded):
            raise errors.Unavailable(
                "the cloud is away, and only it can spend an invite", hint="it will be tried again"
            ) from None
        enrolled = msgspec.convert(answer, Enrolled, builtin_types=(bytes,))
        return msgspec.structs.replace(enrolled, parents=self._parents())
