"""A document as PDF, A4. Fonts are embedded, so that it looks the same everywhere; headings become bookmarks."""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asd_core.report.content import moment
from asd_core.report.document import (
    Block,
    Chart,
    ClipCard,
    Code,
    Document,
    Facts,
    Heading,
    Picture,
    Section,
    Table,
    Text,
)

if TYPE_CHECKING:
    from fpdf import FPDF
    from matplotlib.figure import Figure

MARGIN, WIDTH = 15.0, 180.0  # mm; A4 is 210 wide
INK, SOFT, WARN = (36, 41, 47), (87, 96, 106), (138, 75, 0)
LINE, TINT, WARN_TINT = (208, 215, 222), (243, 245, 248), (255, 244, 224)
DPI = 160
PICTURE = (88.0, 34.0)  # mm
FACES = {"": "DejaVuSans", "B": "DejaVuSans-Bold", "I": "DejaVuSans-Oblique"}


def to_pdf(document: Document) -> bytes:
    pdf = _sheet(document)
    pdf.add_page()
    _style(pdf, 18, "B")
    pdf.multi_cell(WIDTH, 8, document.title, align="L", new_x="LMARGIN", new_y="NEXT")
    pdf.ln(1)
    _style(pdf, 9, "B", WARN if document.kind == "simulated" else INK)
    pdf.write(5, f"{document.kind}  ")
    _style(pdf, 9, "", SOFT)
    pdf.write(5, document.subtitle)
    pdf.ln(8)
    for section in document.sections:
        _section(pdf, section)
    return bytes(pdf.output())


def _sheet(document: Document) -> FPDF:
    import matplotlib
    from fpdf import FPDF

    class Sheet(FPDF):
        def footer(self) -> None:
            self.set_y(-12)
            _style(self, 7, "", SOFT)
            self.cell(WIDTH / 2, 5, f"ASD Studio, {moment(document.made)} · {document.kind} recordings")
            self.cell(WIDTH / 2, 5, f"{self.page_no()} of {{nb}}", align="R")

    pdf = Sheet(format="A4")
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    for style, name in FACES.items():
        pdf.add_font("text", style, folder / f"{name}.ttf")
    pdf.add_font("code", "", folder / "DejaVuSansMono.ttf")
    pdf.set_margin(MARGIN)
    pdf.c_margin = 0  # text begins where lines and pictures do
    pdf.set_auto_page_break(True, 18)
    pdf.set_title(f"{document.title}, {document.subtitle}")
    pdf.set_creator("ASD Studio")
    pdf.set_lang("en")
    pdf.set_creation_date(datetime.fromtimestamp(document.made, UTC))
    pdf.set_draw_color(*LINE)
    return pdf


def _style(pdf: FPDF, size: float, style: Any = "", colour: tuple[int, int, int] = INK, family: str = "text") -> None:
    pdf.set_font(family, style, size)
    pdf.set_text_color(*colour)


def _section(pdf: FPDF, section: Section) -> None:
    if pdf.get_y() > 40 and pdf.will_page_break(12 + _height(section.blocks[:2])):
        pdf.add_page()
    pdf.ln(3)
    _style(pdf, 13, "B")
    pdf.start_section(section.title, level=0)
    pdf.cell(WIDTH, 7, section.title, border="B", new_x="LMARGIN", new_y="NEXT")
    pdf.ln(2)
    for number, block in enumerate(section.blocks):
        following = section.blocks[number + 1] if number + 1 < len(section.blocks) else None
        _block(pdf, block, following)


def _block(pdf: FPDF, block: Block, following: Block | None) -> None:
    match block:
        case Text():
            _text(pdf, block)
        case Heading(text):
            if pdf.will_page_break(6 + _height((following,))):  # a title stays with what it names
                pdf.add_page()
            _style(pdf, 10, "B")
            pdf.start_section(text, level=1)
            pdf.multi_cell(WIDTH, 6, text, new_x="LMARGIN", new_y="NEXT")
        case Facts(rows):
            _facts(pdf, rows)
        case Table():
            _table(pdf, block)
        case Chart(figure, alt):
            pdf.image(_png(figure), x=MARGIN, w=WIDTH, alt_text=alt)
            pdf.ln(2)
        case ClipCard():
            _card(pdf, block)
        case Code(caption, text):
            _style(pdf, 8, "", SOFT)
            pdf.cell(WIDTH, 5, caption, new_x="LMARGIN", new_y="NEXT")
            _style(pdf, 7.5, family="code")
            pdf.multi_cell(WIDTH, 3.6, text, align="L", new_x="LMARGIN", new_y="NEXT")


