"""The one training loop of all jobs.

A job says how its data is read, its batches, model, loss and measures; see `elman.tasks.job`. The
loop gives the rest: budget and schedule, clipping, evaluation, the best and the last checkpoint,
exact resuming, several processes, and the name of what diverged.

Everything that training needs to go on stands in `Learner.tensors` and in its `Position`, and a
checkpoint is those two. So a training that was killed and resumed is the one that never stopped,
bit for bit, on the same machine with the same number of threads and processes. With a budget in
seconds, the seconds that were trained count on from the checkpoint.
"""

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

import elman
from elman.tasks import DivergenceError, InputError, find
from elman.tasks.budget import OPERATIONS_PER_WEIGHT, machine_memory, measure_speed, schedule
from elman.tasks.job import Conclusion, Data, Job, State, Trained
from elman.tasks.processes import Processes, together
from elman.tasks.run import FREE, Run
from elman.tasks.settings import build

__all__ = ["Result", "configure", "evaluate", "load", "plan", "predict", "resume", "train"]

Report: TypeAlias = Callable[[dict[str, Any]], None]

_LOG_EVERY = 10  # updates
_CHECKPOINT_EVERY_S = 3.0
_CHECKPOINT_SHARE = 0.01  # of the time, at most


@dataclass(frozen=True)
class Result:
    """How a training ended.

    Args:
        finished: whether the budget is used up; False if it was stopped before.
        step: updates of the weights.
        seconds: time in training.
        metrics: measures of the best weights on all that was held out; empty if stopped.
        baselines: for each baseline its measures by name.
        lines: what is to be said of the result, in plain words.
    """

    finished: bool
    step: int
    seconds: float
    metrics: dict[str, float]
    baselines: dict[str, dict[str, float]]
    lines: tuple[str, ...]


def configure(job: Job, data: Data, given: Mapping[str, Any]) -> Any:
    """Complete the settings that the user gave.

    If the budget is a time and the size or the dropout is left open, this takes a second or two:
    what suits the peak speed of the machine is tried, and chosen again by the speed that its first
    updates have, on this data and beside whatever else the machine does.

    Args:
        job: the job.
        data: what was read.
        given: settings under the names of the job's.

    Raises:
        InputError: something given is out of range.
    """
    timed = given.get("max_time") is not None or given.get("epochs") is None
    known = not timed or given.keys() >= {"hidden", "dropout"}
    if known:
        return job.choose(data, math.inf, given)
    settings = job.choose(data, measure_speed(), given)
    for _ in range(2):
        tried = settings
        settings = job.choose(data, _speed_of_updates(job, data, tried), given)
        if settings.hidden == tried.hidden:
            break
    return settings


def _speed_of_updates(job: Job, data: Data, settings: Any, seconds: float = 0.3) -> float:
    """Measure additions and multiplications per second in a few updates; nothing is kept."""
    learner = Learner(job, None, settings, data, Run(Path(), {}), Processes(), {})
    with torch.random.fork_rng(devices=[]), _threads(settings.threads):
        learner.begin()
        learner.update()  # the first one takes longer
        learner._units_per_second = 0.0
        end = time.perf_counter() + seconds
        while learner.at.step < 3 or (
            time.perf_counter() < end and learner.at.step < _LOG_EVERY - 1
        ):
            learner.update()
    weights = sum(
        weight.numel()
        for layer in learner.model.modules()
        if not isinstance(layer, nn.Embedding)  # which is looked up
        for weight in layer.parameters(recurse=False)
        if weight.dim() > 1
    )
    return OPERATIONS_PER_WEIGHT * weights * learner._units_per_second


