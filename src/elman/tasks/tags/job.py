"""Tags as a job: the data, batches, loss and measures that the training loop asks for."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elman.runtime import Tags
from elman.runtime.jobs.tags import likeliest
from elman.tasks import InputError
from elman.tasks.budget import GATES, fit_hidden
from elman.tasks.job import Conclusion, Data, Example, Job, Loss, State, Table, Trained
from elman.tasks.measures import confusion, per_label
from elman.tasks.processes import Processes
from elman.tasks.tags.batches import NO_TAG, Batch, Batches, Encoder, learn
from elman.tasks.tags.data import Document, Layout, Sentence, split
from elman.tasks.tags.drawings import draw_errors
from elman.tasks.tags.measures import errors, lookup, measure
from elman.tasks.tags.model import TagsModel
from elman.tasks.tags.settings import SUMMARY, TagsSettings, TagsSource

__all__ = ["JOB", "TagsJob"]

_JUDGED = 1000  # sentences in an evaluation; the last one judges all that was held out
_JUDGED_AT_ONCE = 64
_UPDATES = 2500  # that are enough, if no time is given
_ERRORS = 3  # that are told
_TOLD = 30  # in the report


class TagsJob(Job):
    """A model that gives each token a tag."""

    name = "tags"
    summary = SUMMARY
    unit = "tokens"
    loss_name = "loss (nats per token)"
    Source = TagsSource
    Settings = TagsSettings
    shapes = frozenset({"embed", "characters"})

    def read(self, source: TagsSource, knowledge: Mapping[str, Any] | None = None) -> Data:
        """Read the sentences, a tenth of them held out."""
        documents = [Document.read(file, source.column) for file in source.files]
        valid = [Document.read(source.valid, source.column)] if source.valid is not None else []
        for document in (*documents[1:], *valid):
            _check_layout(document, documents[0].layout)
        training = [sentence for document in documents for sentence in document.sentences]
        held_out = [sentence for document in valid for sentence in document.sentences]
        said = f"in {source.valid} held out"
        if not valid:
            training, held_out = split(training)
            said = "held out, a tenth"
            if not training or not held_out:
                raise InputError(
                    f"cannot learn from {' '.join(source.files)}: {len(training) + len(held_out)}"
                    " sentences are too few to hold some out: give more, or a file with --valid"
                )
        if knowledge is None:
            knowledge = learn(training) | {"layout": documents[0].described}
        _check_layout(documents[0], Layout(**knowledge["layout"]))
        for document in (*documents, *valid):
            _check_known(document, knowledge)
        if len(knowledge["tags"]) < 2:
            raise InputError(
                f"cannot learn from {' '.join(source.files)}: all tokens have the one tag"
                f" {knowledge['tags'][0]!r}: is it the right --column?"
            )
        tokens = sum(len(sentence.words) for sentence in training)
        return Data(
            training=training,
            held_out=held_out,
            units=tokens,
            knowledge=dict(knowledge),
            about={
                "sentences": len(training) + len(held_out),
                "held_out": len(held_out),
                "tokens": tokens,
                "tags": len(knowledge["tags"]),
            },
            notes=(
                *(note for document in documents for note in document.notes),
                f"{len(training):,} sentences of {tokens:,} tokens to learn from, and"
                f" {len(held_out):,} {said}",
                f"{len(knowledge['tags'])} tags"
                + (" that mark entities" if knowledge["is_entities"] else "")
                + f": {' '.join(knowledge['tags'][:12])}"
                + (" ..." if len(knowledge["tags"]) > 12 else ""),
            ),
            digest=hashlib.sha256(
                b"".join(document.content for document in (*documents, *valid))
            ).hexdigest(),
        )

    def read_held_out(self, trained: Trained, files: Sequence[str]) -> list[Sentence]:
        """Read tagged sentences to judge a model on."""
        found: list[Sentence] = []
        for file in files:
            document = Document.read(file, trained.source.column)
            _check_layout(document, Layout(**trained.knowledge["layout"]))
            _check_known(document, trained.knowledge)
            found += document.sentences
        return found

    def choose(self, data: Data, speed: float, given: Mapping[str, Any]) -> TagsSettings:
        """Complete the settings with what suits the sentences, the time and the machine."""
        return choose(len(data.training), data.units, speed, given)

    def describe_batch(self, settings: TagsSettings) -> str:
        """Say what an update reads."""
        return f"{settings.batch} sentences an update"

    def build(self, settings: TagsSettings, knowledge: Mapping[str, Any]) -> TagsModel:
        """Make the model."""
        return TagsModel(settings, knowledge)

    def batches(
        self, data: Data, settings: TagsSettings, epoch: int, processes: Processes
    ) -> Batches:
        """Shuffle the sentences into batches of similar lengths."""
        return Batches.of(data.training, Encoder(data.knowledge), settings, epoch, processes)

    def loss(self, model: nn.Module, batch: Batch, state: State) -> Loss:
        """Return the sum of nats over the tokens of a batch."""
        return Loss(_nats(model(batch), batch.tags), int(batch.lengths.sum()))

    def blind(self, data: Data) -> float:
        """Guessing evenly costs log(tags)."""
        return math.log(len(data.knowledge["tags"]))

    def evaluate(
        self, trained: Trained, held_out: Sequence[Sentence], *, quick: bool
    ) -> dict[str, float]:
        """Return the loss and the share of right tags, by token and by entity."""
        if quick:
            held_out = held_out[:: math.ceil(len(held_out) / _JUDGED)]
        return _judge(trained, held_out)[0]

    def score(self, metrics: Mapping[str, float]) -> float:
        """The best weights are those that tag best."""
        return -metrics.get("entity_f1", metrics["accuracy"])

    def conclude(self, trained: Trained, held_out: Sequence[Sentence]) -> Conclusion:
        """Judge the model on all held-out sentences, beside a lookup of the commonest tags."""
        metrics, found = _judge(trained, held_out)
        beside = measure(held_out, lookup(held_out, trained.knowledge), trained.knowledge)
        wrong = errors(held_out, found)
        lines = [_verdict(metrics, beside)]
        for true, tag, times, word in wrong[:_ERRORS]:
            lines.append(f"{true} is taken for {tag} {times:,} times, most often in {word!r}.")
        number = {tag: index for index, tag in enumerate(trained.knowledge["tags"])}
        right = [number[tag] for sentence in held_out for tag in sentence.tags]
        given = [number[tag] for tags in found for tag in tags]
        each = per_label(confusion(right, given, len(number)))
        tables = (
            Table(
                "The commonest errors", ("true", "given", "times", "as in"), tuple(wrong[:_TOLD])
            ),
            Table(
                "Each tag",
                ("tag", "precision", "recall", "F1", "tokens"),
                tuple((tag, *row) for tag, row in zip(number, each, strict=True)),
            ),
        )
        return Conclusion(metrics, {"commonest tag of each word": beside}, tuple(lines), tables)

    def draw(self, trained: Trained, held_out: Sequence[Sentence], out: Path) -> list[Path]:
        """Draw the commonest errors."""
        wrong = errors(held_out, _judge(trained, held_out)[1])
        path = out / "errors.png"
        draw_errors(wrong, path)
        return [path]

    def example(self, trained: Trained) -> Example:
        """Read three sentences of words that are spelled in four letters and fewer."""
        names = ("words", "which", "characters", "spelling", "lengths")
        words = torch.ones(5, 3, dtype=torch.int64)
        characters = torch.ones(4, 2, dtype=torch.int64)
        steps, rows = torch.export.Dim("L"), torch.export.Dim("N")
        letters, different = torch.export.Dim("C"), torch.export.Dim("U")
        free = (
            {0: steps, 1: rows},
            {0: steps, 1: rows},
            {0: letters, 1: different},
            {0: different},
            {0: rows},
        )
        return Example(
            _Tagger(trained.model),
            (words, words.clone(), characters, torch.tensor([4, 2]), torch.tensor([5, 3, 2])),
            {
                "input_names": list(names),
                "output_names": ["logits"],
                "dynamic_shapes": dict(zip(names, free, strict=True)),
            },
        )

    def measure(self, model: Tags, held_out: Sequence[Sentence]) -> dict[str, float]:
        """Return the share of right tags, by token and by entity."""
        found = model.predict([sentence.words for sentence in held_out])
        names = {"accuracy": "accuracy", "entity_f1": "entity F1"}
        measured = measure(held_out, found, {**model.knowledge, "words": {}})
        return {names[name]: measured[name] for name in names if name in measured}


JOB = TagsJob()


class _Tagger(nn.Module):
    """The model with the parts of a batch as arguments."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, words: Tensor, which: Tensor, characters: Tensor, spelling: Tensor, lengths: Tensor
    ) -> Tensor:
        """Return (L, N, tags) logits."""
        batch = Batch(words, which, characters, spelling, lengths, words)
        return self.model(batch)  # type: ignore[no-any-return]


