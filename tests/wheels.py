"""Wheels as users get them: `make wheel`, `make size` and `make reproducible`.

build         for this Python, and one of the stable ABI where there is a Python 3.12; audited,
              and tried in new environments that have no compiler, without PyTorch and with it
size          what is in a wheel, beside what may be
reproducible  two builds of one commit have the same bytes
"""

import hashlib
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
BUILD, DIST = ROOT / "build" / "wheels", ROOT / "dist"
MOST = {"wheel": 2_000_000, "core": 1_750_000}  # bytes
LATER = ("3.13", "3.14")  # in which the wheel of the stable ABI is tried too


def main() -> None:
    """Do what was asked for; the time of all files is that of the commit."""
    git = ["git", "log", "-1", "--format=%ct"]
    time = subprocess.run(git, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
    os.environ.setdefault("SOURCE_DATE_EPOCH", time)
    {"build": build, "size": size, "reproducible": reproducible}[sys.argv[1]]()


def build() -> None:
    """Build, audit and try the wheels."""
    shutil.rmtree(DIST, ignore_errors=True)
    with_torch(repaired(made(Path(sys.executable), "raw")))
    stable = python("3.12")
    if stable:
        wheel = repaired(made(stable, "raw"))
        alone(wheel, stable)
        for version in LATER:
            later = python(version)
            alone(wheel, later) if later else print(f"wheel: no Python {version} here to try it in")
    else:
        print("wheel: no Python 3.12 here, so none of the stable ABI")
    size()


def python(version: str) -> Path | None:
    """Return the Python of a version, if it is here."""
    named = shutil.which(f"python{version}")
    for found in (named, *Path.home().glob(f".pyenv/versions/{version}.*/bin/python")):
        # A name may be a script that says which versions there are.
        ask = [found, "-c", "import sys; print(sys.executable)"]
        if found and (said := subprocess.run(ask, capture_output=True, text=True)).returncode == 0:
            return Path(said.stdout.strip())
    return None


def made(interpreter: Path, folder: str) -> Path:
    """Build a wheel for an interpreter, from nothing."""
    place = BUILD / folder / interpreter.parts[-3]
    shutil.rmtree(place, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "--python", str(interpreter), "--quiet"]
    run(
        *(*pip, "wheel", "--no-deps", f"--wheel-dir={place}"),
        *(f"--config-settings=build-dir={place}/cmake", str(ROOT)),
    )
    (wheel,) = place.glob("*.whl")
    return wheel


def repaired(wheel: Path, into: Path = DIST) -> Path:
    """Return the wheel with the tag of the oldest systems that it runs on, and its SBOM."""
    before = set(into.glob("*.whl"))
    run("auditwheel", "repair", f"--wheel-dir={into}", str(wheel))
    (found,) = set(into.glob("*.whl")) - before
    print(f"wheel: {found.name}")
    assert any("sboms/" in name for name in zipfile.ZipFile(found).namelist()), "there is no SBOM"
    return found


def alone(wheel: Path, interpreter: Path) -> None:
    """Try a wheel where there is NumPy alone, and then with typer."""
    environment = empty(interpreter)
    run(environment / "pip", "install", "--quiet", "--only-binary=:all:", wheel, apart=environment)
    script = ROOT / "tests" / "wheel_alone.py"
    run(environment / "python", "-I", script, apart=environment)
    run(environment / "pip", "install", "--quiet", "typer", apart=environment)
    run(environment / "elman", "verify", apart=environment)


def with_torch(wheel: Path) -> None:
    """Try a wheel without PyTorch, and then with it."""
    interpreter = Path(sys.executable)
    alone(wheel, interpreter)
    environment = BUILD / "environment" / "bin"
    constraints = f"--constraint={ROOT / 'constraints.txt'}"
    extra = f"{wheel}[torch]"
    tools = ("pytest", "safetensors")  # what the tests import
    run(environment / "pip", "install", "--quiet", constraints, extra, *tools, apart=environment)
    run(environment / "elman", "verify", apart=environment)
    tests = [str(ROOT / "tests" / name) for name in ("test_cells.py", "test_runtime.py")]
    run(environment / "python", "-P", "-m", "pytest", "-q", *tests, apart=environment)


def empty(interpreter: Path) -> Path:
    """Return the programs of a new environment."""
    place = BUILD / "environment"
    shutil.rmtree(place, ignore_errors=True)
    if interpreter == Path(sys.executable):
        venv.create(place, with_pip=True)
    else:
        run(interpreter, "-m", "venv", place)
    return place / "bin"


def run(*words: str | Path, apart: Path | None = None, **variables: str) -> None:
    """Run a command; one that is apart finds no other programs than those in a folder."""
    given = {**os.environ, **variables}
    given["PATH"] = str(apart) if apart else f"{Path(sys.executable).parent}:{given['PATH']}"
    if apart:
        given.pop("PYTHONPATH", None)
    subprocess.run([str(word) for word in words], cwd=ROOT, check=True, env=given)


def size() -> None:
    """Print what is in each wheel, in kilobytes, and refuse what is too large."""
    wheels = sorted(DIST.glob("*.whl"))
    assert wheels, "there is no wheel: make wheel"
    for wheel in wheels:
        parts: dict[str, list[int]] = {}
        for entry in zipfile.ZipFile(wheel).infolist():
            name = Path(entry.filename)
            kind = "core" if name.suffix in (".so", ".pyd") else "/".join(name.parts[:2])
            kind = kind if (name.suffix != ".py" or len(name.parts) > 2) else "elman/*.py"
            stored, plain = parts.setdefault(kind, [0, 0])
            parts[kind] = [stored + entry.compress_size, plain + entry.file_size]
        total = {"wheel": wheel.stat().st_size, "core": parts["core"][1]}
        print(f"\n{wheel.name}\n{'part':<36}{'packed kB':>10}{'kB':>8}")
        for kind, (stored, plain) in sorted(parts.items(), key=lambda part: -part[1][0]):
            print(f"{kind:<36}{stored / 1000:>10.0f}{plain / 1000:>8.0f}")
        for what, most in MOST.items():
            print(f"{what:<36}{total[what] / 1000:>10.0f}{most / 1000:>8.0f} at most")
            assert total[what] <= most, f"the {what} is too large"


def reproducible() -> None:
    """Build twice, and compare the bytes."""
    digests = []
    for folder in ("first", "second"):
        wheel = made(Path(sys.executable), folder)
        wheel = repaired(wheel, wheel.parent / "repaired")
        digests.append(hashlib.sha256(wheel.read_bytes()).hexdigest())
        print(f"{folder:<8}{digests[-1]}")
    assert digests[0] == digests[1], "two builds of one commit differ"


if __name__ == "__main__":
    main()
