"""Who is who: identities, certificates, invites, roles.

`tls` (the MQTT broker's secrets) is imported where it is used: a device is spared X.509.
"""

from __future__ import annotations

from msrt.trust.certificate import Certificate, check_certificate, check_proof, issue, prove
from msrt.trust.identity import Identity, Purpose, link_public, verify
from msrt.trust.invite import Invite, InviteBook, InviteRecord
from msrt.trust.roles import Role, allowed, check_call, check_message

__all__ = [
    "Certificate",
    "Identity",
    "Invite",
    "InviteBook",
    "InviteRecord",
    "Purpose",
    "Role",
    "allowed",
    "check_call",
    "check_certificate",
    "check_message",
    "check_proof",
    "issue",
    "link_public",
    "prove",
    "verify",
]