def _check_layout(document: Document, layout: Layout) -> None:
    if document.layout != layout:
        raise InputError(
            f"{document.name} has other columns than what is learnt from: {document.layout.width}"
            f" instead of {layout.width}, or parted or named in another way: give them the same"
        )


def _check_known(document: Document, knowledge: Mapping[str, Any]) -> None:
    known = set(knowledge["tags"])
    for sentence in document.sentences:
        for token, tag in enumerate(sentence.tags):
            if tag not in known:
                raise InputError(
                    f"{document.place(sentence, token)}: the tag {tag!r} is not among those that"
                    f" are learnt from: take it out, or use {', '.join(knowledge['tags'][:30])}"
                )


def _nats(logits: Tensor, tags: Tensor) -> Tensor:
    return F.cross_entropy(
        logits.flatten(0, 1), tags.flatten(), ignore_index=NO_TAG, reduction="sum"
    )


# The tags of each sentence, and the loss of those that have tags, summed up.
@torch.no_grad()
def _tagged(trained: Trained, sentences: Sequence[Sentence]) -> tuple[list[list[str]], float]:
    encoder, names = Encoder(trained.knowledge), trained.knowledge["tags"]
    order = sorted(range(len(sentences)), key=lambda i: len(sentences[i].words))
    found: list[list[str]] = [[] for _ in sentences]
    nats = 0.0
    for start in range(0, len(order), _JUDGED_AT_ONCE):
        rows = order[start : start + _JUDGED_AT_ONCE]
        batch = encoder.batch([sentences[row] for row in rows])
        logits = trained.model(batch)
        nats += _nats(logits, batch.tags).item()
        lengths = batch.lengths.numpy()
        best = likeliest(logits.numpy(), lengths, trained.knowledge["forbidden"])
        for row, tags in zip(rows, best, strict=True):
            found[row] = [names[tag] for tag in tags.tolist()]
    return found, nats


