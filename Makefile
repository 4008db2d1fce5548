# The two commands:  make book   make test
# In an existing environment:  make test PYTHON=python    For a CPU-only PyTorch:  make test TORCH=torch==2.13.0
# TORCH is any pip requirement, options included, e.g. TORCH="torch --index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= .venv/bin/python
TORCH ?= torch
BASE ?= python3

ifeq ($(PYTHON),.venv/bin/python)
NEW = .venv/bin/python
endif

# Like the chapters, the page's build ends when its make is killed: it must not write into the next one's _build.
# `exec`, so that make, and no shell, is its parent.
JUPYTER_BOOK = exec $(PYTHON) -c "import sys; sys.path.insert(0, 'book'); import execute; execute.stop_with_parent(); \
	from jupyter_book.cli.main import main; main()"

.PHONY: book test notebooks references benchmarks clean
.DEFAULT_GOAL := book

.venv/bin/python:
	$(BASE) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed, this is ' + sys.version)"
	$(BASE) -m venv .venv

# Installed again whenever the requirements change; PyTorch first, so that TORCH decides which build is taken.
STAMP = $(if $(NEW),.venv/.installed,build/.installed)
$(STAMP): pyproject.toml | $(NEW)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --editable ".[book,test,dev]"
	@mkdir -p $(@D) && touch $@

notebooks: $(STAMP)      ## pair every chapter's .md with the .ipynb that Colab opens
	$(PYTHON) book/pair.py

# Finished chapters are kept in build/chapters, so that an interrupted or failed build goes on where it was.
book: $(STAMP)           ## run the chapters on the embedded shapes and build the page: _build/html/index.html
	$(PYTHON) book/pair.py
	rm -rf _build
	$(PYTHON) book/execute.py
	$(JUPYTER_BOOK) build book -W -n --keep-going
	@echo "The book is at _build/html/index.html"

# Tests are many small computations: a second thread only waits for the first, so each core gets a process. Those of the
# chapters share a wheel and those of the page a browser: each of these groups stays in one process.
test: $(STAMP)           ## everything: style, types, library, chapters, the built page
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy dnet_lib data_prep
	$(PYTHON) -m mypy --strict book/execute.py
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n auto --dist loadgroup --benchmark-disable

references: $(STAMP)     ## execute the chapters at smoke scale anew and store what nbval and the key numbers compare with
	OMP_NUM_THREADS=1 $(PYTHON) tests/chapters/make_references.py

benchmarks: $(STAMP)     ## measure, ratios first; KEEP=--keep writes the book's table
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --editable ".[benchmarks]"
	$(PYTHON) -m pytest tests/benchmarks --benchmark-only $(KEEP)

clean:
	rm -rf .venv build dist _build *.egg-info
