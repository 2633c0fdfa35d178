"""Images of products with what a model found for them, written as PNG files.

`draw_neighbours` shows titles with their nearest images and marks the right ones; `draw_found` shows questions to a
search with their answers. Titles of any script are drawn as far as an installed font has their characters (`fonts`).
Importing this changes neither matplotlib's backend nor its settings.
"""

try:
    from .products import draw_found, draw_neighbours
except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] not in ("matplotlib", "PIL"):
        raise
    raise ImportError(
        'modeling_eclip.plots needs matplotlib: pip install "modeling-eclip[plots]", or ".[plots]" in a clone'
    ) from error

__all__ = ["draw_found", "draw_neighbours"]
