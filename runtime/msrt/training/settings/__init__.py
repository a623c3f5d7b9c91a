"""`job.toml` as frozen structs, a file for each group of tables.

base          what every table is made of
faults        what is wrong with a value, in words
job           JobConfig, the whole file; `parse_config`
local         [train], [limits]: what one node does in one round
aggregate     [aggregate]: how the updates of a round become one
combinations  what cannot be in one job, with the reason
cluster       [cluster]: the node is a group of processes on torch.distributed
privacy       [privacy]: noise, and how much may be spent of what it hides
rounds        [compression], [sampling], [pace]: how updates travel, whom a round asks, when it ends
secure        [secure]: how updates are hidden from the edges that add them up
server        [server]: how what the nodes did becomes the next model
parameter_server  [parameter_server]: push and pull at every worker's own pace
ends          [baseline], [publish], [trigger]: what becomes of a job that is over
"""

from __future__ import annotations

from msrt.training.settings.aggregate import Aggregation
from msrt.training.settings.cluster import ClusterSettings
from msrt.training.settings.ends import Baseline, Publish, Trigger
from msrt.training.settings.job import CONFIG, JobConfig, parse_config
from msrt.training.settings.local import Limits, TrainSettings
from msrt.training.settings.parameter_server import ParameterServer
from msrt.training.settings.privacy import Privacy
from msrt.training.settings.rounds import Compression, Pacing, Sampling
from msrt.training.settings.secure import SecureSettings
from msrt.training.settings.server import ServerSettings

__all__ = [
    "CONFIG", "Aggregation", "Baseline", "ClusterSettings", "Compression", "JobConfig", "Limits", "Pacing",
    "ParameterServer", "Privacy", "Publish", "Sampling", "SecureSettings", "ServerSettings", "TrainSettings", "Trigger",
    "parse_config",
]  # fmt: skip
