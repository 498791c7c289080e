# Short names for what one does here often.
PYTHON := $(if $(wildcard .venv/bin/python),.venv/bin/python,python3)
SITE := site
export NO_MKDOCS_2_WARNING = 1

.PHONY: docs pages test test-all

docs:  ## the site in site/: all pages, and the reference of the public names from their docstrings
	$(PYTHON) -m mkdocs build --strict --site-dir $(SITE)

pages:  ## write anew what is read from the code
	$(PYTHON) scripts/docs.py
	$(PYTHON) scripts/tuner_pages.py

test:  ## the quick tests; installs first what they need
	bash scripts/test.sh

test-all:  ## and the slow ones
	bash scripts/test.sh --all
