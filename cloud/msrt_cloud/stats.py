"""The view that `msrt model stats` prints: how versions are served, by region."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msrt.protocol.messages import ServedRow, ServingReport
from msrt_cloud.served import OWN, added, of_row, said

if TYPE_CHECKING:
    from msrt_cloud.master import Cloud

__all__ = ["serving_rows"]


def serving_rows(cloud: Cloud, model: str = "") -> list[dict[str, Any]]:
    """A row for each version and region (the edges of one together), with traffic: what it was in the last seconds, or
    in all where there was nothing lately; and whether it is a canary."""
    own = tuple(of_row(row) for row in cloud.serving.tally.rows(model))
    cloud.served.report(OWN, ServingReport(0, own), cloud.world.now())
    found: dict[tuple[str, int, str], list[tuple[ServedRow, ServedRow, float]]] = {}
    for node, total, lately, seconds in cloud.served.lately(cloud.world.now(), model):
        edge = cloud.fleet.edges.get(node)
        region = edge.region if edge is not None else OWN
        found.setdefault((total.model, total.version, region), []).append((total, lately, seconds))
    rows = []
    for (name, version, region), parts in sorted(found.items()):
        total, lately = (added(rows) for rows in ([p[0] for p in parts], [p[1] for p in parts]))
        rate = sum((one.answered + sum(one.failed.values())) / seconds for _, one, seconds in parts)
        shown = said(lately if lately.answered or lately.failed else total)
        rollout = cloud.writer.state.rollouts_in("" if region == OWN else region).get(name)
        rows.append(
            {
                "model": name, "version": version, "region": region, "per_s": rate, **shown,
                "requests": total.answered + sum(total.failed.values()), "errors": sum(total.failed.values()),
                "faults": total.faults, "failed": total.failed,
                "canary": rollout is not None and rollout.state == "canary" and rollout.version == version,
                "edges": len(parts), "lately": bool(lately.answered or lately.failed),
            }
        )  # fmt: skip
    return rows
