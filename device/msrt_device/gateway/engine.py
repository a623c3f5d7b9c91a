"""A board as an engine of models: what `Keeper` loads and `Requests` asks. Its calls come from the threads of
`World.offload` and wait there for the board, whose line belongs to the event loop."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from msrt.buffers import Buffer
from msrt.errors import InvalidModel, InvalidTensor, ModelFailed
from msrt.inference.budget import Budget
from msrt.inference.bundle import Manifest, StateTensor
from msrt.inference.micro.blob import Blob, is_blob, read_blob
from msrt.inference.micro.host import from_board, to_board
from msrt.inference.model import Model
from msrt.protocol import mcu
from msrt.protocol.messages import TensorSpec
from msrt_device.gateway.board import Board

if TYPE_CHECKING:
    from msrt.inference.engine import Engine

__all__ = ["BoardEngine", "BoardModel", "OneModel"]

Result = TypeVar("Result")


class OneModel(Budget):
    """A board holds one model at a time: another one takes its place, and is loaded again when it is asked for."""

    def __init__(self) -> None:
        super().__init__(1)

    def weight(self, _manifest: Manifest, _variant: str) -> int:
        return 1


class BoardEngine:
    """Loads blobs onto the board; the graphs before and after a model run here, on onnxruntime."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._loop = asyncio.get_running_loop()
        self._stages: Engine | None = None
        self.loaded: dict[int, tuple[Blob, str]] = {}
        """By tag, what the board's events may speak of, and the digest of its file."""

    def load(self, model: Buffer) -> Model:
        """Blocking. Raises InvalidModel, Disconnected."""
        if not is_blob(model):
            return self._stage(model)
        blob = read_blob(model)
        if blob.output[1] > mcu.BODY_LIMIT - 4:
            raise InvalidModel(f"its output of {blob.output[1]} bytes is larger than a board's answer")
        digest = hashlib.sha256(blob.board).digest()
        self.loaded[mcu.tag_of(digest)] = blob, hashlib.sha256(model).hexdigest()
        self.wait(self._board.load(blob.board, blob.arena))
        return BoardModel(self, blob, digest)

    def _stage(self, model: Buffer) -> Model:
        from msrt.inference.engine import Engine  # noqa: PLC0415 - few models have such graphs

        if self._stages is None:
            self._stages = Engine()
        return self._stages.load(model)

    async def rows(self, digest: bytes, blob: Blob, rows: NDArray[np.int8]) -> list[bytes]:
        """Each row's output. Raises ModelFailed, Disconnected, InvalidModel."""
        await self._board.load(blob.board, blob.arena)
        tag = mcu.tag_of(digest)
        return [(await self._board.infer(tag, row.tobytes())).data for row in rows]

    def wait(self, work: Coroutine[Any, Any, Result]) -> Result:
        """From a thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


class BoardModel:
    """One model on the board, as a graph of onnxruntime looks."""

    def __init__(self, engine: BoardEngine, blob: Blob, digest: bytes) -> None:
        self.inputs: Final[tuple[TensorSpec, ...]] = (blob.note.input,)
        self.outputs: Final[tuple[TensorSpec, ...]] = (blob.note.output,)
        self.symbols: Final[dict[str, tuple[str, ...]]] = {}
        self.pairs: Final[tuple[StateTensor, ...]] = ()
        self._engine, self._blob, self._digest = engine, blob, digest

    def run(self, inputs: dict[str, NDArray[Any]], names: Sequence[str] = ()) -> list[NDArray[Any]]:
        """Blocking. Raises InvalidTensor, ModelFailed, Disconnected."""
        blob = self._blob
        rows = inputs[blob.note.input.name]
        wanted = blob.note.input.shape[1:]
        if rows.shape[1:] != wanted:
            raise InvalidTensor(f"{blob.note.input.name!r} has the shape {list(rows.shape)}, not [n, *{list(wanted)}]")
        for name in names:
            if name != blob.note.output.name:
                raise InvalidTensor(f"it has no output {name!r}")
        found = self._engine.wait(self._engine.rows(self._digest, blob, to_board(blob, rows)))
        size = blob.output[1]
        if any(len(one) != size for one in found):
            raise ModelFailed(f"the board's answer is not the {size} bytes of an output")
        return [from_board(blob, np.frombuffer(b"".join(found), np.int8).reshape(len(found), size))]
