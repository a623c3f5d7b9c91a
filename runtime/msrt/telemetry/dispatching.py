"""A dispatcher's inside as metrics, read when somebody looks: circuits, budgets, limits, refusals, queues."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from msrt.dispatch.breaker import Circuit

if TYPE_CHECKING:
    from msrt.dispatch.dispatcher import Dispatcher
    from msrt.dispatch.roster import Slot
    from msrt.serving.tally import Tally
    from msrt.telemetry.metrics import Metrics

__all__ = ["batch_rows", "watch_dispatcher"]

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
Values = dict[tuple[str, ...], float]


def watch_dispatcher(metrics: Metrics, ask: Callable[[], Dispatcher | None]) -> None:
    """`ask`: the dispatcher, None while there is none yet."""

    def of(read: Callable[[Dispatcher], Values]) -> Callable[[], Values]:
        def values() -> Values:
            dispatcher = ask()
            return read(dispatcher) if dispatcher is not None else {}

        return values

    metrics.tally(
        "refused_requests_total", "Requests not let in: hopeless (the deadline could not be made), queue_full, or an"
        " error's code.", ("reason",), of(lambda d: {(k,): v for k, v in d.counters.refused.items()}),
    )  # fmt: skip
    metrics.tally(
        "given_up_requests_total", "Requests that were let in and got no answer, by error code.", ("code",),
        of(lambda d: {(k,): v for k, v in d.counters.given_up.items()}),
    )  # fmt: skip
    metrics.tally(
        "hedges_total", "Requests asked of a second worker because the first was late; won: it answered.", ("step",),
        of(lambda d: {("sent",): d.counters.hedged, ("won",): d.counters.hedge_wins}),
    )  # fmt: skip
    metrics.tally(
        "unbudgeted_retries_total", "Retries that were not made: the budget was spent.", (),
        of(lambda d: {(): d.counters.unbudgeted}),
    )  # fmt: skip
    metrics.tally(
        "ejections_total", "Times a model on a worker was taken out for errors or slowness.", (),
        of(lambda d: {(): d.counters.ejected}),
    )  # fmt: skip
    metrics.tally(
        "sequences_lost_total", "Sequences that ended with their worker.", (),
        of(lambda d: {(): d.counters.sequences_lost}),
    )  # fmt: skip
    metrics.tally(
        "faults_total", "Requests that a worker could not answer, whatever became of them.", ("model", "version"),
        of(lambda d: {(m, str(v)): n for m, of_m in d.counters.faults.items() for v, n in of_m.items()}),
    )  # fmt: skip
    _gauges(metrics, of)


def _gauges(metrics: Metrics, of: Callable[[Callable[[Dispatcher], Values]], Callable[[], Values]]) -> None:
    metrics.gauges(
        "circuits", "Models on workers by the state of their circuit breaker.", ("model", "state"), of(_circuits)
    )
    metrics.gauges(
        "panic", "1 where so many workers are out that the ejected get work again.", ("model",),
        of(lambda d: _by_model(d, max, lambda slot: float(slot.forced))),
    )  # fmt: skip
    metrics.gauges(
        "batch_window", "Batches that may be in flight, over all workers.", ("model",),
        of(lambda d: _by_model(d, sum, lambda slot: float(slot.limit.batches))),
    )  # fmt: skip
    metrics.gauges(
        "batches_in_flight", "Batches in flight, over all workers.", ("model",),
        of(lambda d: _by_model(d, sum, lambda slot: float(slot.flying))),
    )  # fmt: skip
    metrics.gauges(
        "row_cost_seconds", "What one more row costs, mean over workers.", ("model",),
        of(lambda d: _by_model(d, _mean, lambda slot: slot.cost.per_row)),
    )  # fmt: skip
    metrics.gauges(
        "suspect_workers", "Workers that fell silent with work in flight.", (),
        of(lambda d: {(): float(sum(worker.suspect for worker in d.roster.workers.values()))}),
    )  # fmt: skip
    metrics.gauges(
        "budget_tokens", "Retries and hedges that may be made at once.", ("budget",),
        of(lambda d: {("retry",): d.flow.retries.tokens, ("hedge",): d.launcher.hedges.tokens}),
    )  # fmt: skip
    metrics.gauges(
        "queue_bytes", "Bytes of tensors that wait for a worker.", (),
        of(lambda d: {(): float(d.flow.admission.bytes)}),
    )  # fmt: skip
    metrics.gauges(
        "sequences", "Sequences that live on some worker.", (), of(lambda d: {(): float(len(d.flow.sequences))})
    )


def _slots(dispatcher: Dispatcher) -> Iterator[Slot]:
    for worker in dispatcher.roster.workers.values():
        yield from worker.slots.values()


def _circuits(dispatcher: Dispatcher) -> Values:
    out: Values = {}
    for slot in _slots(dispatcher):
        for state in Circuit:
            out.setdefault((slot.model, state.value), 0.0)
        out[slot.model, slot.breaker.circuit.value] += 1
    return out


def _by_model(
    dispatcher: Dispatcher, join: Callable[[list[float]], float], read: Callable[[Slot], float]
) -> Values:  # fmt: skip
    found: dict[str, list[float]] = collections.defaultdict(list)
    for slot in _slots(dispatcher):
        found[slot.model].append(read(slot))
    return {(model,): join(values) for model, values in found.items()}


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def batch_rows(tally: Callable[[], Tally | None]) -> Callable[[], bytes]:
    """For `Metrics.text`: how many rows batches had, by model."""

    def page() -> bytes:
        found = tally()
        rows = list(found.rows()) if found is not None else []
        lines = ["# HELP msrt_batch_rows Rows of answered batches.", "# TYPE msrt_batch_rows histogram"]
        for row in rows:
            model = row.model.replace("\\", "\\\\").replace('"', '\\"')
            labels = f'model="{model}",version="{row.version}"'
            for most in SIZES:
                below = sum(count for size, (count, _) in row.batches.items() if size <= most)
                lines.append(f'msrt_batch_rows_bucket{{{labels},le="{most}"}} {below}')
            lines.append(f'msrt_batch_rows_bucket{{{labels},le="+Inf"}} {row.executions}')
            lines.append(f"msrt_batch_rows_sum{{{labels}}} {row.inferences}")
            lines.append(f"msrt_batch_rows_count{{{labels}}} {row.executions}")
        return "\n".join([*lines, ""]).encode()

    return page
