"""A small language model, letter by letter, on texts of which every node has its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from topics import LETTERS, WINDOW, Windows, windows
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from msrt.training.settings import TrainSettings
from msrt.training.task import Batch, Node, Task

WIDTH, HEADS, LAYERS = 64, 4, 2


class Block(torch.nn.Module):
    """Attention to what came before, then a perceptron, each with its norm before and its shortcut around (GPT-2)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.LayerNorm(WIDTH), torch.nn.LayerNorm(WIDTH)
        self.heads, self.out = torch.nn.Linear(WIDTH, 3 * WIDTH), torch.nn.Linear(WIDTH, WIDTH)
        self.wide, self.thin = torch.nn.Linear(WIDTH, 4 * WIDTH), torch.nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        batch, length, _ = values.shape
        split = self.heads(self.first(values)).view(batch, length, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        seen = scaled_dot_product_attention(split[0], split[1], split[2], is_causal=True)
        values = values + self.out(seen.transpose(1, 2).reshape(batch, length, WIDTH))
        return values + self.thin(torch.nn.functional.gelu(self.wide(self.second(values))))


class Letters(torch.nn.Module):
    """From letters [n, 64] to the scores of the letter after each of them [n, 64, 96]."""

    def __init__(self) -> None:
        super().__init__()
        self.letters, self.places = torch.nn.Embedding(len(LETTERS), WIDTH), torch.nn.Embedding(WINDOW, WIDTH)
        self.blocks = torch.nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm, self.scores = torch.nn.LayerNorm(WIDTH), torch.nn.Linear(WIDTH, len(LETTERS))

    def forward(self, letters: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.scores(self.norm(self.blocks(self.letters(letters) + self.places.weight)))
        return scores


class Transformer(Task):
    """Two blocks of width 64 with four heads: 116,576 parameters. `accuracy` is that of the next letter."""

    def model(self) -> torch.nn.Module:
        return Letters()

    def data(self, node: Node) -> tuple[tuple[Windows, Windows], tuple[Windows, Windows]]:
        train, test = windows(node.index, node.count, int(self.options.get("texts", 0)))
        return (train[:, :-1], train[:, 1:]), (test[:, :-1], test[:, 1:])

    def loss(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        letters, following = batch
        return cross_entropy(model(letters).flatten(0, 1), following.flatten())

    def optimiser(self, model: torch.nn.Module, settings: TrainSettings) -> Any:
        return torch.optim.AdamW(model.parameters(), settings.lr, weight_decay=settings.weight_decay)

    def evaluate(self, model: torch.nn.Module, batches: Iterator[Batch]) -> dict[str, float]:
        loss, right, seen = 0.0, 0, 0
        for letters, following in batches:
            scores = model(letters)
            loss += float(cross_entropy(scores.flatten(0, 1), following.flatten(), reduction="sum"))
            right += int((scores.argmax(dim=-1) == following).sum())
            seen += following.numel()
        return {"loss": loss / seen, "accuracy": right / seen} if seen else {}

    def example(self) -> tuple[torch.Tensor, ...]:
        return (torch.zeros(2, WINDOW, dtype=torch.int64),)
