"""What `publish.py` publishes, and where."""

from dataclasses import dataclass
from typing import ClassVar

from training.arguments.card import CardArguments
from training.arguments.options import option

__all__ = ["PublishArguments"]


@dataclass
class PublishArguments(CardArguments):
    """What `publish.py` publishes, and where."""

    section: ClassVar[str] = "run"

    checkpoint: str = option("Folder of a model, a head, or adapters.", "")
    repo: str = option("Repository: owner/name, or a name in your own namespace.", "")
    private: bool = option("Publish to a private repository; an existing public one is refused.", False)
    revision: str | None = option("Branch; created if it does not exist.", None)
    commit_message: str | None = option("Message of the commit.", None)
    create_pr: bool = option("Open a pull request in place of a commit.", False)
    evaluation: str | None = option("report.json of evaluate_tasks.py, whose metrics the card shows.", None)
    evaluated_on: str | None = option(
        "Name of the data that the metrics are of; that of its folder if not given.", None
    )
    new_card: bool = option("Write the card anew even if it was edited on the Hub.", False)
    dry_run: bool = option("Print the card and the names of the files; publish nothing.", False)

    def __post_init__(self) -> None:
        """Check that both are named."""
        super().__post_init__()
        for name, what in (("checkpoint", "the folder of a model, a head, or adapters"), ("repo", "the repository")):
            if not getattr(self, name):
                raise ValueError(f"`{name}` is empty; name {what}: publish.py outputs/eclip someone/eclip.")
