"""Generate raw offers with faults: toy products, of which some have bad titles, bad images or are repeated.

Writes `raw.parquet`, and `answers.parquet`, which names the fault of each faulty offer:

    python training/corpus/toy_raw_offers.py --output_dir outputs/toy_raw
"""

import argparse
import io
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from modeling_eclip.toy.catalog import generate_offers

__all__ = ["generate_raw_offers", "write_raw_offers"]

_PROMOTIONS = ("[HOT] {}", "{} - Best Price!!!", "&lt;b&gt;{}&lt;/b&gt;", "★{}★", "Ｎｅｗ {}", "{}   {}")


def generate_raw_offers(num_offers: int = 1000, *, seed: int = 0) -> tuple[list[dict[str, Any]], dict[int, str]]:
    """Generate offers, some of which are not fit for a corpus.

    Args:
        num_offers: Number of offers without the relistings, which are added.
        seed: Seed of all random choices.

    Returns:
        The offers in random order, without catalog ids; and by `offer_id` the fault: `"relisting"`,
        `"mismatched"`, `"placeholder"`, `"broken"`, `"tiny"`, `"thin"`, `"blank"`, `"no_image"` or `"no_title"`.
    """
    dice = random.Random(seed)
    offers = [
        {
            "offer_id": number,
            "title": offer["title"],
            "image": _jpeg(offer["image"]),
            "category": offer["category"],
            "seller": offer["seller"],
        }
        for number, offer in enumerate(generate_offers(num_offers, seed=seed))
    ]
    wrong: dict[int, str] = {}
    nothing = _jpeg(_no_photo())
    kinds = ["mismatched", "placeholder", "broken", "tiny", "thin", "blank", "no_image", "no_title"]
    shares = [50, 20, 5, 5, 5, 5, 5, 5]  # of a thousand
    places = dice.sample(range(num_offers), num_offers * sum(shares) // 1000)
    for kind, share in zip(kinds, shares, strict=True):
        for place in [places.pop() for _ in range(num_offers * share // 1000)]:
            wrong[place] = kind
            _spoil(offers[place], kind, offers, nothing, dice)
    for offer in dice.sample(offers, num_offers // 5):
        if wrong.get(offer["offer_id"]) != "no_title":
            offer["title"] = dice.choice(_PROMOTIONS).format(*[offer["title"]] * 2)
    unspoilt = [offer for offer in offers if offer["offer_id"] not in wrong]
    for number, offer in enumerate(dice.sample(unspoilt, num_offers // 25), start=num_offers):
        offers.append(offer | {"offer_id": number})
        wrong[number] = "relisting"
    dice.shuffle(offers)
    return offers, wrong


def write_raw_offers(folder: Path, num_offers: int = 1000, *, seed: int = 0) -> None:
    """Write `raw.parquet` and `answers.parquet`.

    Args:
        folder: Folder of the files.
        num_offers: As for `generate_raw_offers`.
        seed: As for `generate_raw_offers`.
    """
    offers, wrong = generate_raw_offers(num_offers, seed=seed)
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(offers), folder / "raw.parquet", row_group_size=200)
    answers = pa.table({"offer_id": list(wrong), "wrong": list(wrong.values())})
    pq.write_table(answers, folder / "answers.parquet")


def _spoil(
    offer: dict[str, Any], kind: str, offers: list[dict[str, Any]], nothing: bytes, dice: random.Random
) -> None:
    if kind == "mismatched":
        others = [other for other in offers if other["category"] != offer["category"]]
        offer["title"] = dice.choice(others)["title"]
    elif kind == "placeholder":
        offer["image"] = nothing
    elif kind == "broken":
        offer["image"] = offer["image"][: len(offer["image"]) // 3]
    elif kind == "tiny":
        offer["image"] = _jpeg(_open(offer["image"]).resize((16, 16)))
    elif kind == "thin":
        offer["image"] = _jpeg(_open(offer["image"]).resize((320, 40)))
    elif kind == "blank":
        offer["image"] = _jpeg(Image.new("RGB", (96, 96), (dice.randrange(256),) * 3))
    elif kind == "no_image":
        offer["image"] = None
    else:
        offer["title"] = dice.choice(["", "   ", "[HOT]", "★★★"])


def _no_photo() -> Image.Image:
    """Draw the placeholder that a shop shows for a missing photograph."""
    image = Image.new("RGB", (96, 96), (235, 235, 235))
    image.paste((190, 190, 190), (24, 34, 72, 66))
    image.paste((235, 235, 235), (40, 42, 56, 58))
    return image


def _open(image: bytes) -> Image.Image:
    return Image.open(io.BytesIO(image))


def _jpeg(image: Any) -> bytes:
    if isinstance(image, dict):
        return bytes(image["bytes"])
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def main() -> None:
    """Write the offers of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/toy_raw"))
    parser.add_argument("--offers", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    write_raw_offers(given.output_dir, given.offers, seed=given.seed)


if __name__ == "__main__":
    main()
