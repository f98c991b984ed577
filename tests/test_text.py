import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import elman
from elman import checkpoint, core
from elman.runtime.jobs.levels import Vocabulary, recall
from elman.tasks import DivergenceError, InputError, find, learner, text, training
from elman.tasks.budget import measure_speed
from elman.tasks.learner import Learner
from elman.tasks.run import Run
from elman.tasks.text.corpus import Corpus
from elman.tasks.text.job import judge
from elman.tasks.text.model import TextModel
from elman.tasks.text.settings import TextSettings
from elman.tasks.trained import load

WORDS = ("the", "of", "and", "to", "in", "a", "is", "that", "it", "was", "for", "on", "with", "his")

SMALL: dict[str, Any] = {
    "hidden": 12,
    "layers": 2,
    "embed": 6,
    "batch": 4,
    "chunk": 16,
    "epochs": 2,
    "lr": 0.01,
    "dropout": 0.2,
    "seed": 5,
}


class CrashError(Exception):
    """Stands for a power cut: nothing is saved after it."""


@pytest.fixture
def book(tmp_path: Path) -> Path:
    chance = random.Random(0)
    path = tmp_path / "book.txt"
    path.write_text(" ".join(chance.choice(WORDS) for _ in range(500)) + "\n", encoding="utf-8")
    return path


def train(book: Path, out: Path, **changes: Any) -> Any:
    return text.train([book], out=out, **SMALL | changes)


@pytest.mark.skipif(
    core._native is None or core._native.bf16() == "none", reason="needs AVX512-BF16"
)
def test_products_in_bfloat16_are_asked_for_in_a_training_alone(book: Path, tmp_path: Path) -> None:
    found = {}
    for precision in ("float32", "bf16"):
        train(book, tmp_path / precision, precision=precision)
        assert torch.get_float32_matmul_precision() == "highest"
        found[precision] = load(tmp_path / precision).model.state_dict()
    weights = zip(found["float32"].values(), found["bf16"].values(), strict=True)
    assert all(a.dtype is b.dtype is torch.float32 and not torch.equal(a, b) for a, b in weights)


def what_is_kept(run: Path) -> tuple[list[dict[str, Any]], list[Any], list[dict[str, Any]]]:
    """The metrics, the tensors and the positions of a run, without the times of day."""
    metrics = Run.open(run).records()
    for record in metrics:
        del record["clock"]
    tensors, positions = [], []
    for name in ("best", "last"):
        found, extra = checkpoint.load(run / f"{name}.safetensors")
        tensors.append(found)
        positions.append(extra["position"])
        del extra["position"]["seconds"]
    return metrics, tensors, positions


def assert_same_run(one: Path, other: Path) -> None:
    mine, theirs = what_is_kept(one), what_is_kept(other)
    assert mine[0] == theirs[0]
    assert mine[2] == theirs[2]
    for found, expected in zip(mine[1], theirs[1], strict=True):
        assert found.keys() == expected.keys()
        for name, tensor in found.items():
            assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_a_run_that_crashed_again_and_again_is_the_one_that_never_did(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cell: str
) -> None:
    whole = train(book, tmp_path / "whole", cell=cell)
    monkeypatch.setattr(learner, "_CHECKPOINT_EVERY_S", 0.003)
    monkeypatch.setattr(learner, "_CHECKPOINT_SHARE", math.inf)
    chance = random.Random(cell)
    countdown = 0

    def report(record: dict[str, Any]) -> None:
        nonlocal countdown
        countdown -= 1
        if countdown == 0:
            raise CrashError

    out, result, crashes = tmp_path / "broken", None, 0
    while result is None:
        countdown = chance.randint(1, 15)
        try:
            if out.exists():
                result = training.resume(out, report=report)
            else:
                result = train(book, out, report=report, cell=cell)
        except CrashError:
            crashes += 1
    assert crashes >= 3
    assert (result.step, result.metrics) == (whole.step, whole.metrics)
    assert_same_run(out, tmp_path / "whole")


