"""The few figures of RESULTS.md that the front page quotes, and how many of all miss what they must reach."""

from __future__ import annotations

from pathlib import Path

__all__ = ["HEADLINES", "README", "RESULTS", "renew", "sections", "table"]

RESULTS = Path(__file__).parent / "RESULTS.md"
README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- from tests/bench/RESULTS.md -->\n", "<!-- to here -->"
HEADLINES = (
    ("HTTP requests through edge and device, 16 clients, over MLServer's", "serving",
     "HTTP infer, 16 clients, over MLServer"),
    ("the same, 64 clients, over FastAPI with onnxruntime in one process", "serving",
     "HTTP infer, 64 clients, over FastAPI"),
    ("the same, 64 clients: p99", "serving", "HTTP infer, 64 clients: p99"),
    ("a device of 12 killed every 5 s at 300 requests/s: answered", "chaos",
     "a device of 12 killed every 5 s, 120 s at 300 requests/s: answered"),
    ("an edge killed: all of its devices serve under another", "failover",
     "an edge killed: all of its devices serve under another"),
    ("100 hot updates in a row at 500 requests/s: failed requests", "updates",
     "100 hot updates in a row at 500 requests/s: failed"),
    ("a federated round of 10 M parameters, 8 clients: Flower's time over ours", "rounds",
     "Flower networked in the same run, over float32"),
    ("a federated round of 1,000 clients in one region: a client", "crowd",
     "a round of 1,000 clients in one region, 2,410 parameters: a client"),
    ("MNIST to 97 % on two classes a client (McMahan 2017)", "mcmahan", "MNIST 2NN to 97%, shards"),
    ("activity recognition by user (WISDM): above the mean user alone", "wisdm",
     "WISDM, strangers: above the mean user alone"),
    ("an arm64 image in QEMU, from the power switch to its first answer", "images",
     "linux-arm64-uefi: power-on to the first answered inference (TCG)"),
    ("the power cut at 20 moments of system updates: boards lost", "cuts",
     "power cut at 20 random points: bricked"),
    ("DS-CNN on a Cortex-M3 in QEMU: same label as onnxruntime int8", "mcu",
     "DS-CNN of kws, C in QEMU: same label as onnxruntime int8"),
)  # fmt: skip
"""In words for a reader; the part, and the row's own words."""


def sections(text: str) -> dict[str, str]:
    """Part to what stands below its heading."""
    parts = (one.partition("\n") for one in text.split("\n## ")[1:])
    return {name: body for name, _, body in parts}


def table(results: str) -> str:
    """Of the front page. A row that was not measured is left out."""
    parts = {name: _rows(body) for name, body in sections(results).items()}
    lines = ["| what | measured | must reach | peer or limit, same run |", "|---|---|---|---|"]
    for words, part, what in HEADLINES:
        if found := parts.get(part, {}).get(what):
            lines.append(f"| {words} | {' | '.join(found)} |")
    bound = [must for rows in parts.values() for _, must, _ in rows.values() if must]
    missed = sum("**missed**" in must for must in bound)
    return "\n".join([*lines, "", f"{missed} of {len(bound)} figures with a bound miss it; they are marked there.", ""])


def _rows(body: str) -> dict[str, tuple[str, str, str]]:
    """What to (measured, must reach, peer)."""
    found = {}
    for line in body.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")] if line.startswith("| ") else []
        if len(cells) == 4 and cells[0] != "what":
            found[cells[0]] = (cells[1], cells[2], cells[3])
    return found


def renew() -> None:
    """Write the front page's table anew."""
    page = README.read_text()
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    README.write_text(before + BEGIN + table(RESULTS.read_text()) + END + after)
