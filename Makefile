# Everything installs itself into .venv; PYTHON picks the interpreter (3.11 to 3.13).
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PROMPT ?= a large red ball bounces on green grass
OUT ?= out.mp4
# Most of a test is compiling, on one core: two tests at a time, a file's tests together while others wait.
PYTEST = $(BIN)/python -m pytest -n 2 --dist worksteal

.PHONY: video test parity tpu app lint clean

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

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV)

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
