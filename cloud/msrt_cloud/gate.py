"""Who may come in at the cloud: invites are spent here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from msrt import errors
from msrt.journal.facts import BrokerAccount, Entry, InviteSpent, NodeEnrolled
from msrt.journal.state import State
from msrt.journal.writer import Writer
from msrt.protocol.address import check_name, check_serial, node_id
from msrt.protocol.messages import Enrol, Enrolled, Hello, Parent
from msrt.trust.certificate import Certificate, check_certificate, check_proof, issue
from msrt.trust.identity import Identity
from msrt.trust.roles import Role
from msrt.trust.tls import mosquitto_password
from msrt.world.world import World

__all__ = ["CloudGate"]


class CloudGate:
    """`parents`: certificate -> where that node should go, best first. `first_root`: SHA-256 of the tree's."""

    def __init__(
        self, world: World, identity: Identity, writer: Writer, parents: Callable[[Certificate], tuple[Parent, ...]],
        first_root: bytes,
    ) -> None:  # fmt: skip
        self._world, self._identity, self._writer, self._parents = world, identity, writer, parents
        self._first_root = first_root

    def admit(self, hello: Hello, principal: bytes) -> Certificate:
        """Edges, clients and operators; devices belong to an edge."""
        certificate = check_certificate(hello.certificate, self._identity.public)
        if certificate.node != hello.node:
            raise errors.NotEnrolled(f"the certificate is of {certificate.node}, not of {hello.node}")
        if principal != certificate.link_key:
            raise errors.NotEnrolled("the link was opened with another key than the certificate's")
        if certificate.role not in (Role.EDGE, Role.CLIENT, Role.OPERATOR):
            raise errors.Forbidden("a device joins an edge, not the cloud", hint="use the addresses of its invite")
        self._writer.state.check_standing(certificate.node, certificate.serial, certificate.name)
        return certificate

    def parents(self, certificate: Certificate) -> tuple[Parent, ...]:
        """Where that node may go."""
        return self._parents(certificate)

    async def enrol(self, enrol: Enrol, _principal: bytes) -> Enrolled:
        """Spend an invite: one journal append, and only then the certificate. The node that spent it may ask again."""
        check_proof(enrol.invite, enrol.identity, enrol.link_key, enrol.proof)
        check_name(enrol.name)
        check_serial(enrol.serial)
        node = node_id(enrol.identity)
        # The same however often it asks, by whichever edge: two answers may cross on their way.
        password = self._identity.derive(f"mqtt-password/{node}/{enrol.invite}".encode()).hex()
        salt = self._world.random.randbytes(12)
        line = await self._world.offload(mosquitto_password, password, salt)
        await self._writer.decide(lambda state: self._let_in(state, enrol, node, line))
        state = self._writer.state
        certificate = self._certificate(state, node)
        return Enrolled(
            certificate=issue(self._identity, certificate), cloud_identity=self._identity.public,
            parents=self._parents(certificate), mqtt_password=password if certificate.role == Role.DEVICE else "",
        )  # fmt: skip

    def _let_in(self, state: State, enrol: Enrol, node: str, line: str) -> list[Entry]:
        wall = self._world.wall()
        record = state.invites.check(enrol.invite, enrol.secret, wall, node)
        account = BrokerAccount(node, line, wall=wall)
        if record.spent_by:
            if state.is_revoked(node):
                raise errors.Revoked(f"{enrol.name} was removed from the tree", hint="ask for a new invite")
            return [account] if record.role == Role.DEVICE else []
        if any(other.node != node and other.role == record.role for other in state.named(enrol.name)):
            raise errors.Conflict(f"another {record.role} is named {enrol.name!r}", hint="give it a --name of its own")
        out: list[Entry] = [
            InviteSpent(enrol.invite, node, wall),
            NodeEnrolled(
                node=node, role=record.role, name=enrol.name, region=record.region, labels=record.labels,
                identity=enrol.identity, link_key=enrol.link_key, serial=self._next_serial(state),
                invite=enrol.invite, wall=wall, board=enrol.serial,
            ),
        ]  # fmt: skip
        if record.role == Role.DEVICE:
            out += [account, BrokerAccount(f"invite-{enrol.invite}", "", wall=wall)]
        return out

    def _next_serial(self, state: State) -> int:
        return 1 + max((n.enrolled.serial for n in state.nodes.values()), default=0)

    def _certificate(self, state: State, node: str) -> Certificate:
        enrolled = state.nodes[node].enrolled
        return Certificate(
            node=node, role=enrolled.role, name=enrolled.name, identity=enrolled.identity, link_key=enrolled.link_key,
            region=enrolled.region, labels=enrolled.labels, issued=enrolled.wall, serial=enrolled.serial,
            root=self._first_root,
        )  # fmt: skip

    def as_call(self, params: dict[str, object]) -> Enrol:
        """An enrolment that an edge relays. Raises CallerError for one that is malformed."""
        try:
            return msgspec.convert({k: v for k, v in params.items() if k != "t"}, Enrol, builtin_types=(bytes,))
        except msgspec.ValidationError as error:
            raise errors.CallerError(f"a malformed enrolment: {error}") from None
