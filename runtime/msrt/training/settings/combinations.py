"""What can be combined in one job: all but the pairs of this table. The README of msrt.training shows it.

A new setting that does not go with others adds the words it is known by to FEATURES and its pairs to IMPOSSIBLE.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from msrt.errors import InvalidJob

if TYPE_CHECKING:
    from msrt.training.settings.job import JobConfig

__all__ = ["FEATURES", "IMPOSSIBLE", "refuse", "table"]

CENTRAL: Final = '`privacy.mode = "central"`'
BIASED: Final = frozenset({"sign", "topk", "powersgd"})
SAMPLE: Final = '`privacy.mode = "sample"`'

SCAFFOLD: Final = '`train.algorithm = "scaffold"`'
FEATURES: Final[dict[str, Callable[[JobConfig], bool]]] = {
    "`aggregate.rule` but mean": lambda job: job.aggregate.opened.robust,
    "`aggregate.rule` median, trimmed or bulyan": lambda job: job.aggregate.opened.by_coordinate,
    "`compression.device = topk`": lambda job: job.links.device.startswith("topk"),
    "`pace.buffer`": lambda job: job.pace.buffer > 0,
    '`pace.late = "next"`': lambda job: job.pace.late == "next",
    "`pace.steps` above 1": lambda job: job.pace.steps > 1,
    "`[parameter_server]`": lambda job: job.parameter_server is not None,
    "`[pace]`": lambda job: job.pace != type(job.pace)(),
    "`[aggregate]`": lambda job: job.aggregate != type(job.aggregate)(),
    "`train.proximal`": lambda job: job.train.proximal > 0,
    "`train.within_s`": lambda job: job.train.within_s > 0,
    "`train.clip`": lambda job: job.train.clip > 0,
    SAMPLE: lambda job: job.privacy is not None and job.privacy.mode == "sample",
    CENTRAL: lambda job: job.privacy is not None and job.privacy.mode == "central",
    "`[privacy]`": lambda job: job.privacy is not None,
    "`[cluster]`": lambda job: job.cluster is not None,
    "`cluster.nodes` above 1": lambda job: job.cluster is not None and job.cluster.nodes > 1,
    "`pace.partial`": lambda job: job.pace.partial,
    "`aggregate.clip`": lambda job: job.aggregate.clip > 0,
    SCAFFOLD: lambda job: job.train.algorithm == "scaffold",
    "`train.keep_local`": lambda job: bool(job.train.keep_local),
    '`sampling.strategy = "utility"`': lambda job: job.sampling.strategy == "utility",
    "`[sampling]` of a part": lambda job: job.sampling.partial,
    "a codec that leaves out": lambda job: any(
        name.startswith(("topk", "sign")) for name in (job.links.device, job.links.region, job.links.down)
    ),
    "`[publish]`": lambda job: job.publish is not None,
    "`compression.device` sign, topk or powersgd": lambda job: job.links.device.partition(":")[0] in BIASED,
    "`[secure]`": lambda job: job.secure is not None,
}  # fmt: skip
"""As job.toml spells it, and whether a job has it."""

IMPOSSIBLE: Final[tuple[tuple[str, str, str], ...]] = (
    ("`aggregate.rule` but mean", "`pace.buffer`", "who is quick fills a buffer by itself: no majority is in it"),
    ("`aggregate.rule` but mean", '`pace.late = "next"`', "late updates count less, and a rule weighs all the same"),
    ("`aggregate.rule` but mean", "`pace.steps` above 1", "a region with too few for the rule has no sum of its own"),
    ("`aggregate.rule` median, trimmed or bulyan", "`compression.device = topk`",
     "what most nodes leave out is zero in the middle of all"),
    ("`pace.buffer`", "`pace.steps` above 1", "a buffer takes updates one by one, a region's own rounds end in a sum"),
    ('`pace.late = "next"`', "`pace.steps` above 1", "what is late for one of a region's own rounds is worth nothing"),
    ("`[parameter_server]`", "`[pace]`", "workers go at their own pace: `mode` and `staleness` say how far apart"),
    ("`[parameter_server]`", "`[aggregate]`", "a push moves the model as it comes, no rule sees them together"),
    ("`[parameter_server]`", "`train.proximal`", "a worker takes gradients where the model is, it strays nowhere"),
    ("`[parameter_server]`", "`train.within_s`", "a push is so many batches: see `push_every`"),
    (CENTRAL, "`pace.buffer`", "a node could count twice in what one noise hides"),
    (CENTRAL, '`pace.late = "next"`', "a node could count twice in what one noise hides"),
    (CENTRAL, "`pace.steps` above 1", "a region's own sums would reach its devices without noise"),
    (CENTRAL, "`[aggregate]`", "its noise is made for the mean of updates that `privacy.clip` bounds"),
    (SAMPLE, "`train.clip`", "each sample's gradient is clipped already, by `privacy.clip`"),
    ("`[privacy]`", "`[parameter_server]`", "what is spent is counted in rounds, and a push leaves in every step"),
    ("`[privacy]`", "`[cluster]`", "its processes hand their updates over without clip and noise"),
    ("`pace.buffer`", "`pace.partial`", "with a buffer nobody is late, so nobody need stop early"),
    ("`pace.buffer`", "`[sampling]` of a part", "nodes of a buffered job go on at their own pace, no round asks them"),
    (SCAFFOLD, "`pace.buffer`", "a control is a change against the model of its own round"),
    (SCAFFOLD, '`pace.late = "next"`', "a control is a change against the model of its own round"),
    (SCAFFOLD, "`pace.steps` above 1", "a region's mean moves the model, the control moves by all nodes"),
    (SCAFFOLD, "`train.proximal`", "the way of a node must show its mean gradient alone"),
    (SCAFFOLD, "`aggregate.clip`", "the server must add what the node kept, not something shorter"),
    (SCAFFOLD, "`aggregate.rule` but mean", "the server's control is the mean of the nodes' own, no other rule's"),
    (SCAFFOLD, "a codec that leaves out", "weights and controls differ in scale: one would crowd the other out"),
    ("`cluster.nodes` above 1", "`[sampling]` of a part", "a group needs all of its nodes in every round"),
    ("`cluster.nodes` above 1", "`pace.buffer`", "a group's nodes end a round together, none at its own pace"),
    ("`cluster.nodes` above 1", "`aggregate.rule` but mean", "a group's nodes send the same: no majority is in it"),
    (SCAFFOLD, "`[cluster]`", "the processes of a group keep no control between rounds"),
    (SCAFFOLD, "`[parameter_server]`", "a worker takes gradients where the model is, there is no drift to correct"),
    (SCAFFOLD, "`[privacy]`", "a node would keep another control than what is left of its change"),
    ('`sampling.strategy = "utility"`', "`[privacy]`", "private nodes do not tell what their losses are"),
    ("`train.keep_local`", "`[parameter_server]`", "workers push gradients of the whole model"),
    ("`[sampling]` of a part", "`[parameter_server]`", "workers go at their own pace, no round asks them"),
    ("`[parameter_server]`", "`[cluster]`", "a push is the gradient of one process: a group trains whole rounds"),
    ("`train.keep_local`", "`[cluster]`", "the processes of a group keep no part of the model between rounds"),
    ("`train.keep_local`", "`[publish]`", "what nodes keep was never trained in the model that would be published"),
    ("`[secure]`", "`[aggregate]`", "nobody sees a single update, to compare it or to clip it: see `secure.clip`"),
    ("`[secure]`", CENTRAL, "edges make sure that no update is longer than `privacy.clip`, and see none"),
    ("`[secure]`", "`[parameter_server]`", "a push moves the model alone, a masked one says nothing alone"),
    ("`[secure]`", SCAFFOLD, "a device that shortens its update to `secure.clip` would keep another control"),
    ("`[secure]`", '`sampling.strategy = "utility"`', "losses are in the sum: nobody knows a single node's"),
    ("`[secure]`", "`pace.buffer`", "a buffer takes updates one by one, a masked one says nothing alone"),
    ("`[secure]`", '`pace.late = "next"`', "the masks of one round come off with the sum of that round alone"),
    ("`[secure]`", "`compression.device` sign, topk or powersgd", "only whole numbers of all parameters cancel masks"),
)  # fmt: skip
"""(feature, feature, why not)."""


def refuse(job: JobConfig) -> None:
    """Raises InvalidJob for the first pair that cannot be, with the reason."""
    for one, other, why in IMPOSSIBLE:
        if FEATURES[one](job) and FEATURES[other](job):
            raise InvalidJob(f"{one} and {other} cannot be combined: {why}", hint="leave one of them out")


def table() -> str:
    """The pairs as Markdown."""
    rows = [f"| {one} | {other} | {why} |" for one, other, why in IMPOSSIBLE]
    return "\n".join(["| this | cannot be with | because |", "|---|---|---|", *rows])
