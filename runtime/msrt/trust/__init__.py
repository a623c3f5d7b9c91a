"""Who is who: identities, certificates, invites, roles, and the secrets of the MQTT broker."""

from __future__ import annotations

from msrt.trust.certificate import Certificate, check_certificate, check_proof, issue, prove
from msrt.trust.identity import Identity, Purpose, link_public, verify
from msrt.trust.invite import Invite, InviteBook, InviteRecord
from msrt.trust.roles import Role, allowed, check_call, check_message
from msrt.trust.tls import BrokerCertificate, fingerprint, mosquitto_password

__all__ = [
    "BrokerCertificate",
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
    "fingerprint",
    "issue",
    "link_public",
    "mosquitto_password",
    "prove",
    "verify",
]
