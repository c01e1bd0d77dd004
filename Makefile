PYTHON = python3
PORT = 8000

demo:
	@$(PYTHON) demo/demo.py $(PORT)

demo-clean:
	rm -rf .demo

bench:
	@$(PYTHON) -m benchmarks.run $(TOPIC)

e2e:
	@$(PYTHON) -m e2e.run

test: .venv/bin/tox
	.venv/bin/tox run-parallel --parallel 2 --parallel-live

style: .venv/bin/ruff
	.venv/bin/ruff check .

.venv/bin/tox .venv/bin/ruff:
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet tox ruff

.PHONY: bench demo demo-clean e2e test style
