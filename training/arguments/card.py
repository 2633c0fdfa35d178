"""What the card of a published checkpoint says and no file of the checkpoint holds."""

from dataclasses import dataclass
from typing import ClassVar

from training.arguments.options import option

__all__ = ["CardArguments"]


@dataclass
class CardArguments:
    """What the card of a published checkpoint says and no file of the checkpoint holds."""

    section: ClassVar[str] = "run"

    license: str | None = option(
        "Licence of the weights, by the Hub's name for it; 'other' needs license_name and license_link.",
        None,
        advanced=True,
    )
    license_name: str | None = option("Name of a licence that the Hub has no name for.", None, advanced=True)
    license_link: str | None = option("URL of that licence.", None, advanced=True)
    base_models: list[str] = option(
        "Hub ids of the models that training started from; found from the checkpoint if not given.", [], advanced=True
    )
    card_data: list[str] = option(
        "Training data and its licence, as name=licence; Hub ids are linked.", [], advanced=True
    )
    card_languages: list[str] = option("Languages of the titles, such as en.", [], advanced=True)
    card_limits: list[str] = option("Further limitations, a sentence each.", [], advanced=True)

    def __post_init__(self) -> None:
        """Check the values."""
        if wrong := [entry for entry in self.card_data if not all(entry.partition("=")[::2])]:
            raise ValueError(f"`card_data` holds {wrong[0]!r}; give name=licence, such as 'Fashion Products=mit'.")
        if (self.license == "other") != bool(self.license_name and self.license_link):
            raise ValueError(
                f"`license` is {self.license!r}, `license_name` {self.license_name!r}, `license_link` "
                f"{self.license_link!r}; a licence that the Hub has no name for is other, with the two."
            )