def test_a_run_that_was_stopped_anywhere_is_the_one_that_never_was(
    book: Path, tmp_path: Path
) -> None:
    whole = train(book, tmp_path / "whole")
    stops = iter([False] * 7 + [True])
    stopped = train(book, tmp_path / "stopped", stop=lambda: next(stops))
    assert (stopped.finished, stopped.step, stopped.metrics) == (False, 7, {})
    for length in (0, 1, 13):
        stops = iter([False] * length + [True])
        stopped = training.resume(tmp_path / "stopped", stop=lambda stops=stops: next(stops))
        assert not stopped.finished
    assert stopped.step == 21
    assert (tmp_path / "stopped" / "loss.png").exists()
    resumed = training.resume(tmp_path / "stopped")
    assert resumed.finished
    assert (resumed.step, resumed.metrics) == (whole.step, whole.metrics)
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")


def test_a_finished_run_is_only_judged_again(book: Path, tmp_path: Path) -> None:
    whole = train(book, tmp_path / "run")
    before = what_is_kept(tmp_path / "run")
    again = training.resume(tmp_path / "run")
    assert (again.step, again.metrics) == (whole.step, whole.metrics)
    assert what_is_kept(tmp_path / "run")[0] == before[0]


def test_a_new_budget_goes_on_from_a_finished_run(book: Path, tmp_path: Path) -> None:
    first = train(book, tmp_path / "run")
    second = training.resume(tmp_path / "run", epochs=3)
    assert second.step == first.step * 3 // 2
    assert Run.open(tmp_path / "run").config["settings"]["epochs"] == 3
    third = training.resume(tmp_path / "run", max_time=1e-3)
    assert (third.finished, third.step) == (True, second.step)


def test_another_seed_is_another_run_and_the_same_seed_the_same(book: Path, tmp_path: Path) -> None:
    losses = [
        train(book, tmp_path / name, seed=seed, epochs=1).metrics["loss"]
        for name, seed in (("a", 1), ("b", 2), ("c", 1))
    ]
    assert losses[0] == losses[2] != losses[1]


