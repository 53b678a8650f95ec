"""A report of one run, or of two compared: what the pages show, as one file to keep, send and print.

`content` makes a `document` of what `api` reads; `html` and `pdf` write the same document. Nothing is measured here.
"""

from asd_core.report.content import CLIPS, build
from asd_core.report.document import Document
from asd_core.report.html import to_html
from asd_core.report.pdf import to_pdf

__all__ = ["CLIPS", "Document", "build", "to_html", "to_pdf"]
