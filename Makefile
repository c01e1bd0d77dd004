PYTHON = python3
PORT = 8000
TOOLS = tox ruff codespell sphinx build twine

demo:
	@exec $(PYTHON) -m demo.run '$(PORT)' '$(AUTHENTICATIONS)'

demo-code:
	@$(PYTHON) -m demo.show_code '$(LOGIN)'

demo-clean:
	rm -rf .demo

bench:
	@$(PYTHON) -m benchmarks.run $(TOPIC)

e2e:
	@$(PYTHON) -m e2e.run

e2e-gtk:
	@$(PYTHON) -m e2e.run_gtk

test: .venv/bin/tox
	.venv/bin/tox run-parallel --parallel 2 --parallel-live

dist: .venv/bin/twine
	@.ci/dist

doc: .venv/bin/sphinx-build
	.venv/bin/sphinx-build --quiet --fail-on-warning --keep-going doc doc/_build

screenshots: e2e
	.e2e/venv/bin/python -m e2e.screenshots

style: .venv/bin/ruff .venv/bin/codespell
	.venv/bin/ruff check .
	.venv/bin/codespell --skip locale,LICENSE,_build,build,dist,*.png
	@$(PYTHON) .ci/words.py

# One run makes them all, also when make runs jobs at the same time
.venv/bin/tox .venv/bin/ruff .venv/bin/codespell .venv/bin/sphinx-build \
		.venv/bin/twine &:
	$(PYTHON) -m venv .venv
	@echo "Installing $(TOOLS)..."
	@.venv/bin/pip install --quiet $(TOOLS) || \
	    { echo "The download failed for the reason above." \
	    "Check the connection to the internet." >&2; exit 1; }

.PHONY: bench demo demo-clean demo-code dist doc e2e e2e-gtk screenshots \
	style test
