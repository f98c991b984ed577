import pytest
import torch

from elman.tasks.text.blocks import Blocks

TOTALS = (10, 99, 1279, 2560, 2561, 40_960, 99_999, 1_000_003, 5_000_000)


@pytest.mark.parametrize("total", TOTALS)
def test_a_tenth_is_held_out_in_blocks_long_enough_to_judge(total: int) -> None:
    blocks = Blocks(total)
    assert 1 <= blocks.count <= 32
    assert blocks.length >= min(128, total // 10)
    assert blocks.held_out == blocks.count * blocks.length <= 2**18
    assert blocks.held_out >= min(total // 10, 2**18) - blocks.count
    assert blocks.ends[-1] == total


@pytest.mark.parametrize("total", TOTALS)
def test_every_part_of_a_text_is_either_learnt_or_judged(total: int) -> None:
    blocks, text = Blocks(total), torch.arange(total)
    judged = blocks.rows(text, 0).T.flatten()
    learnt = blocks.training(text)
    assert len(judged) == blocks.held_out
    assert torch.equal(torch.cat([judged, learnt]).sort().values, text)
    assert torch.equal(learnt, learnt.sort().values)
    holes = int((learnt.diff() != 1).sum())
    assert holes == blocks.count - 1  # the last block is the end of the text
    assert holes <= len(learnt) / 1000


@pytest.mark.parametrize("total", TOTALS)
def test_the_blocks_lie_in_all_parts_of_a_text(total: int) -> None:
    blocks = Blocks(total)
    gaps = [end - start for start, end in zip([0, *blocks.ends], blocks.ends, strict=False)]
    assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("total", TOTALS)
@pytest.mark.parametrize("context", [1, 128])
def test_a_block_is_read_after_text_that_was_learnt_from(total: int, context: int) -> None:
    blocks, text = Blocks(total), torch.arange(total)
    rows = blocks.rows(text, context)
    before = len(rows) - blocks.length
    assert before == min(context, blocks.ends[0] - blocks.length)
    assert set(rows.diff(dim=0).flatten().tolist()) <= {1}
    assert torch.isin(rows[:before], blocks.training(text)).all()
    assert rows[-1].tolist() == [end - 1 for end in blocks.ends]
