"""The model of pairs: an encoder, a decoder, and attention between them.

    source -> embedding -> recurrent layers, both directions ----- memory, last state
                                                                      |        |
    target so far -> embedding -> recurrent layers from that state -> attention -> linear
        -> how likely each symbol comes next

The attention is that of Luong, Pham and Manning 2015 (https://arxiv.org/abs/1508.04025), "general"
and over the outputs of the recurrent layers, which do not read its results. So in training they
read the whole target in one call. Departs from the paper in that the scores are divided by the
square root of their width.

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
        self.decoder = recurrent(settings.embed, hidden, layers, dropout=between)
        self.key = nn.Linear(hidden, hidden, bias=False)
        self.combine = nn.Linear(2 * hidden, hidden)
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
        outputs, _ = self.read(so_far, state)
        return self.attend(outputs.transpose(0, 1), memory)[0]

    def encode(self, source: Tensor, lengths: Tensor) -> tuple[Memory, State]:
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
        if isinstance(state, tuple):
            return memory, tuple(map(_side_by_side, state))
        return memory, _side_by_side(state)

    def read(self, so_far: Tensor, state: State) -> tuple[Tensor, State]:
        """Read on in targets.

        Args:
            so_far: (T, N) symbols.
            state: the state after the symbols before.

        Returns:
            (T, N, H) outputs, and the state after the last.
        """
        outputs, state = self.decoder(self.dropout(self.target_embedding(so_far)), state)
        return outputs, state

    def attend(self, outputs: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Look back at the sources.

        Args:
            outputs: (N, T, H) outputs of the decoder; T may be steps, or candidates of one step.
            memory: what was read of the sources.

        Returns:
            (N, T, V) logits of the symbol that follows each, and (N, T, S) how much of the
            attention went to each symbol of the source.
        """
        scores = outputs @ memory.keys / math.sqrt(outputs.shape[-1])
        weights = (scores + memory.hidden).softmax(-1)
        found = torch.cat((weights @ memory.values, outputs), -1)
        return self.output(self.dropout(self.combine(found).tanh())), weights


# (2 * layers, N, H / 2) -> (layers, N, H)
def _side_by_side(state: Tensor) -> Tensor:
    return torch.cat((state[0::2], state[1::2]), -1)