def train(
    job: Job,
    out: Path,
    *,
    init_from: Path | None = None,
    report: Report = lambda record: None,
    stop: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.perf_counter,
    **given: Any,
) -> Result:
    """Train a new model and keep all of it in a directory.

    Args:
        job: what to train for.
        out: the directory of the run, not there yet, or empty.
        init_from: the directory of another run of this job, whose best weights are trained further.
        report: called with a record of the start, each update, each evaluation and the result; the
            records are those of metrics.jsonl, where of the updates only every tenth is kept.
        stop: asked before each update; True saves a checkpoint and ends the training.
        clock: tells the seconds that are trained, from any start.
        given: what is read, and settings, under the names of the job's `Source` and `Settings`.

    Returns:
        How it ended.

    Raises:
        InputError: the data cannot be used, a setting is out of range, there is something at `out`
            already, or it cannot be made.
        DivergenceError: the loss became NaN or exploded; the last checkpoint is from before.
    """
    with together() as processes:
        data, settings, source, tensors = prepare(job, init_from, given)
        settings = processes.from_first(settings)  # the clocks of processes differ
        refuse_what_fits_no_memory(job, settings, data)
        config = {
            "job": job.name,
            "loss": job.loss_name,
            "source": asdict(source),
            "settings": asdict(settings),
            "data": data.about | {"digest": data.digest},
            "version": elman.__version__,
        }
        if processes.is_first:
            Run.create(out, config)
        processes.total(0)  # the others wait until it is there
        run = Run.open(out)
        with _locked(run, processes):
            learner = Learner(job, source, settings, data, run, processes, tensors, clock)
            return _train(learner, report, stop)