def test_training_leaves_pytorchs_generator_alone(book: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    train(book, tmp_path / "run", epochs=1)
    after = torch.rand(4)
    torch.manual_seed(3)
    torch.testing.assert_close(after, torch.rand(4), rtol=0, atol=0)


def test_the_state_is_carried_from_chunk_to_chunk_and_zero_at_epoch_starts(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Any, ...]] = []
    read, run = TextModel.forward, elman.LSTM.forward

    def watched(model: TextModel, ids: Any, hx: Any = None) -> Any:
        if model.training:
            calls.append((ids,))
        return read(model, ids, hx)

    def watched_too(layer: elman.LSTM, input: Any, hx: Any = None) -> Any:
        output, after = run(layer, input, hx)
        if layer.training:
            calls[-1] += (hx, after)
        return output, after

    monkeypatch.setattr(TextModel, "forward", watched)
    monkeypatch.setattr(elman.LSTM, "forward", watched_too)
    train(book, tmp_path / "run")
    corpus = Corpus.read([book])
    per_epoch = math.ceil(len(corpus.training) // 4 / 16)
    assert len(calls) == 2 * per_epoch
    for index, (ids, hx, _) in enumerate(calls):
        assert 1 <= len(ids) <= 16
        if index % per_epoch == 0:
            assert hx is None
            continue
        for state, before in zip(hx, calls[index - 1][2], strict=True):
            assert not state.requires_grad  # no gradient flows into the chunk before
            assert before.requires_grad
            assert torch.equal(state, before)
    first = torch.cat([ids for ids, _, _ in calls[:per_epoch]])
    second = torch.cat([ids for ids, _, _ in calls[per_epoch:]])
    assert len(first) == len(corpus.training) // 4  # every character once
    ring = corpus.training.tolist() * 2
    assert any(ring[k : k + len(first)] == first[:, 0].tolist() for k in range(len(ring) // 2))
    assert not torch.equal(first, second)  # each epoch cuts the text at other places


def test_judging_in_blocks_is_reading_the_text_in_one_go(book: Path) -> None:
    torch.manual_seed(0)
    book.write_text(book.read_text() * 3)
    corpus = Corpus.read([book])
    model = TextModel(len(corpus.vocabulary), TextSettings(**SMALL)).eval()
    assert corpus.blocks.count > 2
    is_judged = torch.zeros(len(corpus.ids), dtype=torch.bool)
    for end in corpus.blocks.ends:
        is_judged[end - corpus.blocks.length : end] = True
    with torch.no_grad():
        for weight in model.recurrent.parameters():
            weight.mul_(3)  # so that the state matters
        ids = corpus.ids[:, None].long()
        logits, _ = model(ids[:-1], None)
        losses = F.cross_entropy(logits[:, 0], ids[1:, 0], reduction="none")
        held_out = corpus.held_out
        assert judge(model, held_out) == pytest.approx(
            losses[is_judged[1:]].mean().item(), rel=1e-4
        )
        without, _ = model(ids[:-1].flatten()[None], None)  # each character without a state
        blind = F.cross_entropy(without[0], ids[1:, 0], reduction="none")[is_judged[1:]].mean()
        assert judge(model, held_out) != pytest.approx(blind.item(), rel=5e-3)
        rows = held_out.rows.long()
        part = judge(model, held_out, most=3 * corpus.blocks.count)
        logits, _ = model(rows[: 128 + 3 - 1])
        exact = F.cross_entropy(logits[127:].flatten(0, 1), rows[128 : 128 + 3].flatten()).item()
        assert part == pytest.approx(exact, rel=1e-6)


def test_a_text_with_a_pattern_is_learnt(tmp_path: Path) -> None:
    (tmp_path / "song.txt").write_text("row, row, row your boat, gently down the stream.\n" * 100)
    result = text.train([tmp_path / "song.txt"], out=tmp_path / "run", epochs=5, hidden=64)
    assert result.metrics["loss"] < 0.1
    kinds = [record["kind"] for record in Run.open(tmp_path / "run").records()]
    assert kinds.count("train") == result.step // 10
    assert kinds.count("evaluation") == 10
    assert kinds[-1] == "result"
    written = text.sample(tmp_path / "run", prime="row, row, ", length=40, temperature=0)
    assert "".join(written) == "row your boat, gently down the stream.\nr"


@pytest.mark.parametrize("level", ["bytes", "words", "bpe"])
def test_texts_of_every_level_are_learnt_judged_and_written(tmp_path: Path, level: str) -> None:
    (tmp_path / "song.txt").write_text("Röw, row your boat: gently down the stream.\n" * 200)
    result = text.train(
        [tmp_path / "song.txt"], out=tmp_path / "run", level=level, epochs=8, hidden=48, lr=0.02
    )
    assert result.metrics["nats_per_character"] < 0.15
    written = text.sample(tmp_path / "run", prime="Röw, row", length=60, temperature=0)
    assert "".join(written).startswith(" your boat: gently down the stream.")
    other = tmp_path / "other.txt"
    other.write_text("gently down the stream.\nRöw, row your boat: " * 20)
    found = text.evaluate(tmp_path / "run", [other])
    assert found.metrics["nats_per_character"] < 0.5
    assert found.metrics["perplexity"] == pytest.approx(math.exp(found.metrics["loss"]))


def test_a_file_of_its_own_can_be_held_out(book: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("that it was his " * 60)
    result = train(book, tmp_path / "run", valid=str(other))
    found = text.evaluate(tmp_path / "run", [other])
    assert found.metrics == pytest.approx(result.metrics)
    assert Run.open(tmp_path / "run").config["data"]["held_out"] > 800
    other.write_text("something else, with other characters: 123" * 20)
    with pytest.raises(InputError, match="the model has never seen"):
        text.evaluate(tmp_path / "run", [other])


def test_a_time_budget_ends_in_time_with_the_learning_rate_at_zero(
    book: Path, tmp_path: Path
) -> None:
    records: list[dict[str, Any]] = []
    result = train(book, tmp_path / "run", report=records.append, epochs=None, max_time=1.0)
    assert 1.0 <= result.seconds < 2.0
    rates = [record["lr"] for record in records if record["kind"] == "train"]
    assert max(rates) == pytest.approx(0.01, rel=0.1)
    assert rates[-1] < 0.001
    going_on = training.resume(tmp_path / "run", max_time=1.5)  # the second already spent counts
    assert 1.5 <= going_on.seconds < 2.5


def test_an_exploding_loss_stops_and_names_update_and_layer(book: Path, tmp_path: Path) -> None:
    with pytest.raises(
        DivergenceError, match=r"diverged at update \d+: the loss is .* in the .* of \w+.*--lr"
    ):
        train(book, tmp_path / "run", lr=1e6, epochs=40)


@pytest.mark.parametrize(
    ("layer", "where"),
    [
        ("embedding.weight", "the weights of embedding.weight"),
        ("recurrent.weight_hh_l1", "the weights of recurrent.weight_hh_l1"),
        ("output.bias", "the weights of output.bias"),
    ],
)
def test_weights_that_are_no_numbers_are_named(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layer: str, where: str
) -> None:
    update = Learner.update

    def spoilt(at_work: Learner) -> dict[str, Any]:
        if at_work.at.step == 12:
            with torch.no_grad():
                at_work.model.get_parameter(layer).fill_(math.nan)
        return update(at_work)

    monkeypatch.setattr(Learner, "update", spoilt)
    monkeypatch.setattr(learner, "_CHECKPOINT_EVERY_S", 0.0)
    monkeypatch.setattr(learner, "_CHECKPOINT_SHARE", math.inf)
    with pytest.raises(DivergenceError, match=f"update 13: the loss is nan.*{where}"):
        train(book, tmp_path / "run")
    monkeypatch.undo()
    assert checkpoint.load(tmp_path / "run" / "last.safetensors")[1]["position"]["step"] == 12
    assert training.resume(tmp_path / "run").finished  # what was kept is from before


def test_a_layer_that_puts_out_no_numbers_is_named(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = Learner.update

    def spoilt(at_work: Learner) -> dict[str, Any]:
        if at_work.at.step == 3:
            at_work.model.output.register_forward_hook(lambda _, __, logits: logits / 0)
        return update(at_work)

    monkeypatch.setattr(Learner, "update", spoilt)
    with pytest.raises(DivergenceError, match=r"update 4: .* in the output of output;"):
        train(book, tmp_path / "run")


def test_the_layer_is_looked_for_from_the_state_before_the_chunk(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = Learner.update

    def spoilt(at_work: Learner) -> dict[str, Any]:
        if at_work.at.step == 3:
            at_work.model.output.register_forward_hook(lambda _, __, logits: logits / 0)
            at_work.model.recurrent.register_forward_hook(
                lambda _, __, result: (result[0], tuple(state / 0 for state in result[1]))
            )
        return update(at_work)

    monkeypatch.setattr(Learner, "update", spoilt)
    with pytest.raises(DivergenceError, match=r"update 4: .* in the output of output;"):
        train(book, tmp_path / "run")


def test_a_resumed_run_keeps_its_settings(book: Path, tmp_path: Path) -> None:
    train(book, tmp_path / "run", epochs=1)
    with pytest.raises(InputError, match="was trained with hidden 12, got 13: leave it out"):
        training.resume(tmp_path / "run", hidden=13)
    assert training.resume(tmp_path / "run", hidden=12, files=(str(book),)).finished


def test_a_resumed_run_keeps_its_text(book: Path, tmp_path: Path) -> None:
    train(book, tmp_path / "run", epochs=1)
    moved = book.rename(tmp_path / "moved.txt")
    with pytest.raises(InputError, match=r"cannot read .*book\.txt"):
        training.resume(tmp_path / "run")
    assert training.resume(tmp_path / "run", files=(str(moved),)).finished
    moved.write_text(moved.read_text() + "!")
    with pytest.raises(InputError, match="was trained on other data"):
        training.resume(tmp_path / "run")


def test_a_damaged_checkpoint_is_refused_and_kept(book: Path, tmp_path: Path) -> None:
    train(book, tmp_path / "run", epochs=1)
    last = tmp_path / "run" / "last.safetensors"
    last.write_bytes(last.read_bytes()[:1000])
    metrics = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with pytest.raises(InputError, match=r"last\.safetensors must be a checkpoint"):
        training.resume(tmp_path / "run")
    assert last.stat().st_size == 1000
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == metrics


def test_a_run_that_lost_its_last_checkpoint_keeps_its_best_weights(
    book: Path, tmp_path: Path
) -> None:
    train(book, tmp_path / "run", epochs=1)
    (tmp_path / "run" / "last.safetensors").unlink()
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(InputError, match=r"run has lost its last\.safetensors, and cannot go on"):
        training.resume(tmp_path / "run", epochs=2)
    assert (tmp_path / "run" / "best.safetensors").read_bytes() in before.values()
    assert written(tmp_path / "run")


def test_the_last_checkpoint_of_another_run_is_not_resumed(book: Path, tmp_path: Path) -> None:
    train(book, tmp_path / "one", epochs=1)
    train(book, tmp_path / "two", epochs=1)
    for name in ("last", "best"):
        file = f"{name}.safetensors"
        (tmp_path / "one" / file).write_bytes((tmp_path / "two" / file).read_bytes())
    with pytest.raises(InputError, match=r"one/last\.safetensors belongs to another run"):
        training.resume(tmp_path / "one", epochs=2)
    with pytest.raises(InputError, match=r"one/best\.safetensors belongs to another run"):
        written(tmp_path / "one")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("chunk", 0, "chunk must be at least 1 and at most 1048576, got 0"),
        ("chunk", 16.0, "chunk must be of type int, got 16.0"),
        ("epochs", "2", "epochs must be of type int, got '2'"),
        ("lr", math.nan, "lr must be above 0, got nan"),
        ("cell", ["lstm"], "cell must be of type str"),
        ("hidden", 10**9, "hidden must be at least 1 and at most 16384"),
        ("colour", 1, "there is no setting colour"),
        ("lr", 0.02, "it says lr 0.02, but last.safetensors was made with 0.01; put that back"),
    ],
)
def test_settings_that_were_changed_by_hand_are_checked_as_flags_are(
    book: Path, tmp_path: Path, name: str, value: Any, message: str
) -> None:
    train(book, tmp_path / "run", epochs=1)
    run = Run.open(tmp_path / "run")
    run.config["settings"][name] = value
    run.configure(run.config)
    with pytest.raises(InputError, match=message):
        training.resume(tmp_path / "run")


def test_a_damaged_line_of_the_history_is_told(book: Path, tmp_path: Path) -> None:
    train(book, tmp_path / "run", epochs=1)
    metrics = tmp_path / "run" / "metrics.jsonl"
    first, *rest = metrics.read_bytes().splitlines(keepends=True)
    metrics.write_bytes(first.replace(b'"kind"', b'"k\xffnd"') + b"".join(rest))
    records: list[dict[str, Any]] = []
    training.resume(tmp_path / "run", report=records.append)
    told = "metrics.jsonl was damaged in line 1: what stood there is lost"
    assert told in records[0]["notes"]
    kept = metrics.read_bytes().splitlines(keepends=True)
    assert kept[:-1] == rest[:-1]  # but for the result, which is made again


def test_a_training_does_not_fail_for_want_of_a_plot(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(run: Run) -> None:
        raise RuntimeError("no fonts")

    monkeypatch.setattr(Run, "draw", broken)
    records: list[dict[str, Any]] = []
    assert train(book, tmp_path / "run", epochs=1, report=records.append).finished
    assert records[-1] == {"kind": "note", "note": "loss.png could not be drawn: no fonts"}


def test_no_run_is_made_for_a_text_that_is_too_short(book: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError,
        match=r"too short: \d+ symbols .* batch \* chunk = 300 \* 16 = 4800 are needed",
    ):
        train(book, tmp_path / "run", batch=300)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def trained(book: Path, tmp_path: Path) -> Path:
    train(book, tmp_path / "trained", epochs=4, hidden=32)
    return tmp_path / "trained"


def loaded(run: Path) -> tuple[Any, Vocabulary]:
    found = load(run)
    return found.model, recall(found.knowledge)


def encode(text: str, vocabulary: Vocabulary) -> Tensor:
    return torch.from_numpy(vocabulary.encode(text)).long()


def written(run: Path, **how: Any) -> str:
    return "".join(text.sample(run, **{"length": 60, "seed": 1} | how))


def test_the_same_seed_writes_the_same_and_another_something_else(trained: Path) -> None:
    assert written(trained) == written(trained) != written(trained, seed=2)
    assert written(trained, seed=None) != written(trained, seed=None)
    assert len(written(trained)) == 60
    assert written(trained, length=0) == ""


def test_the_likeliest_is_taken_at_temperature_zero_and_with_top_1(trained: Path) -> None:
    greedy = written(trained, temperature=0)
    assert greedy == written(trained, temperature=0, seed=2)
    assert greedy == written(trained, top_k=1)
    assert greedy == written(trained, temperature=1e-6)
    model, vocabulary = loaded(trained)
    ids = encode("\n" + greedy[:-1], vocabulary)
    with torch.no_grad():
        logits, _ = model(ids[:, None], None)
    assert "".join(vocabulary.decode(logits[:, 0].argmax(1).tolist())) == greedy


def test_top_k_writes_only_among_the_k_likeliest(trained: Path) -> None:
    model, vocabulary = loaded(trained)
    told = "\n" + written(trained, top_k=3, temperature=5.0, length=200)
    with torch.no_grad():
        logits, _ = model(encode(told[:-1], vocabulary)[:, None], None)
    ranks = logits[:, 0].argsort(dim=1, descending=True).argsort(dim=1)
    taken = ranks.gather(1, encode(told[1:], vocabulary)[:, None]).flatten()
    assert sorted(set(taken.tolist())) == [0, 1, 2]
    assert written(trained, top_k=10_000) == written(trained)


def test_the_prime_is_read_before_writing(trained: Path) -> None:
    pairs = [[written(trained, prime=p, seed=s) for p in ("that", "with")] for s in range(20)]
    assert any(one != other for one, other in pairs)
    whole = written(trained, temperature=0)
    assert written(trained, temperature=0, prime="\n" + whole[:20], length=40) == whole[20:]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"length": -1}, "length must be at least 0 and at most 1000000000000, got -1"),
        ({"temperature": -0.5}, "temperature must be at least 0, got -0.5"),
        ({"temperature": math.nan}, "temperature must be at least 0, got nan"),
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"prime": "Ω"}, "the model has never seen 'Ω'"),
    ],
)
def test_what_cannot_be_sampled_is_refused(
    trained: Path, how: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        written(trained, **how)


def test_a_run_without_a_model_cannot_write(tmp_path: Path, book: Path) -> None:
    with pytest.raises(InputError, match="is not a run"):
        written(tmp_path)
    Run.create(tmp_path / "new", {})
    with pytest.raises(InputError, match="has no checkpoint yet"):
        written(tmp_path / "new")
    (tmp_path / "new" / "best.safetensors").write_bytes(b"?")
    with pytest.raises(InputError, match=r"best\.safetensors must be a checkpoint"):
        written(tmp_path / "new")


def test_a_run_stopped_before_its_first_evaluation_can_write(book: Path, tmp_path: Path) -> None:
    train(book, tmp_path / "run", stop=lambda: True)
    assert len(written(tmp_path / "run")) == 60


@pytest.mark.parametrize("layers", [1, 2])
def test_dropout_is_applied_in_training_only(layers: int) -> None:
    torch.manual_seed(0)
    model = TextModel(9, TextSettings(**SMALL | {"layers": layers}))
    ids = torch.randint(9, (5, 3))
    assert not torch.equal(model(ids, None)[0], model(ids, None)[0])
    model.eval()
    assert torch.equal(model(ids, None)[0], model(ids, None)[0])


def test_the_speed_of_the_machine_is_plausible() -> None:
    assert 1e8 < measure_speed(0.05) < 1e13


def evaluations(*losses: float, best: int) -> list[dict[str, Any]]:
    return [
        {"kind": "evaluation", "step": 100 * k, "loss": loss, "best": k <= best}
        | {"metrics": {"loss": loss}}
        for k, loss in enumerate(losses, start=1)
    ]


def test_a_result_says_why_it_differs_from_the_evaluations() -> None:
    told = evaluations(2.0, 1.5, best=2)
    assert learner.remarks(told, {"loss": 1.5}) == []
    (line,) = learner.remarks(told, {"loss": 1.52})
    assert line.startswith("Evaluations judge a part of what is held out")
    assert line.endswith("of update 200.")
    assert learner.remarks([], {"loss": 1.0}) == []
    assert learner.remarks([{"kind": "evaluation", "step": 1}], {"loss": 1.0}) == []


def test_overfitting_is_said_in_plain_words() -> None:
    assert len(learner.remarks(evaluations(2.0, 1.5, 1.52, best=2), {"loss": 1.5})) == 1
    _, line = learner.remarks(evaluations(2.0, 1.5, 1.8, best=2), {"loss": 1.5})
    assert line.startswith("This is overfitting: from update 200 on the loss on what is held out")
    assert "rose from 1.5 to 1.8" in line


def test_a_text_learnt_by_heart_is_told_to_overfit(tmp_path: Path) -> None:
    chance = random.Random(1)
    (tmp_path / "noise.txt").write_text("".join(chance.choice("abcd") for _ in range(1200)))
    result = text.train(
        [tmp_path / "noise.txt"],
        out=tmp_path / "run",
        **{"epochs": 60, "hidden": 64, "dropout": 0.0, "lr": 0.02, "batch": 8, "threads": 1},
    )
    assert any(line.startswith("This is overfitting") for line in result.lines)


def test_training_uses_the_threads_it_is_given_and_gives_them_back(
    book: Path, tmp_path: Path
) -> None:
    before, seen = torch.get_num_threads(), []
    train(
        book, tmp_path / "run", threads=1, epochs=1,
        report=lambda record: seen.append(torch.get_num_threads()),
    )  # fmt: skip
    assert set(seen) == {1}
    assert torch.get_num_threads() == before
    assert training.resume(tmp_path / "run", threads=before).finished


@pytest.mark.parametrize("slowness", [1, 50])
def test_the_size_follows_the_speed_of_the_first_updates(
    book: Path, monkeypatch: pytest.MonkeyPatch, slowness: int
) -> None:
    book.write_text(book.read_text() * 400)  # so that the text sets no bound
    job = find("text")
    data = job.read(job.Source(files=(str(book),)))
    monkeypatch.setattr(training, "measure_speed", lambda: 200e9)
    monkeypatch.setattr(training, "_speed_of_updates", lambda *given: 200e9 / slowness)
    chosen = training.configure(job, data, {"max_time": 180.0})
    assert chosen == job.choose(data, 200e9 / slowness, {"max_time": 180.0})
    fast = job.choose(data, 200e9, {"max_time": 180.0})
    assert chosen.hidden == fast.hidden if slowness == 1 else chosen.hidden < fast.hidden


def test_the_speed_of_updates_is_measured_and_nothing_kept(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    job = find("text")
    data = job.read(job.Source(files=(str(book),)))
    state = torch.get_rng_state()
    speed = training._speed_of_updates(job, data, job.Settings(**SMALL), 0.01)
    assert 1e5 < speed < 1e13
    assert torch.equal(torch.get_rng_state(), state)
    assert sorted(tmp_path.iterdir()) == before


def test_a_used_up_budget_is_said_to_count_from_the_start(book: Path, tmp_path: Path) -> None:
    train(book, tmp_path / "run", epochs=1)
    records: list[dict[str, Any]] = []
    training.resume(tmp_path / "run", report=records.append)
    assert "it counts from the start (epochs trained: 1, seconds: " in records[0]["notes"][-1]


def test_what_is_no_size_of_this_machine_makes_no_run(book: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"needs [\d,]+ GB to be trained.*: lower hidden or layers"
    ):
        train(book, tmp_path / "run", hidden=16384, layers=64)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"length": 10**23}, "length must be at least 0 and at most 1000000000000, got 1000"),
        ({"seed": 2**64}, "seed must be at least 0 and at most 9223372036854775807, got 18446"),
        ({"temperature": math.inf}, "temperature must be at least 0, got inf"),
    ],
)
def test_numbers_out_of_range_are_refused(book: Path, how: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        text.sample("any", **how)
