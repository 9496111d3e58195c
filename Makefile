# Two commands do all: `make demo` and `make test`. Both set up .venv themselves and are quick when it is up to date.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test test-slow test-all test-browser test-data test-onnx test-portable docs page notebooks lint types format clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Pixelloom needs Python 3.11 or newer; set PYTHON=python3.11 (or later)") if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,docs]'
	@touch $@

demo: setup
	$(BIN)/pixelloom train digits --minutes 1 --out runs/digits --force
	$(BIN)/pixelloom evaluate runs/digits --data digits --split test
	$(BIN)/pixelloom sample runs/digits -n 25 --seed 0 --out runs/digits/grid.png --force
	@echo "Look at runs/digits/grid.png (drawn by your model) and runs/digits/curves.png"

# All that guards correctness. PROFILE=many runs more examples of each property.
PROFILE ?= few

test: setup
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not gpu and not slow and not browser and not data" --hypothesis-profile=$(PROFILE)

# Smoke tests of benchmarks, and what training runs attain.
test-slow: setup
	$(BIN)/python -m pytest -n auto --dist worksteal -m "slow and not gpu and not browser and not data"

test-all: test test-slow

# Pretrained models on the published test images, which are found by PIXELLOOM_DATA.
test-data: setup
	$(BIN)/python -m pytest -m "data and not slow"

# Models as ONNX, in ONNX Runtime.
test-onnx: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[onnx]'
	$(BIN)/python -m pytest -m browser tests/test_onnx.py

# What needs the extras for pages and ONNX, and Chromium (`chromium` in PATH, or CHROMIUM=/path/to/it).
test-browser: page
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[studio,browser,onnx,trackio,bench]'
	$(BIN)/python -m pytest -m browser

# The tenth of the tests whose results depend most on arithmetic (a head, the samplers, the engine with its resumed runs,
# the losses of GANs, layers that iterate or normalize, the tutorials' networks), as a processor without AVX and without
# bf16 would run them: other vector widths sum in another order, so whatever hangs on a last bit shows here. What only
# moves data or words is left out, and so are the other networks, which `make test` holds to the same checks.
PORTABLE := logistic_mixture sampling engine engine_parts adversarial spectral_norm self_attention tutorials

test-portable: setup
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 $(BIN)/python -m pytest -n auto --dist worksteal \
		--without-bf16 $(PORTABLE:%=tests/test_%.py)

# The site, into /site; a broken link, a page that the navigation lacks and any warning stop it.
docs: setup
	$(BIN)/python docs/build.py

# What the page docs/browser needs, in docs/browser/vendor: ONNX Runtime for browsers (the version of package-lock.json, by
# npm), the packaged model, and the model as ONNX. `make docs` after it puts the page into the site.
PAGE := docs/browser
RUNTIME := ort.wasm.bundle.min.mjs ort-wasm-simd-threaded.wasm

page: setup
	mkdir -p build/page $(PAGE)/vendor
	cp $(PAGE)/package.json $(PAGE)/package-lock.json build/page
	npm ci --prefix build/page --ignore-scripts --no-audit --no-fund --silent
	cp $(RUNTIME:%=build/page/node_modules/onnxruntime-web/dist/%) $(PAGE)/vendor
	cp src/pixelloom/models/pretrained/binarized-mnist/model.safetensors $(PAGE)/vendor/binarized-mnist.safetensors
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[onnx]'
	$(BIN)/pixelloom export binarized-mnist --onnx $(PAGE)/vendor/binarized-mnist.onnx --force

# The notebooks of examples/notebooks are kept as Python files; here they are converted and executed.
NOTEBOOKS := $(wildcard examples/notebooks/*.py)

notebooks: setup
	$(BIN)/jupytext --quiet --to ipynb $(NOTEBOOKS)
	cd examples/notebooks && for book in *.ipynb; do echo "$$book"; ../../$(BIN)/jupyter execute --timeout=600 "$$book" || exit 1; done

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: setup
	$(BIN)/mypy

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build site src/*.egg-info
