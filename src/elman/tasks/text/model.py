"""The model of a text, as it is trained; how it writes is in `elman.runtime.jobs.text`.

embedding -> recurrent layers -> linear -> how likely each symbol comes next
"""

from torch import Tensor, nn

import elman
from elman.tasks.job import State
from elman.tasks.text.settings import TextSettings

__all__ = ["TextModel"]


class TextModel(nn.Module):
    """Embedding, recurrent layers, linear; dropout before, between and after the layers.

    Args:
        symbols: V, the number of different symbols.
        settings: cell, hidden, layers, embed and dropout.

    Example:
        >>> import torch
        >>> settings = TextSettings(hidden=16, batch=1, chunk=8, lr=0.1, dropout=0.0, epochs=1)
        >>> model = TextModel(5, settings)
        >>> logits, state = model(torch.tensor([[0, 4], [1, 3], [2, 2]]))
        >>> logits.shape
        torch.Size([3, 2, 5])
    """

    def __init__(self, symbols: int, settings: TextSettings) -> None:
        """Draw all weights from PyTorch's generator."""
        super().__init__()
        layers = {"lstm": elman.LSTM, "gru": elman.GRU, "rnn": elman.RNN}[settings.cell]
        self.embedding = nn.Embedding(symbols, settings.embed)
        self.recurrent = layers(
            settings.embed,
            settings.hidden,
            settings.layers,
            dropout=settings.dropout if settings.layers > 1 else 0.0,
        )
        self.output = nn.Linear(settings.hidden, symbols)
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, ids: Tensor, hx: State = None) -> tuple[Tensor, State]:
        """Read on.

        Args:
            ids: (L, N) symbols, as numbers.
            hx: the state after the symbols before, or None for none.

        Returns:
            (L, N, V) logits of the symbol that follows each, and the state after the last.
        """
        output, hx = self.recurrent(self.dropout(self.embedding(ids)), hx)
        return self.output(self.dropout(output)), hx
