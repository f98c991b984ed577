"""The frame: imports that point down, public names, one version, a README that is true."""

import ast
import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import elman
from elman.cli import app

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "elman"
README = (ROOT / "README.md").read_text(encoding="utf-8")

# From top to bottom. A module imports what stands below it, and a folder is one layer; "elman"
# stands for the public names of the package.
LAYERS = (
    *("__main__", "cli", "drawing", "tasks", "bench", "elman"),
    *("explanation", "diagnosis", "watching", "printing", "quantized"),
    *("inside", "swap", "onnx", "exchange", "verification"),
    *("saved", "transforms", "carry", "ragged", "asks"),
    *("recurrent", "nn", "options", "hints", "ops", "library", "stretches"),
    *("core", "layout", "reference", "shapes", "runtime"),
    *("cells", "environment", "_native", "checkpoint", "extras", "language", "errors"),
)
MODULES = sorted(p for p in PACKAGE.rglob("*.py"))


def dotted(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer(name: str) -> str:
    """The layer of a module, or of what it has; a public name of the package is in "elman"."""
    part = f"{name}.".split(".")[1]
    is_module = (PACKAGE / part).is_dir() or (PACKAGE / f"{part}.py").exists()
    return part if part and (part in LAYERS or is_module) else "elman"


def imported(path: Path) -> set[str]:
    """The layers whose modules a file imports, those of annotations aside."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    hints = [
        node
        for test in ast.walk(tree)
        if isinstance(test, ast.If) and ast.unparse(test.test) == "TYPE_CHECKING"
        for node in ast.walk(test)
    ]
    found = set()
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            # the package itself is imported with any part of it; what counts is what is taken
            names = [alias.name for alias in node.names if alias.name != "elman"]
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "elman":
            names = [] if node.attr == "__version__" else [f"elman.{node.attr}"]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        if node not in hints:
            found |= {layer(name) for name in names if name.split(".")[0] == "elman"}
    return found


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_imports_only_point_down(path: Path) -> None:
    here = layer(dotted(path))
    assert here in LAYERS, f"{here}: say in LAYERS where it stands"
    above = [x for x in imported(path) if LAYERS.index(x) < LAYERS.index(here)]
    assert not above, f"{dotted(path)} imports {above}, which stands above it"


def test_the_reader_of_imports_sees_them(tmp_path: Path) -> None:
    source = (
        "import elman.nn\nfrom elman import ops, LSTM\ndef f():\n    from elman.cli.x import y\n"
    )
    source += "if TYPE_CHECKING:\n    from elman.cells import Cell\nimport numpy, elmanish.bench\n"
    (tmp_path / "x.py").write_text(source)
    assert imported(tmp_path / "x.py") == {"nn", "ops", "elman", "cli"}


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_public_names_are_listed_and_exist(path: Path) -> None:
    if path.name != "__main__.py":
        module = importlib.import_module(dotted(path))
        assert [name for name in module.__all__ if not hasattr(module, name)] == []


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, elman; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_version_stands_in_one_place() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (version,) = re.findall(r'^version = "(.+)"$', project, re.MULTILINE)
    assert elman.__version__ == version
    others = [*MODULES, *ROOT.glob("csrc/*"), ROOT / "CMakeLists.txt", ROOT / "Makefile"]
    assert [path for path in others if version in path.read_text(encoding="utf-8")] == []


def test_the_changelog_begins_with_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.findall(r"^## (\S+)", changelog, re.MULTILINE)[0]
    assert newest == elman.__version__


def test_the_environment_builds_with_what_pip_builds_with() -> None:
    tomllib = pytest.importorskip("tomllib", reason="came with Python 3.11")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert set(project["build-system"]["requires"]) <= set(project["dependency-groups"]["build"])


def commands(text: str, program: str) -> list[list[str]]:
    """The command lines in the code blocks of a text that call a program."""
    blocks = re.findall(r"^```(?:sh)?\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = [shlex.split(line, comments=True) for line in "".join(blocks).splitlines()]
    return [words[1:] for words in lines if words[:1] == [program]]


@pytest.mark.parametrize("words", commands(README, "elman"), ids=" ".join)
def test_the_readme_names_commands_and_options_that_exist(words: list[str]) -> None:
    command = typer.main.get_command(app)
    context = typer.Context(command)
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    assert not hasattr(command, "commands"), f"{words[:1]} is no command"
    options = {option for parameter in command.get_params(context) for option in parameter.opts}
    assert [word for word in words if word.startswith("-") and word not in options] == []


def test_the_readme_names_targets_that_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    wanted = commands(README, "make")
    assert wanted
    for (target,) in wanted:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


@pytest.mark.parametrize("code", re.findall(r"^```python\n(.*?)^```$", README, re.M | re.S))
def test_the_python_of_the_readme_runs(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})


def test_what_ci_runs_can_be_run() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
