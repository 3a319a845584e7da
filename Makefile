# Everything that is made lands in build/, but for what Go, pip and npm keep in caches of their own, and for what Node
# looks for beside its sources: node_modules, dist and out in clients/node.

VERSION    := $(shell cat VERSION)
PYTHON     ?= $(or $(shell command -v python3.11),python3)
FUZZTIME   ?= 10s
PREFIX     := build
SIDECAR    := $(PREFIX)/dspex-sidecar
VENV       := $(PREFIX)/venv
BENCH_VENV := $(PREFIX)/bench-venv
LINTER     := $(PREFIX)/tools/golangci-lint
KUSTOMIZE  := $(PREFIX)/tools/kustomize
NODE       := clients/node
NODE_READY := $(NODE)/node_modules/.package-lock.json
UV_VERSION := 0.13.9

# The environment keeps bytecode under build/ (scripts/venv.py): there is no need to do without.
unexport PYTHONDONTWRITEBYTECODE PYTHONPATH
export GOLANGCI_LINT_CACHE := $(CURDIR)/$(PREFIX)/cache/golangci-lint
export HYPOTHESIS_STORAGE_DIRECTORY := $(CURDIR)/$(PREFIX)/cache/hypothesis

.DELETE_ON_ERROR:
.SUFFIXES:
.DEFAULT_GOAL := help
.PHONY: help build sidecar setup setup-runtime setup-demo setup-test setup-bench demo run test test-long image-test lint fmt \
        fuzz bench bench-growth bench-state dist dist-test lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: sidecar setup-demo ## See it work with a real, small LM (TEXT='…': your own text; MODEL=openai/…: a provider)
	@DSPEX_DEMO_TEXT="$$TEXT" DSPEX_DEMO_MODEL="$$MODEL" $(VENV)/bin/python examples/demo/demo.py

# Taken as they were typed: a `$` in a text is a `$`.
demo: export override TEXT := $(value TEXT)
demo: export override MODEL := $(value MODEL)

run: sidecar setup-demo ## Run the demo's sidecar in the foreground, to try things by hand
	@exec $(SIDECAR) serve --config examples/demo/dspex.toml

test: setup ## Set up, then run every check and test
	@exec $(VENV)/bin/python scripts/checks.py test

test-long: setup ## The same with the long forms of the tests
	@DSPEX_LONG=1 exec $(VENV)/bin/python scripts/checks.py test

lint: setup ## Run the checks alone
	@exec $(VENV)/bin/python scripts/checks.py lint

fmt: setup ## Format the code, and mend what the linters can mend
	-$(LINTER) run --fix ./...
	$(LINTER) fmt ./...
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	cd $(NODE) && node_modules/.bin/biome check --write .
	$(VENV)/bin/python scripts/reference.py

image-test: dist ## Build the Dockerfiles (as root, with buildah) and run what was built
	@exec $(VENV)/bin/python scripts/image.py $(VENV)/bin/pytest -q --timeout=300 tests/image

fuzz: ## Run each Go fuzz test for FUZZTIME (10s)
	@exec $(PYTHON) scripts/fuzz.py $(FUZZTIME)

bench: setup-bench ## Measure, beside what else one could use (BENCH=--publish: into docs/performance.md)
	@exec $(BENCH_VENV)/bin/python bench/run.py $(BENCH)

bench-growth: setup-bench ## Measure how cost grows with connections, sessions, workers and payload
	@exec $(BENCH_VENV)/bin/python bench/growth.py $(BENCH)

bench-state: setup setup-bench ## Measure what clients, sessions that outlive the sidecar, and a worker's life cost
	@npm --prefix bench/redis ci --silent --ignore-scripts --no-audit --no-fund
	@$(BENCH_VENV)/bin/python bench/clients.py
	@$(VENV)/bin/python bench/sessions.py
	@exec $(VENV)/bin/python bench/life.py

build: sidecar setup-runtime ## Make build/dspex-sidecar and the Python environment build/venv

sidecar:
	@echo "build  $(SIDECAR) $(VERSION)"
	@CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '-X main.version=$(VERSION)' -o $(SIDECAR) ./cmd/dspex-sidecar

setup-runtime:
	@$(PYTHON) scripts/venv.py $(VENV) runtime

setup-demo:
	@$(PYTHON) scripts/venv.py $(VENV) runtime demo

setup-test:
	@$(PYTHON) scripts/venv.py $(VENV) runtime demo sandbox test

setup-bench: build
	@$(PYTHON) scripts/venv.py $(BENCH_VENV) bench

# Downloading and compiling go side by side.
setup: ## Make all that the tests need
	@+$(MAKE) --no-print-directory -s -j 2 setup-test $(LINTER) $(KUSTOMIZE) $(NODE_READY)
	@+$(if $(wildcard cmd/dspex-sidecar),$(MAKE) --no-print-directory sidecar)

# Compiled from source, pinned by tools/go.sum: no download from elsewhere, and no release binary to trust.
# Once, about 170 s of one core; where Go's build cache has it, seconds.
$(LINTER): tools/go.mod tools/go.sum
	@echo "setup  compile golangci-lint (once, a minute or three)"
	@cd tools && go build -trimpath -buildvcs=false -ldflags '-s -w' -o ../$@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint

# Builds what deploy/kubernetes has, for its tests. Once, about a minute of one core.
$(KUSTOMIZE): tools/kustomize/go.mod tools/kustomize/go.sum
	@echo "setup  compile kustomize (once, a minute or so)"
	@cd tools/kustomize && go build -trimpath -buildvcs=false -ldflags '-s -w' -o ../../$@ sigs.k8s.io/kustomize/kustomize/v5

# Not `npm ci`: it wants in the lock file the builds for other systems of a package that this one's registry may not have.
$(NODE_READY): $(NODE)/package.json $(NODE)/package-lock.json
	@node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' 2>/dev/null || \
	    { echo "setup  Node 20 or newer is needed (node and npm on the PATH)"; exit 1; }
	@echo "setup  install what $(NODE)/package-lock.json names"
	@npm --prefix $(NODE) install --no-save --silent --ignore-scripts --no-audit --no-fund
	@touch $@

dist: setup ## Make what is published, in build/dist: wheels, the npm package, Debian packages
	@exec $(VENV)/bin/python scripts/dist.py

dist-test: dist ## Make it a second time elsewhere, and install it into clean environments
	@exec $(VENV)/bin/pytest -q --timeout=600 tests/dist

lock: ## Write requirements/*.txt anew from requirements/*.in (LOCK=--upgrade: newest versions)
	@test -x $(PREFIX)/tools/uv/bin/uv || { $(PYTHON) -m venv $(PREFIX)/tools/uv && \
	    $(PREFIX)/tools/uv/bin/python -m pip install --quiet uv==$(UV_VERSION); }
	@scripts/lock.sh $(CURDIR)/$(PREFIX)/tools/uv/bin/uv $(LOCK)

clean: ## Remove all that was made
	rm -rf $(PREFIX) $(NODE)/node_modules $(NODE)/dist $(NODE)/out
