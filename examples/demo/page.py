"""What the demo shows, as HTML: cards of products, bars of probabilities, notices. Text is escaped."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any
from urllib.parse import quote

__all__ = ["CSS", "bars", "cards", "notice", "section"]

_TITLE_LENGTH = 120

CSS = """
.gradio-container { width: 100% !important; max-width: 1100px !important; margin: 0 auto !important; }
@media (max-width: 480px) { .gradio-container > main { padding: 12px 8px !important; } }
.section, .notice { margin: 0; }
.section ul.grid { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 12px;
                   list-style: none; margin: 0; padding: 0; }
@media (min-width: 480px) { .section ul.grid { grid-template-columns: repeat(3, minmax(0, 1fr)); } }
@media (min-width: 840px) { .section ul.grid { grid-template-columns: repeat(6, minmax(0, 1fr)); } }
.card a { color: inherit; text-decoration: none; display: flex; flex-direction: column; height: 100%; }
.card { border: 1px solid var(--border-color-primary); border-radius: 8px; overflow: hidden; margin: 0;
        background: var(--background-fill-primary); display: flex; flex-direction: column; min-width: 0; }
.card img, .card .no-image { width: 100%; aspect-ratio: 1; object-fit: contain; background: #fff; display: block; }
.card .no-image { display: grid; place-items: center; color: #5b6472; }
.card .words { padding: 8px; overflow-wrap: anywhere; font-size: 14px; line-height: 1.35; }
.card .facts { opacity: .75; font-size: 12px; margin-top: 4px; }
.section h3 { margin: 16px 0 8px; font-size: 16px; }
.section p { margin: 4px 0 8px; }
.bars { width: 100%; border-collapse: collapse; table-layout: fixed; font-size: 14px; margin: 0 !important; }
.bars, .bars tr, .bars tbody { border: 0 !important; }
.bars th, .bars td { border: 0 !important; padding: 3px 0 !important; text-align: left;
                     font-weight: normal; vertical-align: middle; }
.bars th { width: 46%; overflow-wrap: anywhere; padding-right: 8px; }
.bars td.number { width: 60px; text-align: right; font-variant-numeric: tabular-nums; }
.bar { height: 10px; border-radius: 5px; background: var(--border-color-primary); overflow: hidden; }
.bar span { display: block; height: 100%; background: var(--primary-500); }
.notice { border-left: 4px solid #c2410c; background: #fff7ed; color: #7c2d12; padding: 10px 12px; border-radius: 4px;
          overflow-wrap: anywhere; }
.attributes { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(260px, 100%), 1fr)); gap: 4px 28px; }
button:focus-visible, input:focus-visible, textarea:focus-visible, a:focus-visible, [role=tab]:focus-visible {
  outline: 3px solid #1d4ed8 !important; outline-offset: 2px; }
"""


def notice(message: str) -> str:
    """Tell something in words; screen readers say it at once."""
    return f'<div class="notice" role="alert">{escape(message)}</div>'


def section(heading: str, content: str, remark: str = "") -> str:
    """Put content, which is HTML, under a heading."""
    remark = f"<p>{escape(remark)}</p>" if remark else ""
    return f'<div class="section"><h3>{escape(heading)}</h3>{remark}{content}</div>'


def cards(products: Iterable[Mapping[str, Any]]) -> str:
    """Show products as a grid of images, 2, 3 or 6 side by side; each leads to what the tasks say of it."""
    shown = "".join(_card(product) for product in products)
    return f'<ul class="grid">{shown}</ul>'


def bars(answers: Iterable[tuple[str, float]], caption: str) -> str:
    """Show probabilities as bars, in a table."""
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        f'<td><div class="bar"><span style="width:{100 * probability:.1f}%"></span></div></td>'
        f'<td class="number">{100 * probability:.1f}%</td></tr>'
        for name, probability in answers
    )
    return f'<table class="bars" aria-label="{escape(caption)}"><tbody>{rows}</tbody></table>'


def _card(product: Mapping[str, Any]) -> str:
    title = product["title"] or "(no title)"
    short = title if len(title) <= _TITLE_LENGTH else title[: _TITLE_LENGTH - 1] + "…"
    if product["thumbnail"]:
        data = base64.b64encode(product["thumbnail"]).decode()
        image = f'<img src="data:image/jpeg;base64,{data}" alt="{escape(short)}">'
    else:
        image = '<div class="no-image">no image</div>'
    facts = [escape(fact) for fact in (product["category"], product["colour"]) if fact]
    if "similarity" in product:
        facts.append(f"similarity {product['similarity']:.2f}")
    return (
        f'<li class="card"><a href="?product={quote(product["id"], safe="")}">{image}'
        f'<div class="words">{escape(short)}<div class="facts">{"<br>".join(facts)}</div></div></a></li>'
    )
