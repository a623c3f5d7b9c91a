"""Who gets a candidate first: a region, one node, or a share of the devices that stays the same. Pure."""

from __future__ import annotations

import hashlib
import math

from msrt import errors

__all__ = ["is_canary", "parse_canary", "rank"]


def parse_canary(text: str) -> tuple[str, float]:
    """`20%` -> ("", 0.2); a region's name -> (name, 0); empty -> ("", 0). Raises InvalidAddress on a bad share."""
    if not text.endswith("%"):
        return text, 0.0
    try:
        share = float(text[:-1]) / 100
    except ValueError:
        share = math.nan
    if not 0 < share <= 1:
        raise errors.InvalidAddress(f"{text!r} is no share of the devices", hint="give 1% to 100%, or a region's name")
    return "", share


def is_canary(canary: str, region: str, node: str, model: str) -> bool:
    """Does this device get the candidate first? `node:ID` names one; a share is taken by a hash of node and model, so
    it stays the same."""
    if canary.startswith("node:"):
        return node == canary[5:]
    name, share = parse_canary(canary)
    if name:
        return region == name
    return rank(model, node) < share


def rank(what: str, node: str) -> float:
    """Where a node stands among all, for one thing: from 0 to below 1, by a hash, so it stays the same."""
    digest = hashlib.sha256(f"{what}/{node}".encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32
