"""A document as one HTML file that asks nothing of the network: no script, styles and images inside."""

from __future__ import annotations

import io
import re
from base64 import b64encode
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from asd_core.report.charts import INK
from asd_core.report.content import moment
from asd_core.report.document import Document

if TYPE_CHECKING:
    from jinja2 import Template
    from matplotlib.figure import Figure
    from PIL.Image import Image

TEMPLATE = Path(__file__).with_name("report.html.j2")
SCHEMES = "<style>svg{color:#24292f}@media(prefers-color-scheme:dark){svg{color:#e6e9ee}}</style>"


def to_html(document: Document) -> str:
    return _template().render(document=document, made=moment(document.made), svg=svg_address, webp=webp_address)


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["kind"] = lambda block: type(block).__name__
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))


def svg_address(figure: Figure) -> str:
    """A data address of the figure; its text and axes take the reader's light or dark colours."""
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    drawn = re.sub(r"<metadata>.*?</metadata>", "", buffer.getvalue(), flags=re.DOTALL)
    drawn = drawn[drawn.index("<svg") :].replace(INK, "currentColor")
    drawn = re.sub(r"(<svg[^>]*>)", lambda found: found[1] + SCHEMES, drawn, count=1)
    return "data:image/svg+xml;base64," + b64encode(re.sub(r"\n\s*", "\n", drawn).encode()).decode()


def webp_address(image: Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=85, method=4)
    return "data:image/webp;base64," + b64encode(buffer.getvalue()).decode()
