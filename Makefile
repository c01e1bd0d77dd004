PYTHON = python3
PORT = 8000

demo:
	@$(PYTHON) demo/demo.py $(PORT)

demo-clean:
	rm -rf .demo

e2e:
	@$(PYTHON) -m e2e.run

.PHONY: demo demo-clean e2e
