"""Rules that take the mean of what most of the nodes say, whatever the others send.

rule         a rule by its name, and how many updates it needs
robust       the aggregator: keeps payloads as they are, reads them by blocks of coordinates
coordinates  median, trimmed mean, nearest to the median: each coordinate by itself
total        sums of regions and singles together, on the cloud
distances    Krum and its kin: whole updates by how near the others are
"""

from __future__ import annotations

from msrt.learning.rules.robust import Robust
from msrt.learning.rules.rule import RULE, Rule, open_rule
from msrt.learning.rules.total import Total

__all__ = ["RULE", "Robust", "Rule", "Total", "open_rule"]
