"""Write the generated offers: `python -m modeling_eclip.toy --output outputs/toy_catalog`.

Writes `train.parquet`, `validation.parquet`, `test.parquet`, and `sheet.png`, a page that shows some of them.
"""

import argparse
from pathlib import Path

from .catalog import toy_catalog
from .sheet import choose_sheet_rows, draw_catalog_sheet

_SHEET_ROWS = 45


def main(arguments: list[str] | None = None) -> None:
    """Write the splits as parquet files, and the sheet."""
    parser = argparse.ArgumentParser(description="Write generated offers as parquet files, and a sheet.")
    parser.add_argument("--output", type=Path, default=Path("outputs/toy_catalog"), help="folder to write to")
    parser.add_argument("--num_offers", type=int, default=4000, help="rows in all splits together")
    parser.add_argument("--seed", type=int, default=0, help="decides every row")
    parser.add_argument("--image_size", type=int, default=96, help="side of the images in pixels")
    chosen = parser.parse_args(arguments)
    catalog = toy_catalog(chosen.num_offers, seed=chosen.seed, image_size=chosen.image_size)
    chosen.output.mkdir(parents=True, exist_ok=True)
    for name, split in catalog.items():
        split.to_parquet(chosen.output / f"{name}.parquet")
        print(f"{chosen.output / name}.parquet: {len(split)} offers")
    draw_catalog_sheet(choose_sheet_rows(max(catalog.values(), key=len), _SHEET_ROWS), chosen.output / "sheet.png")
    print(f"{chosen.output / 'sheet.png'}: a page that shows some of them")


if __name__ == "__main__":
    main()
