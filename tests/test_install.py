"""What works where only NumPy is installed, and what is said of all that needs more."""

import subprocess
import sys
from pathlib import Path

import pytest

import elman
from elman.extras import MissingError, needed
from elman.tasks import JOBS

try:
    import tomllib
except ImportError:  # before Python 3.11
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
# A process in which nothing can be imported but the standard library, elman and what is named.
BARE = """
import sys
from importlib.abc import MetaPathFinder
class Bare(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        part = name.split(".")[0]
        if part not in {allowed} and part not in sys.stdlib_module_names:
            if not part.startswith(("elman", "_elman", "_editable", "_sysconfigdata")):
                raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Bare())
"""
TYPER = (
    "numpy",
    *("typer", "rich", "pygments", "markdown_it", "mdurl", "shellingham", "annotated_doc"),
    *("pydantic", "pydantic_core", "annotated_types", "typing_extensions", "typing_inspection"),
)


def run(code: str, *allowed: str) -> subprocess.CompletedProcess[str]:
    bare = BARE.format(allowed=set(allowed or ("numpy",)))
    return subprocess.run([sys.executable, "-c", bare + code], capture_output=True, text=True)


def command(*words: str, allowed: tuple[str, ...] = TYPER) -> subprocess.CompletedProcess[str]:
    code = f"sys.argv = ['elman', *{words!r}]\nfrom elman.__main__ import run\nsys.exit(run())"
    return run(code, *allowed)


def test_the_blocked_process_blocks() -> None:
    assert "No module named 'torch'" in run("import torch").stderr
    assert "No module named 'rich'" in run("import rich").stderr


# Public names that need nothing but NumPy.
FREE = {
    *("__version__", "axes", "cell", "get_language", "plot_gates", "runtime", "set_language"),
    *("describe_state", "verify"),
}


def test_the_package_and_its_runtime_need_numpy_alone() -> None:
    code = f"""
import elman, elman.cells, elman.language, elman.runtime
assert set(elman.__all__) <= set(dir(elman))
for name in {sorted(FREE)}:
    getattr(elman, name)
"""
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_each_other_public_name_says_which_extra_brings_what_it_needs() -> None:
    code = f"""
import elman
for name in sorted(set(elman.__all__) - {FREE}):
    try:
        getattr(elman, name)
    except ImportError as error:
        print(f"{{name}}: {{error}}")
    else:
        print(f"{{name}} needs nothing")
"""
    said = run(code).stdout.splitlines()
    extras = {"onnx": "onnx"}
    assert said == [
        f"{name}: elman.{name} needs PyTorch: pip install 'elman[{extras.get(name, 'torch')}]'"
        for name in sorted(set(elman.__all__) - FREE)
    ]


def test_a_model_runs_where_only_numpy_is(tmp_path: Path) -> None:
    import torch

    model = torch.nn.Sequential(elman.LSTM(3, 4), torch.nn.Linear(4, 2))
    elman.save(model, tmp_path / "model.elman")
    code = f"""
import numpy, elman.runtime
model = elman.runtime.load({str(tmp_path / "model.elman")!r})
print(model.run(numpy.ones((5, 1, 3), "float32")).tobytes().hex())
"""
    done = run(code)
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        expected = model[1](model[0](torch.ones(5, 1, 3))[0])
    assert expected.shape == (5, 1, 2)
    assert (
        bytes.fromhex(done.stdout)
        == elman.runtime.load(tmp_path / "model.elman").run(torch.ones(5, 1, 3).numpy()).tobytes()
    )


def test_the_command_line_without_typer_is_one_sentence() -> None:
    done = command(allowed=("numpy",))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "elman: the command line needs typer: pip install 'elman[train]'\n"


@pytest.mark.parametrize(
    "words",
    [(), ("--help",), ("--version",), *((job, "--help") for job in ("predict", "sample"))]
    + [("train", job, "--help") for job in JOBS],
    ids=" ".join,
)
def test_help_needs_typer_alone(words: tuple[str, ...]) -> None:
    done = command(*words)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("train", "text", "no-such-file"), "cannot read no-such-file: No such file or directory"),
        (("predict",), "Missing argument 'RUN'. (see: elman predict --help)"),
        (("bench", "--json", "no/such/place"), "no/such is not a directory: make it first"),
    ],
)
def test_mistakes_are_told_with_typer_alone(words: tuple[str, ...], said: str) -> None:
    done = command(*words)
    assert (done.returncode, done.stderr) == (2, f"elman: {said}\n")


FILES = {
    "text": "to be or not to be\n" * 50,
    "series": "t,y\n" + "".join(f"{i},{i % 7}\n" for i in range(50)),
    "labels": "good\tyes\nbad\tno\n" * 20,
    "tags": "John B-PER\nsings O\n\n" * 20,
    "pairs": "eins\tone\nzwei\ttwo\n" * 20,
}


@pytest.mark.parametrize("job", JOBS)
def test_each_training_says_which_extra_brings_what_it_needs(job: str, tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text(FILES[job])
    done = command("train", job, str(tmp_path / "data.txt"), "--out", str(tmp_path / "run"))
    assert done.returncode == 2
    assert done.stderr == f"elman: elman train {job} needs PyTorch: pip install 'elman[{job}]'\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("words", [("demo",), ("bench",)], ids=" ".join)
def test_other_commands_say_which_extra_brings_what_they_need(words: tuple[str, ...]) -> None:
    done = command(*words)
    sentence = f"elman: elman {words[0]} needs PyTorch: pip install 'elman[train]'\n"
    assert (done.returncode, done.stderr) == (2, sentence)


def test_what_is_nearest_to_a_package_says_what_it_is_for() -> None:
    with (
        pytest.raises(MissingError) as caught,
        needed("elman train series", "train"),
        needed("reading", "series"),
    ):
        import samovar  # noqa: F401
    assert str(caught.value) == "reading needs samovar: pip install 'elman[series]'"


def test_what_fails_otherwise_is_left_alone() -> None:
    missing = r"No module named 'elman\.samovar'"
    with pytest.raises(ModuleNotFoundError, match=missing), needed("elman.tea", "torch"):
        import elman.samovar  # noqa: F401


def test_the_package_needs_numpy_alone_and_each_job_all_that_training_does() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["dependencies"] == ["numpy>=1.26"]
    extras = project["optional-dependencies"]
    for job in JOBS:
        assert "elman[train]" in extras[job]


def test_verify_computes_all_but_backward_where_only_numpy_is() -> None:
    code = "import elman\nfor c in elman.verify(): print(c.cell, c.what, c.found)"
    alone = set(run(code).stdout.splitlines())
    here = {f"{c.cell} {c.what} {c.found}" for c in elman.verify()}
    assert alone == {line for line in here if " backward " not in line}
