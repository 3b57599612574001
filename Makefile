# `make help` lists the targets. Everything is installed into .venv, from the lock file; no service must be running.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
RUFF := core operator gateway worker cli tests examples

FILE = examples/test-workflow.yaml
INPUT = {"email":"user@example.com","age":20}

VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
IMAGE = stepwell:$(VERSION)
IMAGE_PARTS = $(patsubst %:$(lastword $(subst :, ,$(IMAGE))),%,$(IMAGE)) $(lastword $(subst :, ,$(IMAGE)))
IMAGE_PYTHON = 3.13
KUBECTL ?= kubectl
KIND := $(KUBECTL) --context kind-stepwell
KIND_TELLS = { $(KIND) get pods -A -o wide; $(KIND) get events -A --field-selector type=Warning; exit 1; }

# Tests start dozens of processes: each would compile the project anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install run test chaos lint format bench lock wheels image policy dist kind-up kind-down e2e clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(READY) ## Install into .venv (other targets do it by themselves)

$(READY): requirements.lock pyproject.toml
	@echo "Installing into $(VENV) (once)" >&2
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -qq --disable-pip-version-check --no-compile --require-hashes -r requirements.lock
	@$(BIN)/pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

run: $(READY) ## Run the sample (FILE=… INPUT=… for another) and show the tables it leaves
	@$(BIN)/python examples/receiver.py -- $(BIN)/stepwell run $(FILE) -i '$(INPUT)' --tables

# Three processes on two cores: a third of the time is waiting.
test: $(READY) ## Run the tests (ARGS=… goes to pytest)
	@$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

chaos: $(READY) ## Break things at random for five minutes (STEPWELL_CHAOS_SECONDS, STEPWELL_CHAOS_SEED)
	@STEPWELL_CHAOS_SECONDS=$${STEPWELL_CHAOS_SECONDS:-300} $(BIN)/python -m pytest tests/chaos $(ARGS)

lint: $(READY) ## Check style, types and the direction of imports
	$(BIN)/ruff check $(wildcard $(RUFF))
	$(BIN)/ruff format --check $(wildcard $(RUFF))
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY) ## Put the code into its form
	$(BIN)/ruff check --fix $(wildcard $(RUFF))
	$(BIN)/ruff format $(wildcard $(RUFF))

bench: $(READY) ## Measure throughput and latency
	@$(BIN)/python tests/bench/run.py $(ARGS)

LOCK := uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	--no-emit-index-url --quiet

lock: ## Write requirements*.lock anew (needs uv): all, and the parts of it that the image takes
	$(LOCK) --all-extras --upgrade pyproject.toml -o requirements.lock
	$(LOCK) --constraint requirements.lock pyproject.toml -o requirements-runtime.lock
	echo hatchling | $(LOCK) --constraint requirements.lock - -o requirements-build.lock

wheels: ## List the wheels of the image for x86-64 and arm64; fails where one is missing (needs uv)
	@for machine in x86_64 aarch64; do \
		echo "$$machine:" && uv pip install --dry-run --no-deps --require-hashes --only-binary :all: \
			--python-version $(IMAGE_PYTHON) --python-platform $$machine-manylinux_2_28 --target build/wheels-$$machine \
			-r requirements-runtime.lock 2>&1 | sed -n 's/^ + /  /p;/error\|×/{p;q1}' || exit 1; done

image: ## Build the image $(IMAGE) (needs Docker)
	docker build --build-arg PYTHON=$(IMAGE_PYTHON) --build-arg VERSION=$(VERSION) \
		--build-arg REVISION=$(shell git rev-parse HEAD 2>/dev/null) --tag $(IMAGE) .

policy: ## Check the manifests against checkov's rules (needs checkov; .checkov.yaml says what is left out, and why)
	@mkdir -p build
	@for each in production kind kind/samples; do \
		$(KUBECTL) kustomize deploy/overlays/$$each > build/policy.yaml && checkov -f build/policy.yaml || exit 1; done

dist: ## Render build/install.yaml: everything but the databases, with the image $(IMAGE)
	@mkdir -p build/dist
	@printf '%s\n' 'apiVersion: kustomize.config.k8s.io/v1beta1' 'kind: Kustomization' 'resources: [../../deploy/base]' \
		'images: [{name: stepwell, newName: "$(firstword $(IMAGE_PARTS))", newTag: "$(lastword $(IMAGE_PARTS))"}]' \
		> build/dist/kustomization.yaml
	@$(KUBECTL) kustomize build/dist > build/install.yaml
	@echo build/install.yaml

kind-up: ## Make a cluster on this machine with Stepwell and a sample in it (needs Docker, kind and kubectl)
	kind get clusters | grep -qx stepwell || kind create cluster --config kind-config.yaml --wait 120s
# attestations make an index of the image, of which `docker save` leaves parts out and `kind load` misses them
	BUILDX_NO_DEFAULT_ATTESTATIONS=1 $(MAKE) image IMAGE=stepwell:kind
	kind load docker-image --name stepwell stepwell:kind
# the tag is always the same: what runs already is replaced
	$(KIND) -n stepwell-system rollout restart deployment -l app.kubernetes.io/part-of=stepwell
	$(KIND) apply --server-side -k deploy/overlays/kind
	$(KIND) wait --for=condition=Established crd/workflows.stepwell.dev crd/workflowruns.stepwell.dev
	$(KIND) -n stepwell-system rollout status --timeout=300s statefulset/postgres deployment/valkey \
		deployment/stepwell-operator deployment/stepwell-gateway deployment/stepwell-worker || $(KIND_TELLS)
	$(KIND) apply --server-side -k deploy/overlays/kind/samples
	$(KIND) -n stepwell-samples rollout status --timeout=120s deployment/receiver || $(KIND_TELLS)
	$(KIND) -n stepwell-samples wait --for=condition=Ready --timeout=60s workflow/welcome || $(KIND_TELLS)

kind-down: ## Remove that cluster
	kind delete cluster --name stepwell

e2e: $(READY) ## Run the sample in that cluster, through kubectl and through a webhook
	@STEPWELL_E2E=must $(BIN)/python -m pytest tests/e2e $(ARGS)

clean: ## Remove what was made: .venv, caches, build results
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
