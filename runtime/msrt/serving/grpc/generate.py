"""Makes `schema.py` of `oip.proto`: `python -m msrt.serving.grpc.generate` (needs grpcio-tools, of the extra `dev`)."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

__all__ = ["SCHEMA_FILE", "generate"]

_HERE: Final = Path(__file__).parent
SCHEMA_FILE: Final = _HERE / "schema.py"
_WIDTH: Final = 48
"""Bytes on one line."""


def generate() -> str:
    """The text of `schema.py`: the compiled description, which every protobuf of the last years can read.

    What protoc writes as a Python module runs with one or two major versions of protobuf only, and clients that share
    our process choose theirs.
    """
    from grpc_tools import protoc  # noqa: PLC0415 - only who changes the protocol has it

    with tempfile.TemporaryDirectory(prefix="msrt-proto-") as folder:
        out = Path(folder) / "out"
        status = protoc.main(["protoc", f"-I{_HERE}", f"--descriptor_set_out={out}", str(_HERE / "oip.proto")])
        if status:
            raise SystemExit(status)
        data = out.read_bytes()
    lines = "\n".join(f"    {data[at : at + _WIDTH]!r}" for at in range(0, len(data), _WIDTH))
    return (
        '"""Generated of oip.proto by `make protobuf`; do not edit."""\n\n'
        f"__all__ = ['DESCRIPTOR_SET']\n\nDESCRIPTOR_SET = (\n{lines}\n)\n"
    )


if __name__ == "__main__":
    SCHEMA_FILE.write_text(generate())
