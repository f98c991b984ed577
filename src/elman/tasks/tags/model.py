"""The model of tagged sentences, as it is trained; `elman.runtime.jobs.tags` reads tags off it.

characters -> recurrent layer \\
                               recurrent layers, both directions -> linear -> tags
word       -> embedding       /
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

import elman
from elman.runtime.jobs.tags import CHARACTER
from elman.tasks.tags.batches import Batch
from elman.tasks.tags.settings import TagsSettings

__all__ = ["TagsModel"]


class TagsModel(nn.Module):
    """Reads sentences in both directions, and says how likely each tag of each word is.

    Args:
        settings: cell, hidden, layers, embed, characters, dropout and word_dropout.
        knowledge: the tags, the words and the characters.

    Example:
        >>> from elman.tasks.tags.batches import Encoder, learn
        >>> from elman.tasks.tags.data import Sentence
        >>> said = [Sentence(("a", "bb", "a"), ("X", "Y", "X"), (0, 1, 2))]
        >>> settings = TagsSettings(hidden=8, batch=1, lr=0.1, dropout=0.0, epochs=1)
        >>> TagsModel(settings, learn(said))(Encoder(learn(said)).batch(said)).shape
        torch.Size([3, 1, 2])
    """

    def __init__(self, settings: TagsSettings, knowledge: Mapping[str, Any]) -> None:
        """Draw all weights from PyTorch's generator."""
        super().__init__()
        layers = {"lstm": elman.LSTM, "gru": elman.GRU, "rnn": elman.RNN}[settings.cell]
        self.word_dropout = settings.word_dropout
        self.embedding = nn.Embedding(1 + len(knowledge["vocabulary"]), settings.embed)
        self.character = nn.Embedding(1 + len(knowledge["characters"]), CHARACTER)
        self.spelling = layers(CHARACTER, settings.characters, bidirectional=True)
        self.recurrent = layers(
            settings.embed + 2 * settings.characters,
            settings.hidden,
            settings.layers,
            dropout=settings.dropout if settings.layers > 1 else 0.0,
            bidirectional=True,
        )
        self.output = nn.Linear(2 * settings.hidden, len(knowledge["tags"]))
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, batch: Batch) -> Tensor:
        """Read sentences.

        Args:
            batch: words and their characters.

        Returns:
            (L, N, tags) logits; what stands at padding means nothing.
        """
        spelled, _ = self.spelling(
            self.dropout(self.character(batch.characters)), lengths=batch.spelling
        )
        spelled = elman.last(spelled, batch.spelling, bidirectional=True)[batch.which]
        words = batch.words
        if self.training and self.word_dropout:
            words = words.masked_fill(torch.rand(words.shape) < self.word_dropout, 0)
        input = self.dropout(torch.cat((self.embedding(words), spelled), -1))
        output, _ = self.recurrent(input, lengths=batch.lengths)
        return self.output(self.dropout(output))  # type: ignore[no-any-return]
