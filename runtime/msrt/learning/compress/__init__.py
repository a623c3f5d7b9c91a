"""A flat vector as a payload of fewer bytes, and what was left out, remembered for the next one.

codec     what a codec is: the length of its payloads follows from the model's layout, so a payload has no header
dense     fp32, fp16, bf16: every element, rounded
blocks    int8 (stochastic rounding) and sign (one bit), each with a scale a block
sparse    topk:SHARE, the largest elements alone
lowrank   powersgd:RANK, matrices as products of two thin ones
names     a codec by its name
feedback  what a biased codec left out is added to the next vector
"""

from __future__ import annotations

from msrt.learning.compress.codec import SPAN, Codec
from msrt.learning.compress.feedback import ErrorFeedback, change
from msrt.learning.compress.names import open_codec

__all__ = ["SPAN", "Codec", "ErrorFeedback", "change", "open_codec"]
