# make book | tables | html | select | evaluate | study | test | pages | lint | bench | full-size | test-faults | test-slurm | clean | help
#    PROFILE=name or path/to/profile.yaml
PROFILE ?= default
PYTHON ?= python3
DEVICE ?= cpu
# for snakemake, such as --profile profiles/slurm
FLAGS ?=
# of the smoke book by make test-faults
KILLS ?= 50
# of make evaluate, such as "seeds splits", or of a study
ITEMS ?=
# of a study; without one, make study lists them
NAME ?=

# As it was typed, and to the recipes through the environment: neither make nor a shell reads what is in it. FLAGS and
# ITEMS are split at spaces, no more (set -f).
override PROFILE := $(value PROFILE)
override DEVICE := $(value DEVICE)
override FLAGS := $(value FLAGS)
override KILLS := $(value KILLS)
override ITEMS := $(value ITEMS)
override NAME := $(value NAME)
export PROFILE DEVICE FLAGS KILLS ITEMS NAME

PY := .venv/bin/python
OPINION_SAE := $(PY) -m opinion_sae
READY := .venv/.ready

.PHONY: help book tables html select evaluate study test pages lint bench full-size test-faults test-slurm clean

help:
	@echo "make book                 run every notebook and build the book: _build/html/index.html"
	@echo "make book PROFILE=smoke   another profile of profiles/, or your own: PROFILE=my.yaml;"
	@echo "                          the book is _build/<name>/html/index.html"
	@echo "make tables               of the same only what alignment.csv, claims.csv and gaps.csv need, no book"
	@echo "make html                 the pages of the book as it is committed, without running anything"
	@echo "make select               compare layers, strengths and beta on validation: results/<name>/selection.csv;"
	@echo "                          takes the texts of an earlier make book, and goes on where it was stopped"
	@echo "make evaluate             after make book: five seeds, other splits, a learning curve, persona prompts, LoRA,"
	@echo "                          hours; goes on where it was stopped: results/<name>/evaluate*.csv;"
	@echo "                          ITEMS=\"seeds splits\": only some (seeds splits learning prompts lora)"
	@echo "make study                what the book shows but does not rerun: what there is, and how long each takes;"
	@echo "                          NAME=architectures runs one after make book, and goes on where it was stopped"
	@echo "make test                 lint, unit tests, a smoke book, and its chapters run once more"
	@echo "make pages                the published book, looked at in a browser"
	@echo "make lint                 form and types: ruff, basedpyright"
	@echo "make bench                our speed beside other libraries', with the machine to itself, 12 minutes:"
	@echo "                          benchmarks/*.json, *.csv; DEVICE=cuda for a GPU"
	@echo "make full-size            time and memory of Gemma 2 2B's shape with random weights: benchmarks/full_size.json"
	@echo "make test-faults          kills of the smoke book at random moments (KILLS=50), full disks, no network:"
	@echo "                          benchmarks/faults.json"
	@echo "make test-slurm           the smoke book and a sweep as jobs of a Slurm on this machine, half an hour; as root,"
	@echo "                          with slurm-wlm and munge installed: benchmarks/slurm.json"
	@echo "make clean                remove everything that a run made, except published results"
	@echo "The first of them makes .venv (PYTHON=$(PYTHON), 3.11 or newer; about 2.1 GB)."

book: $(READY)
	set -f; $(OPINION_SAE) book -- "$$PROFILE" $$FLAGS

tables: $(READY)
	set -f; $(OPINION_SAE) book --tables -- "$$PROFILE" $$FLAGS

html: $(READY)
	$(OPINION_SAE) html

select: $(READY)
	$(OPINION_SAE) select -- "$$PROFILE"

# Uses what the book of the profile left; then make book again, to have its rows in the chapters.
evaluate: $(READY)
	set -f; $(OPINION_SAE) evaluate -- "$$PROFILE" $$ITEMS

study: $(READY)
	set -f; $(OPINION_SAE) study $${NAME:+"$$NAME" -- "$$PROFILE" $$ITEMS}

# The published book in a browser.
pages: html
	HTML=_build/html $(PY) -m pytest tests/book/test_pages.py

# A baseline longer than what is found is no failure, and lint writes nothing: `basedpyright` alone updates it.
lint: $(READY)
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/basedpyright --baselinemode=discard

# The smoke book first: nbval runs its chapters again, which writes the same files anew (hence
# --touch, so that the next run does not take them for changed).
test: lint
	$(OPINION_SAE) book smoke
	$(PY) -m pytest -m alone tests
	$(PY) -m pytest -m "not alone" -n logical --maxprocesses 8 --dist loadfile --nbval tests _build/smoke/book/chapters
	@$(OPINION_SAE) book -- smoke --touch >/dev/null 2>&1

# The peers are installed for this only, and not with what they ask for: dictionary-learning's
# own dependencies bring a torchvision for another torch, with which transformers does not load.
bench: $(READY)
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[bench]"
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps -r benchmarks/peers.txt
	$(OPINION_SAE) bench -- "$$DEVICE"

full-size: $(READY)
	$(OPINION_SAE) bench full-size

# Half an hour on two cores that have nothing else to do; the fewer kills, the sooner.
test-faults: $(READY)
	$(PY) tools/faults.py --kills "$$KILLS"

# The plugin for this only: without a cluster nothing needs it.
test-slurm: $(READY)
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[slurm]"
	$(PY) tools/slurm.py

clean:
	[ ! -x $(PY) ] || $(OPINION_SAE) clean
	rm -rf .snakemake .pytest_cache .hypothesis

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --disable-pip-version-check -c constraints.txt -e ".[all]"
	touch $@
