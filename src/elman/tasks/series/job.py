"""Series as a job: the data, batches, loss, measures and forecasts that the training loop asks for.

Windows of all series are drawn in any order. The loss is that of the quantiles (pinball) on values
standardised by the training part. The best weights are chosen on the validation part; the test is
one pass over all its windows, a forecast from every origin, beside the baselines.
"""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from elman.runtime import Series
from elman.runtime.jobs.series import features
from elman.tasks import InputError
from elman.tasks.budget import GATES, fit_hidden
from elman.tasks.job import Conclusion, Data, Example, Job, Loss, State, Table, Trained
from elman.tasks.processes import Processes
from elman.tasks.series import data as reading
from elman.tasks.series.answers import lacks_known, window_before
from elman.tasks.series.baselines import BASELINES, smoothing
from elman.tasks.series.data import Panel
from elman.tasks.series.measures import Forecasts, measure, per_step
from elman.tasks.series.model import SeriesModel
from elman.tasks.series.settings import (
    SUMMARY,
    SeriesSettings,
    SeriesSource,
)
from elman.tasks.series.windows import Batches, Windows

__all__ = ["JOB", "SeriesJob"]

_JUDGED = 2**12  # windows in an evaluation; the last one judges all of the test part
_AT_ONCE = 512  # windows judged at once
_SMOOTHED = 20  # series for which exponential smoothing is fitted, at most
_CONTEXT = 720


