# Every target makes the virtual environment if it is missing and installs again only when the pins change.
SHELL := /bin/bash
VENV ?= .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The user inside the containers owns what it writes into runs/; root on the host becomes the image's own user.
export YT8M_UID := $(shell id -u | sed 's/^0$$/1000/')
COMPOSE := docker compose -f docker-compose.yml $(if $(GPU),-f docker-compose.gpu.yml)

.DEFAULT_GOAL := help
.PHONY: help setup demo test soak lint types format image up down clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-8s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP) ## make .venv and install the pinned packages (a few minutes, 2 GB)

$(STAMP): constraints.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "make: yt8m_ray needs Python 3.11.4 or newer; no python3 was found on the PATH" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11, 4) and "make: yt8m_ray needs Python 3.11.4 or newer; " \
		+ sys.executable + " is " + sys.version.split()[0] + "; choose another with PYTHON=/path/to/python3.11")'
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup ## shards, training, a quantized ensemble, answers over HTTP for real videos: the whole way
	$(BIN)/yt8m demo

# Unit tests share the cores. The others wait for processes to start for much of their time, so that two files of them
# run at once, also on two cores; each of the two processes has clusters of its own.
test: lint types ## lint, types and all tests with small counts (some 17 minutes)
	$(BIN)/python -m pytest tests/unit --numprocesses=auto
	$(BIN)/python -m pytest tests --ignore=tests/unit --numprocesses=2 --dist=loadfile --no-loadscope-reorder

soak: setup ## the full counts of every fault and fuzz test (hours)
	YT8M_SOAK=1 $(BIN)/python -m pytest --timeout=7200

lint: setup ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup ## mypy --strict
	$(BIN)/mypy

format: setup ## rewrite the files as ruff wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

image: ## build the container image that docker-compose.yml runs
	$(COMPOSE) build head

up: secrets/ray_token ## start the containers: a Ray cluster, MLflow and the service (GPU=1: with the GPUs)
	$(COMPOSE) up --build --detach
	@test -e "$${YT8M_MODEL:-runs/bundle}" || echo "There is no bundle at $${YT8M_MODEL:-runs/bundle}: the service" \
		"starts as soon as yt8m export has written one (docker compose logs --follow deploy)"

down: ## stop the containers; runs/ and MLflow's volume stay
	$(COMPOSE) down

secrets/ray_token:
	@mkdir -p secrets runs data
	@umask 077 && head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' > $@
	@chown $(YT8M_UID) $@ runs

clean: ## remove caches and build outputs; .venv and runs/ stay
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis demo_output
	find yt8m_ray jobs serve tests -type d -name __pycache__ -prune -exec rm -rf {} +