def _height(blocks: Sequence[Block | None]) -> float:
    """Room in mm without which the beginning of these blocks had better stand on a new page."""
    room = 0.0
    for block in blocks:
        match block:
            case Chart(figure, _):
                wide, high = figure.get_size_inches()
                room += WIDTH * high / wide
            case ClipCard():
                room += 22 + PICTURE[1] * bool(block.pictures)
            case Table():
                room += 12 + 5.6 * min(len(block.rows) + 1, 12)
            case None:
                pass
            case _:
                room += 10
    return room


def _text(pdf: FPDF, block: Text) -> None:
    if block.tone == "warning":
        _style(pdf, 9, "", WARN)
        pdf.set_fill_color(*WARN_TINT)
        pdf.multi_cell(WIDTH, 5, block.text, fill=True, padding=2, align="L", new_x="LMARGIN", new_y="NEXT")
        pdf.set_fill_color(255)
    else:
        _style(pdf, 8 if block.tone else 9, "", SOFT if block.tone else INK)
        pdf.multi_cell(WIDTH, 4.4, block.text, align="L", new_x="LMARGIN", new_y="NEXT")
    pdf.ln(1.5)


def _facts(pdf: FPDF, rows: tuple[tuple[str, str], ...]) -> None:
    _style(pdf, 9)
    with pdf.table(
        borders_layout="NONE",
        first_row_as_headings=False,
        col_widths=(42, 138),
        line_height=4.6,
        padding=0.4,
        v_align="TOP",
        text_align="L",
    ) as table:
        for term, said in rows:
            line = table.row()
            _style(pdf, 9, "", SOFT)
            line.cell(term)
            _style(pdf, 9)
            line.cell(said)
    pdf.ln(2)


def _table(pdf: FPDF, block: Table) -> None:
    from fpdf.fonts import FontFace

    if pdf.will_page_break(_height((block,))):
        pdf.add_page()
    _style(pdf, 9, "B")
    pdf.multi_cell(WIDTH, 5, block.caption, new_x="LMARGIN", new_y="NEXT")
    _style(pdf, 8.5)
    with pdf.table(
        borders_layout="HORIZONTAL_LINES",
        col_widths=_widths(pdf, block),
        headings_style=FontFace(emphasis="BOLD", color=INK),
        line_height=4.6,
        padding=0.5,
        text_align=("LEFT", *["RIGHT"] * (len(block.columns) - 1)),
    ) as table:
        table.row(block.columns)
        for number, row in enumerate(block.rows):
            is_mean = number >= len(block.rows) - block.means
            table.row(row, style=FontFace(emphasis="BOLD", fill_color=TINT) if is_mean else None)
    if block.note:
        _style(pdf, 7.5, "", SOFT)
        pdf.ln(1)
        pdf.multi_cell(WIDTH, 3.8, block.note, align="L", new_x="LMARGIN", new_y="NEXT")
    pdf.ln(3)


def _widths(pdf: FPDF, block: Table) -> tuple[float, ...]:
    """Columns as wide as what is in them; what is left over goes to all alike."""
    _style(pdf, 8.5, "B")
    columns = zip(block.columns, *block.rows, strict=True)
    natural = [max(min(pdf.get_string_width(cell), WIDTH / 3) for cell in column) + 3 for column in columns]
    _style(pdf, 8.5)
    spare = max(0.0, WIDTH - sum(natural)) / len(natural)
    return tuple(width + spare for width in natural)


def _card(pdf: FPDF, card: ClipCard) -> None:
    from fpdf.enums import WrapMode

    if pdf.will_page_break(_height((card,))):
        pdf.add_page()
    _style(pdf, 9, "B")
    pdf.multi_cell(WIDTH, 5, card.name, align="L", wrapmode=WrapMode.CHAR, new_x="LMARGIN", new_y="NEXT")
    _style(pdf, 8)
    for line in card.lines:
        pdf.multi_cell(WIDTH, 4.2, line, align="L", new_x="LMARGIN", new_y="NEXT")
    pdf.ln(1)
    if card.pictures:
        top = pdf.get_y()
        _style(pdf, 7, "", SOFT)
        for number, picture in enumerate(card.pictures):
            left = MARGIN + number * (WIDTH - PICTURE[0])
            pdf.image(_jpeg(picture), x=left, y=top, w=PICTURE[0], h=PICTURE[1], alt_text=picture.alt)
            pdf.set_xy(left, top + PICTURE[1] + 0.5)
            pdf.cell(PICTURE[0], 4, picture.label)
        pdf.set_xy(MARGIN, top + PICTURE[1] + 5)
    pdf.ln(3)


def _png(figure: Figure) -> io.BytesIO:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    buffer.seek(0)
    return buffer


def _jpeg(picture: Picture) -> io.BytesIO:
    buffer = io.BytesIO()
    picture.image.save(buffer, "JPEG", quality=88)
    buffer.seek(0)
    return buffer
