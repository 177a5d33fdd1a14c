# Everything installs itself into .venv; PYTHON picks the interpreter (3.11 to 3.13).
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PROMPT ?= a large red ball bounces on green grass
OUT ?= out.mp4
# Most of a test is compiling, on one core: two tests at a time, a file's tests together while others wait.
PYTEST = $(BIN)/python -m pytest -n 2 --dist worksteal

.PHONY: video test parity tpu app notebooks docs lint clean

video: $(VENV)/.user  ## a video from PROMPT, written to OUT, and eight of its frames beside it
	$(BIN)/python -m wan_jax generate --prompt "$(PROMPT)" --out "$(OUT)" --sheet "$(basename $(OUT)).png"

test: $(VENV)/.test  ## what needs no PyTorch
	$(PYTEST) --ignore tests/parity

parity: $(VENV)/.parity  ## the comparisons with PyTorch and Diffusers
	$(PYTEST) tests/parity

tpu: $(VENV)/.tpu  ## what needs the TPU compiler, but no TPU
	$(BIN)/python -m pytest -m libtpu

app: $(VENV)/.app  ## what needs a browser: the Explorer
	$(BIN)/python -m pytest -m browser -s

notebooks: $(VENV)-notebooks/.notebooks  ## runs them from top to bottom; NOTEBOOKS names some, LIMIT is the seconds of each
	$(VENV)-notebooks/bin/python notebooks/build.py $(if $(LIMIT),--limit $(LIMIT)) $(NOTEBOOKS)

docs: $(VENV)-docs/.docs  ## a site of README, docs/ and docstrings, in build/site; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(VENV)-docs/bin/mkdocs build --quiet --strict

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) $(VENV)-notebooks $(VENV)-docs

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.user: requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $@

$(VENV)/.test: requirements-test.txt requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -r requirements-test.txt
	touch $@ $(VENV)/.user

$(VENV)/.parity: requirements-parity.txt requirements-test.txt requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -r requirements-parity.txt
	touch $@ $(VENV)/.test $(VENV)/.user

$(VENV)/.tpu: requirements-tpu.txt requirements-test.txt requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -r requirements-tpu.txt
	touch $@ $(VENV)/.test $(VENV)/.user

$(VENV)/.app: requirements-app.txt requirements-test.txt requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -r requirements-app.txt
	command -v chromium > /dev/null || { apt-get update -qq && apt-get install -qq --no-install-recommends chromium; }
	touch $@ $(VENV)/.test $(VENV)/.user

# An environment of its own, as a reader has it.
$(VENV)-notebooks/.notebooks: requirements-notebooks.txt requirements.txt
	$(PYTHON) -m venv $(VENV)-notebooks
	$(VENV)-notebooks/bin/python -m pip install --quiet -r requirements-notebooks.txt
	touch $@

$(VENV)-docs/.docs: requirements-docs.txt
	$(PYTHON) -m venv $(VENV)-docs
	$(VENV)-docs/bin/python -m pip install --quiet -r requirements-docs.txt
	touch $@
