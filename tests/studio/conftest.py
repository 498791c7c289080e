"""A browser for the pages."""

from tests.browser import browser as browser
