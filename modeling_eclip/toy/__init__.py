"""Generated products with titles, images, catalogs and labels: data for a first try, made without a download.

`toy_catalog(num_offers)` returns the splits as a `datasets.DatasetDict`; `python -m modeling_eclip.toy` writes them as
parquet files. Products come from `products`, their drawings from `drawing` and `pen`, titles and photographs from
`sellers`, the offers from `catalog`, and a page that shows them from `sheet`. The seed decides every offer.
"""

try:
    from .catalog import FEATURES, generate_offers, toy_catalog
    from .sheet import choose_sheet_rows, draw_catalog_sheet
except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] not in ("datasets", "PIL"):
        raise
    raise ImportError(
        'modeling_eclip.toy needs datasets and Pillow: pip install "modeling-eclip[toy]", or ".[toy]" in a clone'
    ) from error

__all__ = ["FEATURES", "choose_sheet_rows", "draw_catalog_sheet", "generate_offers", "toy_catalog"]