def plan(job: Job, out: Path, *, init_from: Path | None = None, **given: Any) -> dict[str, Any]:
    """Return what `train` would report at its start, and the time of an update; keep nothing.

    Args:
        job: as in `train`.
        out: as in `train`.
        init_from: as in `train`.
        given: as in `train`.

    Raises:
        InputError: as in `train`.
    """
    data, settings, source, tensors = prepare(job, init_from, given)
    learner = Learner(job, source, settings, data, Run(out, {}), Processes(), tensors)
    with torch.random.fork_rng(devices=[]):
        learner.begin()
        record = learner.describe()
        batch = learner._batches[0]
        times: list[float] = []
        while len(times) < 2 or (sum(times) < 0.5 and len(times) < 20):
            begun = time.perf_counter()
            job.loss(learner.model.train(), batch, None).total.backward()  # type: ignore[no-untyped-call]
            times.append(time.perf_counter() - begun)
    return record | {"seconds_per_update": sorted(times)[len(times) // 2]}


def prepare(
    job: Job, init_from: Path | None, given: Mapping[str, Any]
) -> tuple[Data, Any, Any, dict[str, Tensor]]:
    """Read the data and complete the settings; the last result is the weights to start from."""
    names = {field.name for field in dataclasses.fields(job.Source)}
    source_given = {name: value for name, value in given.items() if name in names}
    given = {name: value for name, value in given.items() if name not in names}
    # A run is resumed from any directory.
    if "files" in source_given:
        source_given["files"] = tuple(str(Path(f).absolute()) for f in source_given["files"])
    if init_from is None:
        source = build(job.Source, source_given)
        data = job.read(source)
        return data, configure(job, data, given), source, {}
    old = load(init_from)
    if old.job.name != job.name:
        raise InputError(f"{init_from} was trained for {old.job.name}, not for {job.name}")
    source = build(job.Source, asdict(old.source) | {"valid": None} | source_given)
    data = job.read(source, old.knowledge)
    kept = {"cell", "hidden", "layers", *job.shapes}
    for name in sorted(kept & given.keys()):
        if given[name] != getattr(old.settings, name):
            raise InputError(
                f"{init_from} was trained with {name} {getattr(old.settings, name)},"
                f" got {given[name]}: leave it out, for its weights are trained further"
            )
    given = {**given, **{name: getattr(old.settings, name) for name in kept}}
    return data, configure(job, data, given), source, old.model.state_dict()


def resume(
    out: Path,
    *,
    job: Job | None = None,
    report: Report = lambda record: None,
    stop: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.perf_counter,
    **given: Any,
) -> Result:
    """Go on with a training that was stopped, or killed, from its last checkpoint.

    Args:
        out: the directory of the run.
        job: the job that the run is expected to be of; any if None.
        report: as in `train`.
        stop: as in `train`.
        clock: as in `train`.
        given: as in `train`. A new budget (epochs, max_time, patience) replaces the old one, in
            which what was trained before counts; `threads` may be others, and `files` says where
            the data is now; any other must be what the run has.

    Returns:
        How it ended. A training whose budget is used up is only judged again.

    Raises:
        InputError: there is no run at `out`, its data has changed, or a setting differs.
        DivergenceError: the loss became NaN or exploded; the last checkpoint is from before.
    """
    with together() as processes:
        run = Run.open(out)
        with _locked(run, processes):
            found, source, settings = described(run)
            if job is not None and job.name != found.name:
                raise InputError(f"{out} is a run of {found.name}, not of {job.name}")
            for name, value in given.items():
                if name in FREE:
                    continue
                had = getattr(source if hasattr(source, name) else settings, name, None)
                if value != had:
                    raise InputError(
                        f"{out} was trained with {name} {had}, got {value}:"
                        f" leave it out to go on, or start another run",
                        name,
                    )
            changed = {name: given[name] for name in given if name in FREE and name != "files"}
            if changed.keys() & {"epochs", "max_time"}:
                changed = {"epochs": None, "max_time": None} | changed
            settings = build(type(settings), asdict(settings) | changed)
            source = build(
                type(source), asdict(source) | {"files": given.get("files", source.files)}
            )
            data = found.read(source)
            if data.digest != run.config.get("data", {}).get("digest"):
                raise InputError(
                    f"{out} was trained on other data: {' '.join(source.files)} must be as it was"
                )
            config = run.config | {"source": asdict(source), "settings": asdict(settings)}
            if processes.is_first and json.loads(json.dumps(config)) != run.config:
                run.configure(config)
            learner = Learner(found, source, settings, data, run, processes, {}, clock)
            return _train(learner, report, stop)


def _locked(run: Run, processes: Processes) -> AbstractContextManager[None]:
    """Keep others out of the run; of the processes that train together the first does."""
    return run.lock() if processes.is_first else nullcontext()


def evaluate(run: Path, files: Iterable[str | Path]) -> Conclusion:
    """Measure the model of a run on other data.

    Args:
        run: the directory of the run.
        files: the data.

    Returns:
        What the model is worth there, beside the baselines.

    Raises:
        InputError: there is no trained model, or the data cannot be used with it.
    """
    trained = load(run)
    held_out = trained.job.read_held_out(trained, tuple(map(str, files)))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        return trained.job.conclude(trained, held_out)


def predict(run: Path, given: str | None, **options: Any) -> Iterator[str]:
    """Answer for new input with the model of a run.

    Args:
        run: the directory of the run.
        given: a file, "-" for standard input, or for jobs on text the text itself; None where the
            job goes on from its own data.
        options: under the names of the job's `Prediction`.

    Returns:
        The lines of the output, without their ends.

    Raises:
        InputError: there is no trained model, the input cannot be used, or an option is not one of
            the job's or out of range.
    """
    trained = load(run)
    try:
        how = build(trained.job.Prediction, options)
    except InputError as error:
        raise InputError(f"{run} is a run of {trained.job.name}: {error}") from error
    with torch.no_grad():
        yield from trained.job.predict(trained, given, how)


def refuse_what_fits_no_memory(job: Job, settings: Any, data: Data) -> None:
    """Refuse a model whose weights alone are more than the machine can hold.

    Raises:
        InputError: they are.
    """
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        weights = sum(w.numel() for w in job.build(settings, data.knowledge).parameters())
    needed, there = 16 * weights, machine_memory()  # bytes: weight, gradient and two moments
    if needed > there:
        raise InputError(
            f"a model of {weights:,} weights needs {needed / 1e9:,.0f} GB to be trained, and this"
            f" machine has {there / 1e9:,.0f}: lower hidden or layers",
            "hidden",
            "layers",
        )


def described(run: Run) -> tuple[Job, Any, Any]:
    """Return the job, the source and the settings that a run's config.json describes.

    Raises:
        InputError: it is not complete, or something in it is out of range.
    """
    try:
        job = find(run.config["job"])
        source, settings = run.config["source"], run.config["settings"]
        return job, build(job.Source, source), build(job.Settings, settings)
    except (KeyError, TypeError, AttributeError, InputError) as error:
        raise InputError(f"{run.path} is not a run: {error} in its config.json") from error


def load(path: Path) -> Trained:
    """Load the model of a run, ready to be used.

    Args:
        path: the directory of the run; its best weights are used, or the last if it was stopped
            before it was first evaluated.

    Raises:
        InputError: there is none.
    """
    run = Run.open(path)
    file = run.best if run.best.exists() else run.last
    if not file.exists():
        raise InputError(f"{path} has no checkpoint yet: train it first, with --resume")
    tensors, extra = run.load(file)
    try:
        job, knowledge = find(extra["job"]), extra["knowledge"]
        source, settings = (
            build(kind, extra[name])
            for kind, name in ((job.Source, "source"), (job.Settings, "settings"))
        )
        with torch.random.fork_rng(devices=[]):
            model = job.build(settings, knowledge)
        model.load_state_dict(_under("model.", tensors))
    except (InputError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise InputError(f"{file} is not a checkpoint of a model: {error}") from error
    return Trained(job, model.eval(), source, settings, knowledge)


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    """Let PyTorch, and with it the layers, compute with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _train(learner: "Learner", report: Report, stop: Callable[[], bool]) -> Result:
    """Train from the run's last checkpoint, or from the start if it has none, to the end."""
    speak = report if learner.processes.is_first else lambda record: None
    with torch.random.fork_rng(devices=[]), _threads(learner.settings.threads):
        learner.begin()
        learner.restore()
        speak(learner.describe())
        while not learner.is_over and not learner.is_told(stop):
            before = learner.progress
            speak(learner.update())
            due = learner.job.evaluations
            evaluated = int(learner.progress * due) > int(before * due)
            if evaluated:
                speak(learner.evaluate())
            learner.save(at_once=evaluated)
        concluded: dict[str, Any] = {}
        if finished := learner.is_over:
            speak(concluded := learner.conclude())
        else:
            learner.save(at_once=True)
    if learner.processes.is_first:
        learner.draw("loss.png", learner.run.draw)
        for note in learner.notes:
            speak({"kind": "note", "note": note})
    return Result(
        finished,
        learner.at.step,
        learner.at.seconds,
        concluded.get("metrics", {}),
        concluded.get("baselines", {}),
        tuple(concluded.get("lines", ())),
    )


def remarks(records: Iterable[Mapping[str, Any]], metrics: Mapping[str, float]) -> list[str]:
    """Return what a user should know of a result, in plain words.

    Args:
        records: those of metrics.jsonl.
        metrics: of the best weights on all that is held out.

    Example:
        >>> losses = enumerate([2.0, 1.5, 1.9], start=1)
        >>> told = [{"kind": "evaluation", "step": 10 * k, "loss": x, "best": k < 3,
        ...          "metrics": {"loss": x}} for k, x in losses]
        >>> for line in remarks(told, {"loss": 1.51}):
        ...     print(line)
        Evaluations judge a part of what is held out, with the weights of that moment; this is all \
of it, with the weights that were best, of update 20.
        This is overfitting: from update 20 on the loss on what is held out rose from 1.5 to 1.9, \
for what was learnt by heart. More data, more dropout, a smaller model or a shorter training helps.
    """
    judged = [r for r in records if r["kind"] == "evaluation" and isinstance(r.get("loss"), float)]
    best = [record for record in judged if record.get("best") is True]
    if not best:
        return []
    told, last = best[-1], judged[-1]
    lines = []
    if last is not told or dict(told.get("metrics", metrics)) != dict(metrics):
        lines.append(
            "Evaluations judge a part of what is held out, with the weights of that moment; this is"
            f" all of it, with the weights that were best, of update {told['step']:,}."
        )
    if last["loss"] > 1.02 * told["loss"] > 0:
        lines.append(
            f"This is overfitting: from update {told['step']:,} on the loss on what is held out"
            f" rose from {told['loss']:.4g} to {last['loss']:.4g}, for what was learnt by heart."
            " More data, more dropout, a smaller model or a shorter training helps."
        )
    return lines


@dataclass
class Position:
    """Where a training stands, beside its tensors.

    Args:
        epoch: whole passes over the data.
        batch: batches read since.
        step: updates of the weights.
        seconds: time in training.
        loss_sum: the sum of the losses of the updates that are not in metrics.jsonl yet.
        losses: their number.
        best: the lowest score in an evaluation, or None before the first.
        stale: evaluations since then.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0
    losses: int = 0
    best: float | None = None
    stale: int = 0


class Learner:
    """A model in training: all that a checkpoint holds, and the steps that change it."""

    def __init__(
        self,
        job: Job,
        source: Any,
        settings: Any,
        data: Data,
        run: Run,
        processes: Processes,
        tensors: Mapping[str, Tensor],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Take what is needed; `begin` makes the model.

        Args:
            job: what is trained for.
            source: what was read.
            settings: how it is trained.
            data: what was read from it.
            run: where it is kept.
            processes: who takes part.
            tensors: the weights to start from; none for those that the seed draws.
            clock: tells the seconds that are trained, from any start.
        """
        self.job, self.source, self.settings, self.data = job, source, settings, data
        self.run, self.processes = run, processes
        self._first_weights = tensors
        self._clock = clock
        self.notes: list[str] = []  # what is to be said when there is an occasion

    def begin(self) -> None:
        """Make the model, with the first weights, and stand at the start of the first epoch."""
        settings = self.settings
        refuse_what_fits_no_memory(self.job, settings, self.data)
        torch.manual_seed(settings.seed)
        self.model = self.job.build(settings, self.data.knowledge)
        if self._first_weights:
            self.model.load_state_dict(self._first_weights)
        if self.processes.rank:  # whose dropout is not that of process 0
            torch.manual_seed(settings.seed + 2**32 * self.processes.rank)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True
        )
        self.state: State = None
        self.at = Position()
        self._units_per_second = 0.0
        self._save_took, self._is_save_due = 0.0, False
        self._parallel = self.processes.wrap(self.model)
        self._open_epoch()
        self._started = self._saved = self._clock()

    def _open_epoch(self) -> None:
        self._batches = self.job.batches(self.data, self.settings, self.at.epoch, self.processes)

    @property
    def progress(self) -> float:
        """The share of the budget that is used up; at 1 or more training is over."""
        by_data, by_time = 0.0, 0.0
        if self.settings.epochs is not None:
            passes = self.at.epoch + self.at.batch / len(self._batches)
            by_data = passes / self.settings.epochs
        if self.settings.max_time is not None:
            by_time = self.at.seconds / self.settings.max_time
        return max(by_data, by_time)

    @property
    def is_over(self) -> bool:
        """Whether the budget or the patience is used up."""
        patience = self.settings.patience
        return self.progress >= 1 or (patience is not None and self.at.stale >= patience)

    def is_told(self, stop: Callable[[], bool]) -> bool:
        """Return whether any of the processes is told to stop."""
        return self.processes.total(stop())[0] > 0

    @property
    def trained(self) -> Trained:
        """The model as it is now, with what belongs to it."""
        return Trained(self.job, self.model, self.source, self.settings, self.data.knowledge)

    def describe(self) -> dict[str, Any]:
        """Return what is about to be trained; unlike the other records it is not kept."""
        notes, self.notes = (*self.data.notes, *self.notes), []
        return {
            "kind": "start",
            "run": str(self.run.path),
            "job": self.job.name,
            "step": self.at.step,
            "settings": asdict(self.settings),
            "notes": notes,
            "batch": self.job.describe_batch(self.settings),
            "weights": sum(weight.numel() for weight in self.model.parameters()),
        }

    def update(self) -> dict[str, Any]:
        """Read one batch and change the weights; return the record of it.

        Raises:
            DivergenceError: the loss or a gradient is too large, or no number.
        """
        at, settings = self.at, self.settings
        begun = self._clock()
        batch, before = self._batches[at.batch], self.state
        rate = settings.lr * schedule(self.progress, settings.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

        self.model.train()
        total, count, self.state = self.job.loss(self._parallel, batch, before)
        self.state = _detached(self.state)
        loss_sum, units = self.processes.total(total.item(), count)
        # DistributedDataParallel divides the gradients by the number of processes.
        (total * (self.processes.count / units)).backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip).item()
        loss = loss_sum / units
        # No model that learns is ever so much worse than a blind guess.
        if not (loss < 10 * self.job.blind(self.data) and math.isfinite(loss) and norm < math.inf):
            raise DivergenceError(
                f"training diverged at update {at.step + 1}: the loss is {loss:.4g}, the gradient's"
                f" norm {norm:.4g}, first seen in {self._culprit(batch, before)};"
                f" start again with a lower --lr than {settings.lr:g}"
            )
        self.optimizer.step()
        self.optimizer.zero_grad()

        at.step += 1
        at.batch += 1
        if at.batch == len(self._batches):
            at.epoch, at.batch, self.state = at.epoch + 1, 0, None
            self._open_epoch()
        at.loss_sum += loss
        at.losses += 1
        speed = units / max(1e-9, self._clock() - begun)
        self._units_per_second += (speed - self._units_per_second) * (
            0.1 if self._units_per_second else 1.0
        )
        record = self._record("train", loss=at.loss_sum / at.losses, lr=rate, gradient_norm=norm)
        if at.step % _LOG_EVERY == 0:
            self._log(record)
            at.loss_sum, at.losses = 0.0, 0
        return record

    def evaluate(self) -> dict[str, Any]:
        """Judge the weights on what is held out, keep them if best; return the record.

        Raises:
            DivergenceError: the loss is no number.
        """
        metrics: dict[str, float] = {}
        if self.processes.is_first:
            metrics = self._judged(
                lambda: self.job.evaluate(self.trained, self.data.held_out, quick=True)
            )
        metrics = self.processes.from_first(metrics)
        score = self.job.score(metrics)
        if not math.isfinite(score):
            raise DivergenceError(
                f"training diverged at update {self.at.step}: the loss on what is held out is"
                f" {score}; start again with a lower --lr than {self.settings.lr:g}"
            )
        is_best = self.at.best is None or score < self.at.best
        self.at.stale += 1
        if is_best:
            self.at.best, self.at.stale = score, 0
        preview = ""
        if self.processes.is_first:
            if is_best:
                tensors = _over("model.", self.model.state_dict())
                self.run.save(self.run.best, tensors, self._extra())
            preview = self._judged(lambda: self.job.preview(self.trained, self.data, self.at.step))
        record = self._record(
            "evaluation",
            **{"loss": metrics["loss"], "metrics": metrics, "best": is_best},
            preview=preview,
        )
        self._log(record)
        return record

    def conclude(self) -> dict[str, Any]:
        """Judge the best weights on all that is held out; return the record, write the results."""
        record: dict[str, Any] = {}
        if self.processes.is_first:
            trained = load(self.run.path)
            found = self._judged(lambda: self.job.conclude(trained, self.data.held_out))
            record = self._record(
                "result",
                metrics=found.metrics,
                baselines=found.baselines,
                lines=(*found.lines, *remarks(self.run.records(), found.metrics)),
            )
            self._log(record)
            self.run.conclude(
                {
                    "job": self.job.name,
                    "metrics": found.metrics,
                    "baselines": found.baselines,
                    "settings": asdict(self.source) | asdict(self.settings),
                    "data": self.run.config["data"],
                    "seconds": self.at.seconds,
                    "version": elman.__version__,
                },
                [{"kind": type(part).__name__.lower(), **asdict(part)} for part in found.details],
            )
            self.draw(
                "the plots",
                lambda: self._judged(
                    lambda: self.job.draw(trained, self.data.held_out, self.run.path)
                ),
            )
        return self.processes.from_first(record)  # type: ignore[no-any-return]

    def draw(self, name: str, draw: Callable[[], Any]) -> None:
        """Call what draws; a training does not fail for want of a plot, but a note says so."""
        try:
            draw()
        except Exception as error:  # fonts, caches and settings of Matplotlib: anything
            self.notes.append(f"{name} could not be drawn: {error}")

    def _judged(self, measure: Callable[[], Any]) -> Any:
        """Return what a job's function gives while nothing is learnt, and chance stands still."""
        self.model.eval()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            return measure()

    def save(self, *, at_once: bool) -> None:
        """Write the last checkpoint: at once, or if the one before is old enough by now."""
        if not at_once and not self._is_save_due:
            return
        begun = self._clock()
        own = {"generator": torch.get_rng_state()}
        states = self.state if isinstance(self.state, tuple) else (self.state,)
        own |= {f"state.{i}": state for i, state in enumerate(states) if state is not None}
        each = self.processes.gather(own)
        if self.processes.is_first:
            tensors = _over("model.", self.model.state_dict())
            for index, moments in self.optimizer.state_dict()["state"].items():
                tensors |= _over(f"optimizer.{index}.", moments)
            for rank, owned in enumerate(each):
                tensors |= _over(f"process.{rank}.", owned)
            self.run.flush()
            self.run.save(self.run.last, tensors, self._extra())
        self._saved, self._is_save_due = self._clock(), False
        self._save_took = self._saved - begun

    def restore(self) -> None:
        """Go on from the run's last checkpoint; write it if there is none yet.

        So a run that has measured anything has a last checkpoint, or has lost it.

        Raises:
            InputError: it is damaged, of another training or lost.
        """
        if self.run.last.exists():
            self._read_checkpoint()
        elif self.run.has_begun:
            raise InputError(
                f"{self.run.path} has lost its {self.run.last.name}, and cannot go on: put it back,"
                " or train anew with another --out; its best weights are still of use"
            )
        else:
            self.save(at_once=True)
        if self.processes.is_first and (damaged := self.run.rewind(self.at.step)):
            lines = ", ".join(map(str, damaged))
            self.notes.append(
                f"metrics.jsonl was damaged in line {lines}: what stood there is lost"
            )
        self._open_epoch()
        self._saved = self._clock()
        self._started = self._saved - self.at.seconds
        if self.at.step and self.progress >= 1:
            self.notes.append(
                f"the budget is used up: it counts from the start, and {self.at.epoch} epochs and"
                f" {self.at.seconds:.0f} seconds were trained; give a larger one to train on"
            )

    def _read_checkpoint(self) -> None:
        tensors, extra = self.run.load(self.run.last)
        try:
            if extra["processes"] != self.processes.count:
                raise InputError(
                    f"{self.run.path} was trained by {extra['processes']} processes, and goes on"
                    f" with as many, got {self.processes.count}: say so to torchrun"
                )
            self.at = Position(**extra["position"])
            self.model.load_state_dict(_under("model.", tensors))
            optimizer = self.optimizer.state_dict()
            for index in range(len(optimizer["param_groups"][0]["params"])):
                if state := _under(f"optimizer.{index}.", tensors):
                    optimizer["state"][index] = state
            self.optimizer.load_state_dict(optimizer)
            own = _under(f"process.{self.processes.rank}.", tensors)
            states = tuple(_under("state.", own).values())
            self.state = states if len(states) > 1 else states[0] if states else None
            torch.set_rng_state(own["generator"])
        except (KeyError, TypeError, AttributeError, RuntimeError, IndexError) as error:
            raise InputError(f"cannot resume from {self.run.last}: {error}") from error

    def _extra(self) -> dict[str, Any]:
        return {
            "job": self.job.name,
            "source": asdict(self.source),
            "settings": asdict(self.settings),
            "knowledge": self.data.knowledge,
            "position": asdict(self.at),
            "processes": self.processes.count,
        }

    def _record(self, kind: str, **more: Any) -> dict[str, Any]:
        """Set the clock; return what metrics.jsonl says of this moment.

        All that depends on the time of day and not on the training alone is under "clock".
        """
        now = self._clock()
        interval = max(_CHECKPOINT_EVERY_S, self._save_took / _CHECKPOINT_SHARE)
        seconds, due = now - self._started, float(now - self._saved >= interval)
        if kind != "result":  # which the first process makes alone
            # The clock of the first is that of all.
            first = self.processes.is_first
            seconds, due = self.processes.total(seconds if first else 0.0, due * first)
        self.at.seconds, self._is_save_due = seconds, due > 0
        progress = self.progress
        return {
            "kind": kind,
            "step": self.at.step,
            "epoch": self.at.epoch + self.at.batch / len(self._batches),
            "progress": progress,
            **more,
            "clock": {
                "seconds": seconds,
                "seconds_left": seconds * max(0.0, 1 - progress) / progress,
                "units_per_second": self._units_per_second,
                "unit": self.job.unit,
            },
        }

    def _log(self, record: dict[str, Any]) -> None:
        if self.processes.is_first:
            self.run.log(record)

    def _culprit(self, batch: Any, state: State) -> str:
        """Name the weight or layer that is the first, in the order of the model, to be out of hand.

        Args:
            batch: what was read in the update that went wrong.
            state: what was carried when it was read.
        """
        for name, weight in self.model.named_parameters():
            if not weight.isfinite().all():
                return f"the weights of {name}"
        broken: list[str] = []

        def watch(name: str, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            if not first.data.isfinite().all():
                broken.append(name)

        for name, layer in self.model.named_children():
            layer.register_forward_hook(lambda _, __, output, name=name: watch(name, output))
        with torch.no_grad():
            self.job.loss(self.model, batch, state)
        if broken:
            return f"the output of {broken[0]}"
        sizes = {
            name: weight.grad.norm().nan_to_num(math.inf).item()
            for name, weight in self.model.named_parameters()
            if weight.grad is not None
        }
        return f"the gradient of {max(sizes, key=sizes.__getitem__)}"


def _detached(state: State) -> State:
    if isinstance(state, tuple):
        return tuple(part.detach() for part in state)
    return None if state is None else state.detach()


def _over(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
