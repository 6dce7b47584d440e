"""The page ``report/index.html``: one file that needs no network, made from run folders alone."""

from segsweep.report.page.write import write_page

__all__ = ["write_page"]
