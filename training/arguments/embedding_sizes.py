"""Which embeddings `embedding_sizes.py` cuts, and to what."""

from dataclasses import dataclass
from typing import ClassVar

from training.arguments.options import option

__all__ = ["SizesArguments"]


@dataclass
class SizesArguments:
    """Which embeddings are cut, and to what."""

    section: ClassVar[str] = "run"

    embeddings: str = option("Folder that embed.py wrote.", "outputs/embeddings")
    dims: list[int] = option("Sizes; halves of the whole one, down to 32, if not given.", [])
    candidates: list[int] = option("Numbers of candidates that are re-scored.", [20, 50, 100, 200])
    max_queries: int = option("Titles that search, evenly spaced.", 1000)

    def __post_init__(self) -> None:
        """Refuse a search for nothing."""
        if self.max_queries < 1:
            raise ValueError(f"`max_queries` is {self.max_queries}; give at least 1.")
        if unfit := [number for number in self.candidates if number < 1]:
            raise ValueError(f"`candidates` holds {unfit[0]}; give at least 1, or leave out `candidates`.")
