"""Which parts of a text are held out: blocks, spread evenly over it.

A text is rarely the same from start to end: chapters, authors and, where files were joined, whole
languages follow one another, and its tail alone would be judged by what was hardly learnt. So the
text is cut into equal segments, and the end of each is held out:

    |..learnt..........|held|..learnt..........|held|..learnt..........|held|

What is judged is never learnt. A block is read after the text before it, which was learnt from, so
that the state is that of a reader of the whole text. The text to learn from closes up over the
blocks: at these few places, at most one in a thousand characters, what is to be predicted has
nothing to do with what was read, as where one file ends and the next begins.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Blocks"]

_SHARE = 10  # one part in ten is held out ...
_MOST = 2**18  # ... and no more characters than this: judging must not outweigh learning
_COUNT = 32  # blocks at most, and they are read side by side ...
_LEAST = 128  # ... and are no shorter than this, for their start is judged less well


@dataclass(frozen=True)
class Blocks:
    """The held-out parts of a text.

    Args:
        total: the length of the text.

    Example:
        >>> Blocks(100).held_out, Blocks(100).count
        (10, 1)
        >>> Blocks(100_000).held_out, Blocks(100_000).count, Blocks(100_000).length
        (9984, 32, 312)
    """

    total: int

    @property
    def count(self) -> int:
        """How many blocks there are."""
        return max(1, min(_COUNT, self.total // _SHARE // _LEAST))

    @property
    def length(self) -> int:
        """The length of each."""
        return min(self.total // _SHARE, _MOST) // self.count

    @property
    def held_out(self) -> int:
        """How much is held out: about a tenth of the text, at most 2**18."""
        return self.count * self.length

    @property
    def ends(self) -> list[int]:
        """Where in the text each block ends."""
        return [self.total * number // self.count for number in range(1, self.count + 1)]

    def training(self, text: Tensor) -> Tensor:
        """Return what is learnt from: the text, (total,), without the blocks."""
        starts = [0, *self.ends]
        pieces = zip(starts, self.ends, strict=False)
        return torch.cat([text[start : end - self.length] for start, end in pieces])

    def rows(self, text: Tensor, context: int) -> Tensor:
        """Return the blocks side by side, each after the text before it.

        Args:
            text: (total,) the text.
            context: how much before each block is read too, to have the state that reading the
                whole text would have; there is less of it where the text is shorter.

        Returns:
            (context + length, count).
        """
        context = min(context, self.ends[0] - self.length)
        return torch.stack([text[e - self.length - context : e] for e in self.ends], dim=1)