def _judge(
    trained: Trained, sentences: Sequence[Sentence]
) -> tuple[dict[str, float], list[list[str]]]:
    found, nats = _tagged(trained, sentences)
    tokens = sum(len(sentence.words) for sentence in sentences)
    return {"loss": nats / tokens, **measure(sentences, found, trained.knowledge)}, found


def _verdict(metrics: Mapping[str, float], beside: Mapping[str, float]) -> str:
    name = "entity_f1" if "entity_f1" in metrics else "accuracy"
    said = "entity F1" if name == "entity_f1" else "accuracy"
    points = 100 * (metrics[name] - beside[name])
    if points > 0:
        return f"The model is better than a lookup of each word by {points:.1f} points of {said}."
    return f"A lookup of each word wins by {-points:.1f} points of {said}: use it, or train longer."


def choose(sentences: int, tokens: int, speed: float, given: Mapping[str, Any]) -> TagsSettings:
    """Complete the settings that the user gave; see `elman.tasks.job.Job.choose`."""
    chosen = dict(given)
    chosen.setdefault("batch", max(2, min(16, sentences // 32)))
    if chosen.get("epochs") is None and chosen.get("max_time") is None:
        chosen["max_time"] = 180.0
        batch = chosen["batch"] if isinstance(chosen["batch"], int) else 1
        chosen["epochs"] = max(5, _UPDATES * batch // sentences)
    chosen.setdefault("lr", 2e-3 if chosen.get("cell") == "rnn" else 4e-3)
    chosen.setdefault("dropout", 0.4)
    settings = TagsSettings(**{"hidden": 1} | chosen)

    def weights(settings: TagsSettings) -> int:
        inputs = settings.embed + 2 * settings.characters
        inputs += (settings.layers - 1) * 2 * settings.hidden
        recurrent = inputs + settings.layers * settings.hidden
        return 2 * settings.hidden * GATES[settings.cell] * recurrent

    if "hidden" not in given:
        hidden = fit_hidden(
            settings,
            tokens,
            speed,
            weights,
            sizes=(64, 96, 128, 192, 256, 384, 512),
            units_per_weight=2,
            weights_per_unit=8,
        )
        settings = replace(settings, hidden=hidden)
    return settings
