"""Loaded first by the server that forks the workers, and by nobody else: whoever imports it dies with its parent.

Python ends that server when nobody holds its pipe any more, but its workers hold it too: with the agent killed, a
worker that waits for the agent, and the server that must die for the worker to, would wait for each other for ever.
"""

from __future__ import annotations

import os

from msrt.training.limits import die_with

die_with(os.getppid())
