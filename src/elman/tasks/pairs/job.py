"""Pairs as a job: the batches, loss and measures that the training loop asks for.

In training the decoder reads the target itself (teacher forcing) and learns to say what comes next;
it is judged by what it finds alone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import nn

from elman import BucketBatchSampler
from elman.runtime import Pairs
from elman.runtime.jobs.pairs import UNKNOWN
from elman.tasks import InputError
from elman.tasks.budget import GATES, fit_dropout, fit_hidden
from elman.tasks.job import Conclusion, Data, Job, Loss, State, Table, Trained
from elman.tasks.pairs.batches import Batch, Batches
from elman.tasks.pairs.data import (
    Encoded,
    Knowledge,
    Pair,
    References,
    collect,
    read_pairs,
    some,
    split,
)
from elman.tasks.pairs.drawings import Attention, draw_attention
from elman.tasks.pairs.measures import copied, measure, nearest, need_libraries, verdict
from elman.tasks.pairs.model import PairsModel
from elman.tasks.pairs.settings import SUMMARY, PairsSettings, PairsSource
from elman.tasks.processes import Processes

__all__ = ["JOB", "PairsJob"]

_JUDGED = 400  # sources in an evaluation; the last one judges all that was held out
_SHOWN = 3  # answers in an evaluation
_DRAWN = 6  # examples whose attention is drawn
_DROPOUT_MOST = 0.3  # of 3,500 pairs read 25 times less was learnt with 0.5
_MISTAKES = 50  # that the report shows
_JUDGED_AT_ONCE = 256  # pairs
_SMOOTHING = 0.1  # the share of each target that is spread over all symbols in training
_KINDS = {"chars": "characters", "words": "words"}
_UNREAD_WORDS = 0.02  # of a source in training, so that an unknown word is nothing new


class PairsJob(Job):
    """A model of targets, given sources."""

    name = "pairs"
    summary = SUMMARY
    unit = "symbols"
    loss_name = "loss (nats per symbol)"
    Source = PairsSource
    Settings = PairsSettings
    shapes = frozenset({"embed"})

    def read(self, source: PairsSource, knowledge: Mapping[str, Any] | None = None) -> Data:
        """Read the pairs, and hold a tenth of the sources out."""
        pairs, columns, digest = read_pairs(source.files)
        if source.valid is None:
            training, held_out = split(pairs)
        else:
            training = pairs
            held_out, _, valid_digest = read_pairs((source.valid,))
            digest = f"{digest} {valid_digest}"
        if knowledge is None:
            known = Knowledge.of(training, source.level, source.target_level)
        else:
            known = Knowledge.from_json(knowledge)
        need_libraries(known.target.level)
        encoded = [known.encode(pair) for pair in training]
        references = collect(held_out)
        return Data(
            training=encoded,
            held_out=references,
            units=sum(len(target) + 1 for _, target in encoded),
            knowledge=known.as_json(),
            about={
                "pairs": len(pairs),
                "held_out": len(held_out),
                "held_out_sources": len(references),
                "source_symbols": len(known.source.symbols),
                "target_symbols": len(known.target.symbols),
            },
            notes=_notes(len(pairs), columns, len(references), known, encoded),
            digest=digest,
        )

    def read_held_out(self, trained: Trained, files: Sequence[str]) -> References:
        """Read pairs to judge a model on."""
        need_libraries(_known(trained).target.level)
        return collect(read_pairs(files)[0])

    def choose(self, data: Data, speed: float, given: Mapping[str, Any]) -> PairsSettings:
        """Complete the settings with what suits the pairs, the time and the machine."""
        chosen = dict(given)
        if chosen.get("epochs") is None and chosen.get("max_time") is None:
            chosen["max_time"] = 180.0
        # At least 100 updates an epoch, if there are pairs enough.
        chosen.setdefault("batch", max(4, min(64, len(data.training) // 100)))
        chosen.setdefault("lr", 1e-3 if chosen.get("cell") == "rnn" else 3e-3)
        settings = PairsSettings(**{"hidden": 2, "dropout": 0.0} | chosen)
        per_symbol = sum(len(source) for source, _ in data.training) / data.units
        symbols = len(data.knowledge["target"]["symbols"])

        # Multiplied for each symbol of a target.
        def weights(settings: PairsSettings) -> int:
            hidden, gates = settings.hidden, GATES[settings.cell]
            below = settings.embed + (settings.layers - 1) * hidden
            encoder = gates * (below + settings.layers * hidden // 2) + hidden
            lower = gates * (below + settings.layers * hidden)
            upper = (gates + 1) * 3 * hidden + symbols
            return int(hidden * (per_symbol * encoder + lower + upper))

        if "hidden" not in given:
            hidden = fit_hidden(
                settings,
                data.units,
                speed,
                weights,
                sizes=range(192, 1025, 32),
                units_per_weight=2,
                weights_per_unit=80,  # of 3,500 pairs, 288 units learn more than 160 or 64
            )
            settings = replace(settings, hidden=hidden)
        if "dropout" not in given:
            dropout = fit_dropout(settings, data.units, speed, weights(settings))
            settings = replace(settings, dropout=min(_DROPOUT_MOST, dropout))
        return settings

    def describe_batch(self, settings: PairsSettings) -> str:
        """Say what an update reads."""
        return f"{settings.batch} pairs an update"

    def build(self, settings: PairsSettings, knowledge: Mapping[str, Any]) -> PairsModel:
        """Make the model."""
        known = Knowledge.from_json(knowledge)
        return PairsModel(len(known.source), len(known.target), settings)

    def batches(
        self, data: Data, settings: PairsSettings, epoch: int, processes: Processes
    ) -> Batches:
        """Put pairs of about the same lengths together, others in each epoch."""
        most = max(len(target) for _, target in data.training)
        order = BucketBatchSampler(
            # By the sources' lengths, and among equal ones by the targets'.
            [len(source) * (most + 1) + len(target) for source, target in data.training],
            settings.batch,
            seed=settings.seed,
        )
        order.set_epoch(epoch)
        shares = [processes.share(group) for group in order]
        unread = _UNREAD_WORDS if data.knowledge["source"]["level"] == "words" else 0.0
        return Batches(data.training, shares, unread, f"{settings.seed}/{epoch}")

    def loss(self, model: nn.Module, batch: Batch, state: State) -> Loss:
        """Return the sum of nats over the symbols of the targets, and their ends."""
        return _loss(model, batch, _SMOOTHING)

    def blind(self, data: Data) -> float:
        """Guessing evenly costs the logarithm of the number of symbols, the end among them."""
        return math.log(1 + len(data.knowledge["target"]["symbols"]))

    def evaluate(self, trained: Trained, held_out: References, *, quick: bool) -> dict[str, float]:
        """Return the loss on held-out pairs, and how good the answers to their sources are."""
        if quick:  # those are found greedily
            return _judge(trained, some(held_out, _JUDGED), 1)[0]
        return _judge(trained, held_out, trained.settings.beam)[0]

    def preview(self, trained: Trained, data: Data, step: int) -> str:
        """Return a few held-out sources with their answers."""
        references = some(data.held_out, _SHOWN)
        answers = [a[0] for a in trained.shipped.targets(list(references), 1, 1)]
        return "\n".join(
            f"{source} -> {found}" + ("" if found in targets else f"  (not {targets[0]})")
            for (source, targets), found in zip(references.items(), answers, strict=True)
        )

    def conclude(self, trained: Trained, held_out: References) -> Conclusion:
        """Judge the model on all that is held out, beside what can be had without one."""
        metrics, answers = _judge(trained, held_out, trained.settings.beam)
        known = _known(trained)
        others = {
            "copy of the source": copied(held_out, known.target),
            "nearest source's target": nearest(held_out, known.examples, known.source),
        }
        baselines = {name: measure(of, held_out, known.target) for name, of in others.items()}
        mistakes = [
            (source, found, " | ".join(targets))
            for (source, targets), found in zip(held_out.items(), answers, strict=True)
            if found not in targets
        ]
        step = max(1, len(mistakes) // _MISTAKES)
        return Conclusion(
            metrics,
            baselines,
            verdict(metrics, baselines, len(answers)),
            (
                Table(
                    f"{_MISTAKES} of the {len(mistakes):,} wrong answers"
                    if len(mistakes) > _MISTAKES
                    else "The wrong answers",
                    ("source", "answer", "right"),
                    tuple(mistakes[::step][:_MISTAKES]),
                ),
            ),
        )

    def draw(self, trained: Trained, held_out: References, out: Path) -> list[Path]:
        """Draw the attention of examples."""
        path = out / "attention.png"
        draw_attention(_attention(trained, held_out), path)
        return [path]

    def measure(self, model: Pairs, held_out: References) -> dict[str, float]:
        """Return the share of right answers, and that of wrong symbols."""
        answers = [best[0] for best in model.targets(list(held_out), 1, model.beam)]
        found = measure(answers, held_out, model.target)
        names = ("exact_match", "symbol_error_rate")
        return {name.replace("_", " "): found[name] for name in names}


JOB = PairsJob()


def _loss(model: nn.Module, batch: Batch, smoothing: float = 0.0) -> Loss:
    logits = model(batch.source, batch.lengths, batch.so_far).flatten(0, 1)
    following = batch.following.T.flatten()
    total = F.cross_entropy(
        logits, following, ignore_index=UNKNOWN, reduction="sum", label_smoothing=smoothing
    )
    return Loss(total, int((following != UNKNOWN).sum()))


def _known(trained: Trained) -> Knowledge:
    return Knowledge.from_json(trained.knowledge)


def _notes(
    pairs: int, columns: int, held_out: int, known: Knowledge, encoded: Sequence[Encoded]
) -> tuple[str, ...]:
    """Say what was understood of the data.

    Raises:
        InputError: there is nothing in it that the model could learn.
    """
    sides = (
        f"{name}s of {_KINDS[side.level]} ({len(side.symbols):,} different)"
        for name, side in (("source", known.source), ("target", known.target))
    )
    notes = [
        f"{pairs:,} pairs, {' and '.join(sides)}; {held_out:,} sources held out with all their"
        " targets"
    ]
    if columns > 2:
        notes.append(f"of {columns} columns the first two are read")
    new = sum(UNKNOWN in target for _, target in encoded)
    if new == len(encoded):
        raise InputError(
            "each of the targets has symbols that the model has never seen: train a new one"
        )
    if new:
        notes.append(
            f"{new:,} targets have symbols that the model does not know: it will not learn these"
        )
    return tuple(notes)


def _judge(trained: Trained, held_out: References, beam: int) -> tuple[dict[str, float], list[str]]:
    """Return the measures, and the best answer to each source."""
    known = _known(trained)
    encoded = [
        known.encode(Pair(source, target))
        for source, targets in held_out.items()
        for target in targets
    ]
    encoded.sort(key=lambda pair: tuple(map(len, pair)))
    total = units = 0.0
    for start in range(0, len(encoded), _JUDGED_AT_ONCE):
        batch = Batch.of(encoded[start : start + _JUDGED_AT_ONCE])
        loss = _loss(trained.model, batch)
        total, units = total + loss.total.item(), units + loss.units
    answers = [a[0] for a in trained.shipped.targets(list(held_out), 1, beam)]
    found = measure(answers, held_out, known.target)
    return {"loss": total / units, **found}, answers


def _attention(trained: Trained, held_out: References) -> list[Attention]:
    """Look at what the greedy answers to a few sources looked at."""
    known = _known(trained)
    model: Any = trained.model
    shipped, seen = trained.shipped, []
    for text in some(held_out, _DRAWN):
        numbers = known.source.encode(text)
        best = shipped.answer([numbers], 1)[0][0]
        batch = Batch.of([(numbers, best.symbols)])
        memory, state = model.encode(batch.source, batch.lengths)
        _, weights, _ = model.decode(batch.so_far, memory, state)
        rounded = [[round(share, 3) for share in row] for row in weights[:, 0].tolist()]
        seen.append(Attention(known.source.cut(text), known.target.decode(best.symbols), rounded))
    return seen
