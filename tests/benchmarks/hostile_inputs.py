"""Mutated images and titles, with small files that cost much to decode among them: what the dearest costs.

    python tests/benchmarks/hostile_inputs.py --number 10000

An image is loaded as training loads it or as `load_product_image` does, a title is prepared or made into tokens. Each
must be taken, or refused with a reason, within 2 seconds of processor time and 400 MB of memory above what the process
held before; the script ends with status 1 where one is not, and keeps it in `--keep`. A process takes 400 inputs, one
after the other, and then there is a new one.
"""

import argparse
import multiprocessing
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from hostile_seeds import Content, images, mutated, titles

MOST_SECONDS, MOST_MB = 2.0, 400.0
HANGS_AFTER = 120  # seconds of the clock, beside whatever else is at work
AT_ONCE = 400
WHITE_AND_BLACK = b"P1 64 64 " + b"01" * 2048  # an image that any title may have


@dataclass(frozen=True)
class Cost:
    """What one input cost, and what became of it."""

    name: str
    size: int
    seconds: float
    mb: float
    outcome: str


@cache
def processor() -> object:
    """Return the processor of a small model."""
    from transformers import ViTImageProcessorPil

    from modeling_eclip import EClipProcessor
    from modeling_eclip.fitting.tokenizer import train_title_tokenizer

    tokenizer = train_title_tokenizer(["a red mug"], vocab_size=300)
    return EClipProcessor(ViTImageProcessorPil(), tokenizer, max_title_length=16)


def use(content: bytes | str, is_for_training: bool) -> str:
    """Load an image, prepare a title or make tokens of it; say what became of it."""
    from modeling_eclip import ProductImageError, load_product_image
    from modeling_eclip.inference.jpeg import load_product_pixels
    from training.arguments.prepare import ImageLimits
    from training.corpus.offer_facts import RawOffer, describe_offers
    from training.corpus.title_rules import load_title_rules

    if isinstance(content, str):
        if is_for_training:
            rules = load_title_rules("training/configs/title_rules.yaml")
            whole = content.encode("utf-8", "replace").decode()  # as tables are read
            offer = RawOffer(whole, WHITE_AND_BLACK, None, {}, -1, None)
            return str(describe_offers([offer], rules, ImageLimits())[0]["reason"])
        try:
            return "tokens" if processor()(text=content)["input_ids"] else "LOST: no token"
        except ValueError as error:
            return "halves of characters" if "half of a surrogate" in str(error) else f"LOST: {error}"
    try:
        (load_product_pixels if is_for_training else load_product_image)(content)
    except ProductImageError as error:
        return error.reason
    return "loaded"


def memory_mb(field: str) -> float:
    """Return a field of the process's memory."""
    return int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0]) / 1024


def cost(entry: tuple[str, bytes | str, bool]) -> Cost:
    """Measure what an input costs."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, began = memory_mb("VmRSS"), time.process_time()
    try:
        outcome = use(*entry[1:])
    except BaseException as error:
        outcome = f"LOST: {type(error).__name__} {str(error)[:100]}"
    return Cost(entry[0], len(entry[1]), time.process_time() - began, memory_mb("VmHWM") - before, outcome)


def as_bytes(content: bytes | str) -> bytes:
    """Return an input as it is kept."""
    return content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")


def inputs(base: list[Content], number: int, dice: np.random.Generator) -> Iterator[tuple[str, bytes | str, bool]]:
    """Yield contents as they are, in both ways, and then mutated ones."""
    yield from ((*entry, is_for_training) for entry in base for is_for_training in (False, True))
    for _ in range(number - 2 * len(base)):
        name, content = base[dice.integers(len(base))]
        yield f"{name}, mutated", mutated(content, dice), bool(dice.integers(2))


def examine(base: list[Content], number: int, dice: np.random.Generator, keep: Path) -> bool:
    """Measure all inputs of a kind, print what was found, and return whether all cost little and none is lost."""
    outcomes: Counter[str] = Counter()
    dearest = {"seconds": Cost("", 0, 0.0, 0.0, ""), "mb": Cost("", 0, 0.0, 0.0, "")}
    bad: list[Cost] = []
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=AT_ONCE) as pool:
        for place, entry in enumerate(inputs(base, number, dice)):
            try:
                found = pool.apply_async(cost, (entry,)).get(HANGS_AFTER)
            except multiprocessing.TimeoutError:
                (keep / "hangs").write_bytes(as_bytes(entry[1]))
                sys.exit(f"{entry[0]}: no answer after {HANGS_AFTER} s, or its process died; it is in {keep}")
            outcomes[found.outcome] += 1
            for name in dearest:
                dearest[name] = max(dearest[name], found, key=lambda one: getattr(one, name))
            if found.seconds > MOST_SECONDS or found.mb > MOST_MB or found.outcome.startswith("LOST"):
                bad.append(found)
                (keep / f"bad-{place}").write_bytes(as_bytes(entry[1]))
                print("BAD", found, flush=True)
    print(f"{outcomes.total():,} inputs, the first {2 * len(base)} unchanged: {dict(outcomes.most_common())}")
    print(f"slowest {dearest['seconds']}\nlargest {dearest['mb']}\nbad {len(bad)}", flush=True)
    return not bad


def main() -> None:
    """Measure images, then titles."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=1000, help="inputs of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=["images", "titles"])
    parser.add_argument("--keep", default="outputs/hostile_inputs", type=Path, help="where what fails is kept")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    use("a red mug", False), use(b"", True)  # what is loaded and imported now is so in the processes
    arguments.keep.mkdir(parents=True, exist_ok=True)
    dice, is_good = np.random.default_rng(arguments.seed), True
    for kind in (images, titles):
        if arguments.only in (None, kind.__name__):
            print(kind.__name__, flush=True)
            is_good &= examine(kind(), arguments.number, dice, arguments.keep)
    sys.exit(not is_good)


if __name__ == "__main__":
    main()
