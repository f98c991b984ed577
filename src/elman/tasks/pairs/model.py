"""The model of pairs: an encoder, a decoder, and attention between them.

    source -> embedding -> recurrent layers, both directions -> memory, last state
                                                                  |         |
    target so far -> embedding -> recurrent layers (lower) -> attention     from that state
        -> recurrent layer (upper) -> linear -> how likely each symbol comes next

The attention is the "general" one of Luong, Pham and Manning 2015
(https://arxiv.org/abs/1508.04025), over the outputs of the lower layers, which do not read its
results. So in training each layer reads the whole target in one call. Departs from the paper in two
ways: the scores are divided by the square root of their width; and what was found goes through the
upper layer, which so knows what was looked at before, where the paper feeds it to the next step.

Symbols: S and T steps of source and target, N sequences, H hidden, V numbers of target symbols.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

import elman
from elman.tasks.job import State
from elman.tasks.pairs.settings import PairsSettings

__all__ = ["Memory", "PairsModel"]

_LAYERS = {"lstm": elman.LSTM, "gru": elman.GRU, "rnn": elman.RNN}


class Memory(NamedTuple):
    """What was read of the sources.

    Args:
        values: (N, S, H) what is remembered of each symbol.
        keys: (N, H, S) what a query is compared with.
        hidden: (N, 1, S) minus infinity where a source has ended, else zero.
    """

    values: Tensor
    keys: Tensor
    hidden: Tensor


class PairsModel(nn.Module):
    """Encoder, decoder and attention; dropout before, between and after the recurrent layers.

    Args:
        source_symbols: how many numbers a symbol of a source can have.
        target_symbols: V, the same of a target.
        settings: cell, hidden, layers, embed and dropout.

    Example:
        >>> settings = PairsSettings(hidden=16, batch=1, lr=0.1, dropout=0.0, epochs=1)
        >>> model = PairsModel(7, 5, settings)
        >>> source, so_far = torch.tensor([[2, 6], [3, 0]]), torch.tensor([[0, 0], [4, 2], [3, 3]])
        >>> model(source, torch.tensor([2, 1]), so_far).shape
        torch.Size([2, 3, 5])
    """

    def __init__(self, source_symbols: int, target_symbols: int, settings: PairsSettings) -> None:
        """Draw all weights from PyTorch's generator."""
        super().__init__()
        recurrent, hidden, layers = _LAYERS[settings.cell], settings.hidden, settings.layers
        between = settings.dropout if layers > 1 else 0.0
        self.source_embedding = nn.Embedding(source_symbols, settings.embed)
        self.encoder = recurrent(
            settings.embed, hidden // 2, layers, bidirectional=True, dropout=between
        )
        self.target_embedding = nn.Embedding(target_symbols, settings.embed)
        self.lower = recurrent(settings.embed, hidden, layers, dropout=between)
        self.key = nn.Linear(hidden, hidden, bias=False)
        self.upper = recurrent(2 * hidden, hidden)
        self.combine = nn.Linear(3 * hidden, hidden)
        self.output = nn.Linear(hidden, target_symbols)
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, source: Tensor, lengths: Tensor, so_far: Tensor) -> Tensor:
        """Read whole pairs.

        Args:
            source: (S, N) sources, padded.
            lengths: (N,) their lengths, each at least 1.
            so_far: (T, N) targets from the boundary before the first symbol on.

        Returns:
            (N, T, V) logits of the symbol that follows each.
        """
        memory, state = self.encode(source, lengths)
        return self.decode(so_far, memory, state)[0].transpose(0, 1)

    def encode(self, source: Tensor, lengths: Tensor) -> tuple[Memory, tuple[Tensor, ...]]:
        """Read sources.

        Args:
            source: (S, N) sources, padded.
            lengths: (N,) their lengths.

        Returns:
            What is remembered of each symbol, and the state in which the decoder starts: that of
            the encoder's two directions side by side, (layers, N, H) for each part of it.
        """
        embedded = self.dropout(self.source_embedding(source))
        outputs, state = self.encoder(embedded, lengths=lengths)
        values = self.dropout(outputs.transpose(0, 1))
        ended = torch.arange(len(source)) >= lengths[:, None]
        hidden = torch.zeros(ended.shape).masked_fill(ended, -math.inf)
        memory = Memory(values, self.key(values).transpose(1, 2), hidden[:, None])
        lower = tuple(map(_side_by_side, _parts(state)))
        return memory, (*lower, *(part[-1:] for part in lower))

    def decode(
        self, so_far: Tensor, memory: Memory, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Read on in targets, of each source K candidates.

        Args:
            so_far: (T, N * K) symbols.
            memory: what was read of the N sources.
            state: the state after the symbols before, as `encode` or this returned it.

        Returns:
            (T, N * K, V) logits of the symbol that follows each, (T, N * K, S) how much of the
            attention went to each symbol of the source, and the state after the last.
        """
        half = len(state) // 2
        embedded = self.dropout(self.target_embedding(so_far))
        outputs, lower = self.lower(embedded, _joined(state[:half]))
        # (T, N * K, H) -> (N, T * K, H): the candidates of a source have one memory.
        steps, batch = len(so_far), len(memory.values)
        beam = so_far.shape[1] // max(1, batch)
        queries = outputs.reshape(steps, batch, beam, outputs.shape[-1]).transpose(0, 1)
        scores = queries.flatten(1, 2) @ memory.keys / math.sqrt(outputs.shape[-1])
        weights = (scores + memory.hidden).softmax(-1)

        def back(of_queries: Tensor) -> Tensor:  # (N, T * K, ...) -> (T, N * K, ...)
            apart = of_queries.reshape(batch, steps, beam, of_queries.shape[-1])
            return apart.transpose(0, 1).flatten(1, 2)

        found = torch.cat((back(weights @ memory.values), outputs), -1)
        above, upper = self.upper(self.dropout(found), _joined(state[half:]))
        combined = self.combine(torch.cat((above, found), -1)).tanh()
        logits = self.output(self.dropout(combined))
        return logits, back(weights), (*_parts(lower), *_parts(upper))


# A state as the layers take and give it, and as a tuple whatever the cell.
def _joined(parts: tuple[Tensor, ...]) -> State:
    return parts if len(parts) > 1 else parts[0]


def _parts(state: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return state if isinstance(state, tuple) else (state,)


# (2 * layers, N, H / 2) -> (layers, N, H)
def _side_by_side(state: Tensor) -> Tensor:
    return torch.cat((state[0::2], state[1::2]), -1)
