# make env: .venv with everything; make demo: evaluation, training, leaderboard, small; make site: the leaderboard of results/; make docs: the documentation; make test: the tests; make lint: ruff; make extras: each extra alone; make clients: X-ARES and MTEB; make pythons: the tests on each Python.
PYTHON ?= python3
PYTHONS ?= python3.11 python3.12 python3.13
TESTS ?=
VENV := .venv
RUN := $(VENV)/bin/python
EXTRAS := eval,training,corpus,ray,leaderboards,figures,plot,onnx,openvino,hub,docs,dev
OUT ?= demo

.PHONY: env demo site docs test lint extras clients pythons

env: $(VENV)/.done

$(VENV)/.done: setup.py constraints.txt overrides.txt requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check uv -c constraints.txt
	$(VENV)/bin/uv pip install --quiet --python $(VENV) -e '.[$(EXTRAS)]' -r requirements.txt --compile-bytecode \
		-c constraints.txt --override overrides.txt
	$(RUN) -m eval_tasks fetch
	touch $@

demo: env
	$(RUN) -m eval_tasks demo --out $(OUT)

site: env
	$(RUN) -m leaderboards build results --out site

docs: env
	$(VENV)/bin/mkdocs build --strict --quiet
	@echo docs-site/index.html

test: env
	$(RUN) -m pytest -n 2 --dist loadfile $(TESTS)

lint: env
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

# Each documented installation in an environment of its own, where every module must import.
extras: env
	rm -rf $(VENV)/extras
	for extra in '' plot corpus hub onnx openvino xares mteb eval training leaderboards; do \
		alone=$(VENV)/extras/$${extra:-plain}; with= ; \
		[ "$$extra" != eval ] || with="-r requirements.txt --override overrides.txt"; \
		$(VENV)/bin/uv venv --quiet --python $(RUN) $$alone && \
		$(VENV)/bin/uv pip install --quiet --python $$alone -e ".[$$extra]" $$with -c constraints.txt && \
		$$alone/bin/python tests/import_all.py "$$extra" || exit 1; \
	done

# The tests of clients, in an environment of their own: what they bring makes every training slower.
clients: env
	$(VENV)/bin/uv venv --quiet --clear --python $(RUN) $(VENV)/clients
	$(VENV)/bin/uv pip install --quiet --python $(VENV)/clients -e '.[$(EXTRAS),xares,mteb]' -r requirements.txt \
		-c constraints.txt --override overrides.txt
	$(VENV)/clients/bin/python -m pytest -n 2 --dist loadfile tests/test_xares.py tests/test_mteb.py

# The tests, or TESTS alone, on each of PYTHONS that is installed, in an environment of its own.
pythons:
	tried=0; for python in $(PYTHONS); do \
		$$python --version 2>/dev/null || { echo "$$python is not installed"; continue; }; \
		$(MAKE) test PYTHON=$$python VENV=$(VENV)/pythons/$$(basename $$python) || exit 1; tried=1; \
	done; [ $$tried = 1 ]
