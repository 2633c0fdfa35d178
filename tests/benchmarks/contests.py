"""The contests of the benchmark: what both sides do, with which settings, and what is compared."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

__all__ = ["CONTESTS", "Contest", "Row"]

GIB = 2**30
# Units of what is lost, and the names under which a side reports it.
_LOSSES = {"1 - cosine": "cosine_error", "points": "recall_loss"}


@dataclass(frozen=True)
class Row:
    """One comparison.

    Args:
        work: What is compared, for the reader.
        unit: `"s"` (fewer is better), `"GiB"` (peak above what was resident before; fewer is better), `"1 - cosine"`
            and `"points"` (what is lost; fewer is better), or a rate such as `"samples/s"` (more is better).
        goal: How many times better this package should be.
        count: Samples, images, ... of one round, for rates.
        limit: A fixed number in place of the peer's.
    """

    work: str
    unit: Literal["s", "GiB", "1 - cosine", "points", "samples/s", "images/s", "products/s", "queries/s", "titles/s"]
    goal: float
    count: int = 1
    limit: float | None = None

    @property
    def limit_name(self) -> str:
        """What a limit is, for the reader."""
        return "memory limit" if self.unit == "GiB" else "limit"

    def value(self, measured: dict[str, Any]) -> float:
        """Return one round's measurement in this row's unit."""
        if self.unit == "GiB":
            return measured["peak_bytes"] / GIB
        if self.unit in _LOSSES:
            return measured[_LOSSES[self.unit]]
        return measured["seconds"] if self.unit == "s" else self.count / measured["seconds"]

    def ratio(self, ours: float, theirs: float) -> float:
        """Return how many times better ours is."""
        return theirs / ours if self.unit in ("s", "GiB", *_LOSSES) else ours / theirs


@dataclass(frozen=True)
class Contest:
    """Work that both sides do in turns.

    Args:
        name: Short name.
        work: What is done, for the reader.
        function: Name of the work in the scripts of both sides.
        peer: Whom against.
        side: The peer's script.
        our_side: Our script.
        needs_shared: Whether the work needs the data and towers in `../shared`, without which it is left out.
        needs_modules: Optional modules of our side, without which it is left out, too.
        ours: Arguments of our side.
        theirs: Arguments of the peer's side; `None` where it does not take part.
        rows: What is compared.
        rounds: How often each side works.
        threads: Threads of each side.
    """

    name: str
    work: str
    function: str
    ours: dict[str, Any]
    rows: tuple[Row, ...]
    peer: str = "open_clip"
    side: str = "open_clip_side.py"
    our_side: str = "eclip_side.py"
    needs_shared: bool = False
    needs_modules: tuple[str, ...] = ()
    theirs: dict[str, Any] | None = field(default=None)
    rounds: int = 3
    threads: int = 2

    def of_size(self, number: int | None) -> "Contest":
        """Return the same with another number of products, titles, ...; as it is if none is given."""
        if number is None or "number" not in self.ours:
            return self
        theirs = None if self.theirs is None else self.theirs | {"number": number}
        rows = tuple(row if "queries" in self.ours else replace(row, count=number) for row in self.rows)
        return replace(self, ours=self.ours | {"number": number}, theirs=theirs, rows=rows)


_LOSS = {"batch_size": 16384, "dim": 512}
_LOSS_WORK = "loss, forward and backward, B = 16,384, d = 512, fp32"
_STEP = {"batch_size": 512}
_STEP_WORK = "training step, B = 512, 6-layer towers of width 128, within 2.25 GiB"
# open_clip could take larger parts of the batch within that, and would be no faster: it encodes them twice anyway.
_OUR_STREAMS = {"text_stream_size": 64, "image_stream_size": 32, "keep_graphs": 1.0}
_JPEG = {"number": 200, "side": 500, "target": 224}
_TITLES_WORK = "embed 5,000 titles of 4 to 75 words"
_PRODUCTS_WORK = "embed 5,000 products, JPEG of 1,000 px, small towers, decoding included"
_IMAGES_WORK = "embed 5,000 JPEG of 1,000 px, small towers, decoding included"
_SEARCH_WORK = "search 200,000 vectors of 256 values for the 10 nearest"
_PRODUCTS = {"number": 200_000, "dim": 256, "queries": 2000}
# Codes whose vectors are read, per query: enough to find .99 of the neighbours in these vectors.
_CANDIDATES = 100


def _int8(part: str, unit: Literal["titles/s", "images/s"], number: int, goal: float) -> Contest:
    """An exported tower in int8 against the same tower in PyTorch: faster, and as good."""
    tower = {"text": "title tower (MiniLM-L6)", "image": "image tower (EfficientNet-Lite0, 128 px)"}[part]
    arguments = {"part": part, "number": number, "batch_size": 32}
    return Contest(
        name=f"int8-{part}",
        work=f"{tower} embeds {number} offers, batches of 32: OpenVINO in int8 against PyTorch in fp32",
        function="embed_part",
        peer="PyTorch",
        side="pytorch_side.py",
        our_side="int8_side.py",
        needs_shared=True,
        needs_modules=("openvino", "nncf"),
        ours=arguments,
        theirs=arguments,
        rows=(
            Row(f"int8 {tower}", unit, goal, count=number),
            Row(f"int8 {tower}: distance from fp32", "1 - cosine", 1, limit=0.01),
            Row(f"int8 {tower}: recall@10 of offers of one catalog that is lost", "points", 1, limit=1),
        ),
    )


CONTESTS = (
    Contest(
        name="loss",
        work=_LOSS_WORK,
        function="loss",
        ours=_LOSS,
        theirs=_LOSS,
        rows=(Row(f"{_LOSS_WORK}: time", "s", 1.8), Row(f"{_LOSS_WORK}: memory", "GiB", 20)),
    ),
    Contest(
        name="loss-65536",
        work="loss, forward and backward, B = 65,536, d = 512, fp32 (the dense loss would need about 64 GiB)",
        function="loss",
        ours={"batch_size": 65536, "dim": 512},
        rows=(Row("loss, forward and backward, B = 65,536: memory above the embeddings", "GiB", 1, limit=1),),
        rounds=1,
    ),
    Contest(
        name="step-open_clip",
        work=f"{_STEP_WORK}; open_clip's own loop with --accum-freq 16",
        function="step",
        ours=_STEP | _OUR_STREAMS,
        theirs=_STEP | {"stream_size": 32},
        rows=(Row(f"{_STEP_WORK}", "samples/s", 2.2, count=512),),
    ),
    Contest(
        name="step-sentence-transformers",
        work=f"{_STEP_WORK}; CachedMultipleNegativesRankingLoss in both directions, mini-batches of 32",
        function="step",
        peer="sentence-transformers",
        side="sentence_transformers_side.py",
        ours=_STEP | _OUR_STREAMS,
        theirs=_STEP | {"stream_size": 32},
        rows=(Row(f"{_STEP_WORK}", "samples/s", 1.5, count=512),),
    ),
    Contest(
        name="decode",
        work="JPEG files of 500 px to RGB images of 224 px, one core",
        function="decode",
        ours=_JPEG,
        theirs=_JPEG,
        rows=(Row("JPEG of 500 px to 224 px, per core", "images/s", 3, count=200),),
        threads=1,
    ),
    Contest(
        name="embed-titles",
        work=f"{_TITLES_WORK}; the plain loop: 32 in the order of arrival, padded to their longest",
        function="titles",
        peer="transformers",
        side="transformers_side.py",
        ours={"number": 5000},
        theirs={"number": 5000, "batch_size": 32},
        rows=(Row(_TITLES_WORK, "titles/s", 2, count=5000),),
    ),
    Contest(
        name="embed-products",
        work=f"{_PRODUCTS_WORK}; the same loop, with Pillow",
        function="products",
        peer="transformers",
        side="transformers_side.py",
        ours={"number": 5000, "side": 1000, "num_workers": 2},
        theirs={"number": 5000, "side": 1000, "batch_size": 32},
        rows=(Row(_PRODUCTS_WORK, "products/s", 2, count=5000),),
    ),
    Contest(
        name="embed-titles-sentence-transformers",
        work=f"{_TITLES_WORK}; encode, batches of 32",
        function="titles",
        peer="sentence-transformers",
        side="sentence_transformers_side.py",
        ours={"number": 5000},
        theirs={"number": 5000, "batch_size": 32},
        rows=(Row(_TITLES_WORK, "titles/s", 1, count=5000),),
    ),
    Contest(
        name="embed-images-sentence-transformers",
        work=f"{_IMAGES_WORK}; encode, batches of 32",
        function="images",
        peer="sentence-transformers",
        side="sentence_transformers_side.py",
        ours={"number": 5000, "side": 1000, "num_workers": 2},
        theirs={"number": 5000, "side": 1000, "batch_size": 32},
        rows=(Row(_IMAGES_WORK, "images/s", 1.5, count=5000),),
    ),
    Contest(
        name="search",
        work=f"{_SEARCH_WORK}: 32 bytes of each in memory, {_CANDIDATES} candidates re-scored from a file",
        function="search",
        peer="faiss, exact",
        side="faiss_side.py",
        ours=_PRODUCTS | {"candidates": _CANDIDATES},
        theirs=_PRODUCTS,
        rows=(Row(f"{_SEARCH_WORK}, recall .99", "queries/s", 3, count=2000),),
    ),
    _int8("text", "titles/s", 1000, 3),
    _int8("image", "images/s", 500, 1.5),
)
