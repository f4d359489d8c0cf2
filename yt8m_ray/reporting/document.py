"""Writes a report as report.html, with its pictures inside, and as report.md."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from yt8m_ray.local_files import replace_file

# Inside the page, as the pictures are: report.html is one file that can be sent on.
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #202124; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
p { color: #5f6368; } img { max-width: 100%; }
table { border-collapse: collapse; font-size: 0.9rem; }
th, td { text-align: left; vertical-align: top; padding: 0.25rem 0.9rem 0.25rem 0; border-bottom: 1px solid #e3e5e8; }
td { overflow-wrap: break-word; }
.wide { width: min(88rem, 94vw); margin-left: calc(50% - min(44rem, 47vw)); }
"""


@dataclass(frozen=True)
class Section:
    """A heading over one paragraph, a table, a picture, or several of them."""

    title: str
    text: str = ""
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    # A file beside the report.
    picture: str = ""
    # Whether the table or the picture needs more room than a text.
    is_wide: bool = False


def write_document(folder: Path, title: str, sections: Sequence[Section]) -> Path:
    """Writes both files beside their pictures, and returns the path of report.html."""
    markdown, document = _to_markdown(title, sections), _to_html(title, sections, folder)
    replace_file(folder / "report.md", lambda aside: aside.write_text(markdown, encoding="utf-8"))
    replace_file(folder / "report.html", lambda aside: aside.write_text(document, encoding="utf-8"))
    return folder / "report.html"


def _to_markdown(title: str, sections: Sequence[Section]) -> str:
    parts = [f"# {title}"]
    for section in sections:
        parts.append(f"## {section.title}")
        if section.text:
            parts.append(section.text)
        if section.rows:
            parts.append("\n".join(map(_markdown_row, [section.header, ["---"] * len(section.header), *section.rows])))
        if section.picture:
            parts.append(f"![{section.title}]({section.picture})")
    return "\n\n".join(parts) + "\n"


def _markdown_row(cells: Sequence[str]) -> str:
    escaped = (cell.replace("|", "\\|").replace("\n", " ") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def _to_html(title: str, sections: Sequence[Section], folder: Path) -> str:
    parts = [
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body><h1>{html.escape(title)}</h1>"
    ]
    for section in sections:
        parts.append(f"<h2>{html.escape(section.title)}</h2>")
        if section.text:
            parts.append(f"<p>{html.escape(section.text)}</p>")
        if section.is_wide:
            parts.append('<div class="wide">')
        if section.rows:
            parts.append(f"<table><tr>{_cells(section.header, 'th')}</tr>")
            parts += [f"<tr>{_cells(row, 'td')}</tr>" for row in section.rows]
            parts.append("</table>")
        if section.picture:
            content = base64.b64encode((folder / section.picture).read_bytes()).decode()
            parts.append(f'<img alt="{html.escape(section.title)}" src="data:image/png;base64,{content}">')
        if section.is_wide:
            parts.append("</div>")
    return "\n".join([*parts, "</body></html>"]) + "\n"


def _cells(texts: Sequence[str], tag: str) -> str:
    return "".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in texts)