class SeriesJob(Job):
    """A model of series over time."""

    name = "series"
    summary = SUMMARY
    unit = "values"
    loss_name = "loss (pinball, standardised)"
    Source = SeriesSource
    Settings = SeriesSettings
    shapes = frozenset({"context", "segment", "quantiles"})
    evaluations = 20

    def read(self, source: SeriesSource, knowledge: Mapping[str, Any] | None = None) -> Data:
        """Read the table; its last two parts are held out, or `valid` instead."""
        panel = reading.read(source, knowledge)
        held_out, digest, notes = panel, panel.digest, panel.notes
        if source.valid is not None:
            held_out = reading.read_again(source.valid, panel.knowledge)
            digest, notes = digest + held_out.digest, (*notes, *held_out.notes)
        steps = sum(one.validation for one in panel.series)
        return Data(
            training=panel,
            held_out=held_out,
            units=steps,
            knowledge=panel.knowledge,
            about={
                "series": len(panel.series),
                "steps": sum(len(one.values) for one in panel.series),
                "training_steps": steps,
                "step": panel.grid.name,
                "horizon": panel.horizon,
                "season": panel.season,
            },
            notes=notes,
            digest=digest,
        )

    def read_held_out(self, trained: Trained, files: Sequence[str]) -> Panel:
        """Read a table to judge a model on: every window in it."""
        if len(files) != 1:
            raise InputError(f"series is judged on one table, got {len(files)} files")
        return reading.read_again(files[0], trained.knowledge)

    def choose(self, data: Data, speed: float, given: Mapping[str, Any]) -> SeriesSettings:
        """Complete the settings with what suits the series, the time and the machine."""
        return choose(data.training, data.held_out, speed, given)

    def describe_batch(self, settings: SeriesSettings) -> str:
        """Say what an update reads."""
        return (
            f"{settings.batch} windows an update, of {settings.context} steps, {settings.segment}"
            " at once"
        )

    def build(self, settings: SeriesSettings, knowledge: Mapping[str, Any]) -> SeriesModel:
        """Make the model."""
        known = features(len(knowledge["cycles"]), len(knowledge["known"]), settings.segment)
        return SeriesModel(knowledge["horizon"], known, settings)

    def batches(
        self, data: Data, settings: SeriesSettings, epoch: int, processes: Processes
    ) -> Batches:
        """Deal out all windows of the training part, in another order in each epoch."""
        windows = Windows(data.training, settings)
        origins = windows.origins("training")
        generator = torch.Generator().manual_seed((settings.seed * 1_000_003 + epoch) % 2**63)
        order = origins[torch.randperm(len(origins), generator=generator)]
        return Batches(
            windows,
            [
                batch[processes.rank :: processes.count]
                for batch in torch.split(order, settings.batch)
            ],
        )

    def loss(self, model: nn.Module, batch: Any, state: State) -> Loss:
        """Return the sum of the pinball loss over what came."""
        forecast = model(batch.past, batch.past_known, batch.known, batch.base)
        short = batch.future[..., None] - forecast
        each = torch.maximum(batch.levels * short, (batch.levels - 1) * short).mean(-1)
        return Loss((each * batch.present).sum(), int(batch.present.sum()))

    def evaluate(self, trained: Trained, held_out: Panel, *, quick: bool) -> dict[str, float]:
        """Return the measures on the validation part."""
        windows = Windows(held_out, trained.settings)
        origins = windows.origins("validation")
        if quick:
            origins = origins[:: math.ceil(len(origins) / _JUDGED)]
        found = _measured(forecast(trained, windows, origins))
        return {name: found[name] for name in ("loss", "mae", "mase", "coverage") if name in found}

    def conclude(self, trained: Trained, held_out: Panel) -> Conclusion:
        """Judge the model on all windows of the test part, beside the baselines."""
        windows = Windows(held_out, trained.settings)
        origins = windows.origins("test")
        model = forecast(trained, windows, origins)
        metrics = _measured(model)
        guesses = _baselines(windows, origins, model)
        baselines = {name: measure(guess) for name, guess in guesses.items()}
        return Conclusion(
            metrics,
            baselines,
            tuple(_verdict(metrics, baselines, model, windows, origins)),
            (_steps_table(model, guesses),),
        )

    def draw(self, trained: Trained, held_out: Panel, out: Path) -> list[Path]:
        """Draw forecasts of the test part beside what came, and the forecast from the end on."""
        from elman.tasks.series import drawings

        windows = Windows(held_out, trained.settings)
        origins = windows.origins("test")
        found = forecast(trained, windows, origins)
        drawn = [
            drawings.backtest(windows, origins, found, out / "backtest.png"),
            drawings.errors(found, out / "errors_by_step.png"),
        ]
        if not lacks_known(held_out):
            ends = windows.origins("end")
            ahead = forecast(trained, windows, ends)
            drawn.append(
                drawings.forecast(held_out, windows.of(ends).tolist(), ahead, out / "forecast.png")
            )
        return drawn

    def example(self, trained: Trained) -> Example:
        """Forecast from two windows; values are standardised."""
        settings, knowledge = trained.settings, trained.knowledge
        segment, horizon = settings.segment, knowledge["horizon"]
        known = features(len(knowledge["cycles"]), len(knowledge["known"]), segment)
        past = settings.context // segment
        names = ("past", "past_known", "known", "base")
        shapes = ((past, segment), (past, known), (-(-horizon // segment), known), (horizon,))
        rows = torch.export.Dim("N")
        return Example(
            trained.model,
            tuple(torch.zeros(2, *shape) for shape in shapes),
            {
                "input_names": list(names),
                "output_names": ["quantiles"],
                "dynamic_shapes": {name: {0: rows} for name in names},
            },
        )

    def measure(self, model: Series, held_out: Panel) -> dict[str, float]:
        """Return the error of windows of the test part, all if they are few."""
        chosen = [
            (one, origin)
            for one in held_out.series
            for origin in range(
                max(model.context, 0 if held_out.is_judged_whole else one.test),
                len(one.values) - model.horizon + 1,
            )
            if not np.isnan(one.values[origin : origin + model.horizon]).all()
        ]
        chosen = chosen[:: math.ceil(len(chosen) / _JUDGED)]
        found = Forecasts(
            np.stack([one.values[origin : origin + model.horizon] for one, origin in chosen]),
            model.forecast([window_before(model, held_out, one, at) for one, at in chosen]),
            model.levels,
            np.array([one.scale.std for one, _ in chosen]),
            np.array([one.scale.mase for one, _ in chosen]),
        )
        measured = measure(found)
        return {"MASE": measured["mase"], "MAE": measured["mae"]}


JOB = SeriesJob()


def choose(panel: Panel, held_out: Panel, speed: float, given: Mapping[str, Any]) -> SeriesSettings:
    """Complete the settings that the user gave; see `SeriesJob.choose`."""
    chosen = dict(given)
    if chosen.get("epochs") is None and chosen.get("max_time") is None:
        chosen["max_time"] = 180.0
    horizon = panel.horizon
    learnt = max(one.validation for one in panel.series)
    judged = min(
        len(one.values) - (horizon if one.validation == 0 else 0) for one in held_out.series
    )
    most = max(1, min(learnt - horizon, learnt // 3 if learnt < 3 * _CONTEXT else _CONTEXT, judged))
    if chosen.get("context") is None:
        wanted = max(8 * horizon, 2 * panel.season if 2 * panel.season <= _CONTEXT else 0)
        context = min(most, max(16, wanted))
        segment = chosen.get("segment") or _segment(context, panel.season)
        chosen["context"] = max(segment, context // segment * segment)
        chosen["segment"] = segment
    context = chosen["context"]
    chosen.setdefault("segment", _divisor(context, max(1, context // 15)))
    if isinstance(context, int) and context + horizon > learnt:
        raise InputError(
            f"the longest series has {learnt} steps to learn from, and a context of {context} with"
            f" a horizon of {horizon} needs {context + horizon}: lower --context or --horizon, or"
            " give more data"
        )
    windows = sum(max(0, one.validation - context - horizon + 1) for one in panel.series)
    if isinstance(context, int):
        chosen.setdefault("batch", max(8, min(256, windows // 32)))
    chosen.setdefault("lr", 3e-3)
    settings = SeriesSettings(**{"hidden": 1, "dropout": 0.0} | chosen)
    if not len(Windows(panel, settings).origins("training")):
        raise InputError(f"no window of {context + horizon} steps has a value to forecast")
    for part in ("validation", "test"):
        if not len(Windows(held_out, settings).origins(part)):
            raise InputError(
                f"nothing is held out: no series there has {context} steps before {horizon} to"
                " forecast; lower --context or --horizon, or hold more out"
            )
    known = features(len(panel.cycles), len(panel.known), settings.segment)

    def weights(settings: SeriesSettings) -> int:
        """Count the weights that are multiplied."""
        hidden, segment = settings.hidden, settings.segment
        ends = hidden * (segment * (1 + len(settings.levels)) + 2 * known)
        recurrent = 2 * GATES[settings.cell] * settings.layers * hidden**2
        return int(ends + recurrent + context * horizon)

    if "hidden" not in given:
        hidden = fit_hidden(
            settings,
            windows * horizon,
            speed,
            weights,
            sizes=(16, 32, 48, 64, 96, 128, 192, 256),
            units_per_weight=150,  # windows overlap, and little in each is new
            weights_per_unit=0.2,
        )
        settings = replace(settings, hidden=hidden)
    if "dropout" not in given:
        settings = replace(settings, dropout=0.5)
    return settings


def _segment(context: int, season: int) -> int:
    """Return how many steps are read at once: about a fifteenth of the context, in whole days."""
    wanted = max(1, context // 15)
    if 2 <= season <= wanted:
        return wanted // season * season
    return wanted


def _divisor(number: int, about: int) -> int:
    """Return the divisor of a number that is the nearest to another."""
    return min(
        (d for d in range(1, number + 1) if number % d == 0),
        key=lambda d: abs(d - about),
        default=1,
    )


def forecast(trained: Trained, windows: Windows, origins: Tensor) -> Forecasts:
    """Return the model's forecasts for windows, in the units of the data; quantiles in order."""
    found, actual = [], []
    for some in torch.split(origins, _AT_ONCE):
        batch = windows.gather(some)
        quantiles = trained.model(batch.past, batch.past_known, batch.known, batch.base)
        found.append(quantiles.sort(-1).values.double().numpy())
        actual.append(np.where(batch.present.numpy() > 0, batch.future.double().numpy(), math.nan))
    scales = [one.scale for one in windows.panel.series]
    of = windows.of(origins)
    mean, std, mase = (
        np.array([getattr(scale, name) for scale in scales])[of] for name in ("mean", "std", "mase")
    )
    return Forecasts(
        np.concatenate(actual) * std[:, None] + mean[:, None],
        np.concatenate(found) * std[:, None, None] + mean[:, None, None],
        trained.settings.levels,
        std,
        mase,
    )


def _measured(of: Forecasts) -> dict[str, float]:
    """Return the measures, with the loss that is trained first."""
    from elman.tasks.series.measures import pinball

    scaled = pinball(of.quantiles / of.std[:, None, None], of.actual / of.std[:, None], of.levels)
    return {"loss": float(np.nanmean(scaled)), **measure(of)}


def _baselines(windows: Windows, origins: Tensor, model: Forecasts) -> dict[str, Forecasts]:
    """Return the forecasts of each baseline for the same windows."""
    panel = windows.panel
    of, horizon = windows.of(origins), panel.horizon
    functions = dict(BASELINES)
    if panel.season == 1:
        del functions["seasonal naive"]
    made: dict[str, NDArray[np.float64]] = {name: np.empty_like(model.actual) for name in functions}
    is_smoothed = len(panel.series) <= _SMOOTHED
    smoothed = np.empty_like(model.actual)
    for position, one in enumerate(panel.series):
        chosen = of == position
        if not chosen.any():
            continue
        steps = origins.numpy()[chosen] - windows.offsets[position]
        for name, function in functions.items():
            made[name][chosen] = function(one.filled, steps, horizon, panel.season)
        found = smoothing(one, steps, horizon, panel.season) if is_smoothed else None
        if found is None:
            is_smoothed = False
        else:
            smoothed[chosen] = found
    if is_smoothed:
        made["exponential smoothing"] = smoothed
    return {name: model.replaced(guess) for name, guess in made.items()}


def _verdict(
    metrics: Mapping[str, float],
    baselines: Mapping[str, Mapping[str, float]],
    model: Forecasts,
    windows: Windows,
    origins: Tensor,
) -> Iterator[str]:
    """Say in plain words what the model is worth."""
    best = min(baselines, key=lambda name: baselines[name]["mase"])
    mine, theirs = metrics["mase"], baselines[best]["mase"]
    if mine < theirs:
        yield f"better than {best}, the best of the baselines, by {1 - mine / theirs:.0%} (MASE)"
    else:
        yield f"{best} wins by {1 - theirs / mine:.0%} (MASE): use it"
    if "coverage" in metrics:
        meant = model.levels[-1] - model.levels[0]
        yield (
            f"{metrics['coverage']:.0%} of what came lies between quantiles {model.levels[0]:g} and"
            f" {model.levels[-1]:g}, {meant:.0%} are meant to"
        )
    last = BASELINES["last value"]
    of = windows.of(origins)
    before = np.concatenate(
        [
            last(one.filled, origins.numpy()[of == i] - windows.offsets[i], 1, 1)[:, 0]
            for i, one in enumerate(windows.panel.series)
        ]
    )
    first, came = model.point[:, 0], model.actual[:, 0]
    seen = ~np.isnan(came)
    moved, really = (
        (first - before)[seen] / model.std[seen],
        (came - before)[seen] / model.std[seen],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        agree = float(np.corrcoef(moved, really)[0, 1]) if len(moved) > 2 else math.nan
    if np.abs(moved).mean() < 0.1 * np.abs(really).mean() or agree < 0.05:
        same = float(np.corrcoef(first[seen], before[seen])[0, 1]) if len(moved) > 2 else 1.0
        yield (
            "the first step of a forecast hardly says more than the last value: it follows it with"
            f" correlation {same:.2f}, and its changes follow the true ones with {agree:.2f}"
        )


def _steps_table(model: Forecasts, guesses: Mapping[str, Forecasts]) -> Table:
    """Make the table of the measures of each step of the horizon."""
    names = ("mae", "rmse", "mase", "smape", "pinball", "coverage")
    steps = per_step(model)
    other = {name: [found["mae"] for found in per_step(guess)] for name, guess in guesses.items()}
    return Table(
        "The test, for each step ahead",
        ("step", *(n for n in names if n in steps[0]), *(f"{name}: mae" for name in other)),
        tuple(
            (
                step + 1,
                *(found[n] for n in names if n in found),
                *(errors[step] for errors in other.values()),
            )
            for step, found in enumerate(steps)
        ),
    )
