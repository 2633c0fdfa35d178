"""Distillation: a teacher's vectors of the training offers, and the loss with which a student learns their relations.

A teacher is a larger model, or the model itself as training begins, which keeps what its towers know from being
forgotten. Its vectors are computed once and kept on disk, of whole images and titles without augmentation.
"""

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from transformers import AutoConfig

from modeling_eclip import ContrastiveObjective, EClipModel, EClipProcessor
from modeling_eclip.losses.gather import count_rows
from modeling_eclip.losses.relations import relational_distillation_loss
from modeling_eclip.modeling_eclip import normalize
from training.arguments.model import ModelArguments
from training.data.files import files_digest
from training.data.open_sources import source_files
from training.engine.adapter_files import load_eclip
from training.engine.build import build_model, source_of
from training.engine.feature_cache import cache_vectors

logger = logging.getLogger(__name__)

_START = "start"
_ROWS_AT_ONCE = 1000


@dataclass
class Teacher:
    """A teacher's vectors of offers.

    Args:
        tables: By modality, a column of vectors; null, or zero, for an offer that has none.
        places: Row of each offer in the tables, by its id.
        projections: By modality, what is applied to the vectors; none where they are embeddings already.
        scale: Inverse temperature with which titles and images are compared; `None` for a teacher whose titles and
            images have no space in common.
    """

    tables: dict[str, datasets.Dataset]
    places: Mapping[str, int]
    projections: dict[str, nn.Module]
    scale: float | None
    widths: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        """Finds out how long the vectors are, which a batch without any does not tell."""
        self.widths = {modality: _width_of(table) for modality, table in self.tables.items()}

    @torch.no_grad()
    def vectors(
        self, modality: str, row_ids: Sequence[str], device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Look vectors up.

        Args:
            modality: `"text"` or `"image"`.
            row_ids: Ids of `N` offers.
            device: Where they are wanted.

        Returns:
            Unit vectors, float32, shape `(N, D_teacher)`, zero for offers without; and which offers have one, bool,
            shape `(N,)`, on the CPU.
        """
        rows = np.array([self.places.get(row_id, -1) for row_id in row_ids], dtype=np.int64)
        table = self.tables[modality].with_format("arrow")[rows[rows >= 0].tolist()]
        column = table.column(0).combine_chunks()
        has = rows >= 0
        has[has] = column.is_valid().to_numpy(zero_copy_only=False)
        shape = (len(column) - column.null_count, self.widths[modality])
        # A copy, since tables on disk are read-only.
        found = torch.from_numpy(column.flatten().to_numpy().reshape(shape).copy()).float().to(device)
        is_given = found.any(dim=1)
        has[has] = is_given.cpu().numpy()
        found = found[is_given]
        if modality in self.projections and self.widths[modality]:
            found = self.projections[modality](found)
        everywhere = found.new_zeros(len(rows), found.shape[1])
        everywhere[torch.from_numpy(has).to(device)] = normalize(found)
        return everywhere, torch.from_numpy(has)


def _width_of(table: datasets.Dataset) -> int:
    """Return the values of a vector, 0 where there is none."""
    for rows in table.with_format("arrow").iter(_ROWS_AT_ONCE):
        if len(given := rows.column(0).drop_null()):
            return len(given[0])
    return 0


@dataclass(frozen=True)
class DistillationObjective(ContrastiveObjective):
    """The contrastive loss, and `weight` times how far relations are from a teacher's.

    The second term is the mean, over the relations that the teacher has, of [`relational_distillation_loss`]: among
    titles, among images, and, of a teacher that compares the two, of titles with images and of images with titles.
    Offers that the teacher has no vector of are left out of it. It is of embeddings at their full size.

    Args:
        weight: Weight of the second term.
        teacher: The teacher.
        relation_scale: Inverse temperature of similarities within a modality, of teacher and student.
        row_ids: Ids of this rank's offers, in the order of the embeddings; replaced before each step.
        measured: The second term without its weight, as `teacher_distance`, of the last step.
    """

    weight: float = 1.0
    teacher: Teacher | None = None
    relation_scale: float = 20.0
    row_ids: list[str] = field(default_factory=list)
    measured: dict[str, torch.Tensor] = field(default_factory=dict)

    def __call__(
        self,
        text_embeds: torch.Tensor,
        image_embeds: torch.Tensor,
        logit_scale: torch.Tensor,
        catalog_ids: torch.Tensor | None = None,
        **named: Any,
    ) -> torch.Tensor:
        """Compute the loss; as [`ContrastiveObjective`] does."""
        loss = super().__call__(text_embeds, image_embeds, logit_scale, catalog_ids, **named)
        distance = self.distance(text_embeds, image_embeds, logit_scale, **named)
        self.measured["teacher_distance"] = distance.detach()
        return loss + self.weight * distance

    def distance(
        self, text_embeds: torch.Tensor, image_embeds: torch.Tensor, logit_scale: torch.Tensor, **named: Any
    ) -> torch.Tensor:
        """Return the second term, without its weight; arguments as for `__call__`."""
        assert self.teacher is not None
        rows, teacher_rows = {}, {}
        for modality, embeds in (("text", text_embeds), ("image", image_embeds)):
            if modality in self.teacher.tables:
                vectors, has = self.teacher.vectors(modality, self.row_ids, embeds.device)
                exists = named.get(f"has_{modality}")
                has = (has if exists is None else has & exists.cpu()).to(embeds.device)
                rows[modality], teacher_rows[modality] = embeds[has], vectors[has]
        counts = {modality: count_rows(len(kept), kept.device) for modality, kept in rows.items()}
        distances = []
        across = self.teacher.scale
        for queries in rows:
            for keys in [queries] if across is None else rows:
                is_within = queries == keys
                distances.append(
                    relational_distillation_loss(
                        rows[queries],
                        rows[keys],
                        teacher_rows[queries],
                        teacher_rows[keys],
                        scale=self.relation_scale if is_within or across is None else logit_scale.exp(),
                        teacher_scale=self.relation_scale if is_within or across is None else across,
                        leave_out_own=is_within,
                        distributed=self.distributed,
                        query_counts=counts[queries],
                        key_counts=counts[keys],
                    )
                )
        return torch.stack(distances).mean()


def check_teacher(name: str, way: str) -> None:
    """Refuse to keep what new weights know.

    Args:
        name: As `open_teacher` takes it; empty for no teacher.
        way: How the student is begun, as `source_of` tells it.

    Raises:
        ValueError: the teacher is the start, which is of new weights.
    """
    if name == _START and way == "configs":
        raise ValueError(f"`teacher` is {name!r}, but the model starts from new weights; there is nothing to keep.")


def open_teacher(
    name: str,
    products: Any,
    model_arguments: ModelArguments,
    processor: EClipProcessor,
    accelerator: Accelerator,
    *,
    seed: int,
    batch_size: int | None,
    num_workers: int,
    modalities: Sequence[str] = ("text", "image"),
) -> Teacher:
    """Find or compute a teacher's vectors of the training offers; all ranks call this together.

    Args:
        name: `"start"` for the model as training begins, a folder that `embed.py` wrote, or a checkpoint of e-CLIP,
            CLIP, SigLIP or SigLIP 2, folder or Hub id.
        products: The training offers, map-style.
        model_arguments: How the student was begun, for `"start"`.
        processor: The student's processor, likewise.
        accelerator: The process's accelerator.
        seed: Seed of the student's new weights.
        batch_size: Offers encoded at a time, as for [`cache_vectors`].
        num_workers: Processes that decode images, per rank.
        modalities: Whose relations are learned.

    Returns:
        The teacher.

    Raises:
        ValueError: the offers are a stream, two of them have the same id; or the folder is not whole, has vectors of
            none of them, several of one id, or of files that have changed where places are ids.
    """
    if not isinstance(products, datasets.Dataset):
        raise ValueError(f"`teacher` is {name!r}, but streamed offers pass once; leave out `streaming`.")
    row_ids = products["row_id"][:]
    own_places = _places(name, "training offers", row_ids)
    if files := vector_files(name):
        return _of_files(name, files, row_ids, modalities)
    if name == _START:
        model = build_model(model_arguments, processor.tokenizer, seed=seed)
        has_shared_space = source_of(model_arguments) != "towers"
    else:
        is_eclip = AutoConfig.from_pretrained(name).model_type == "eclip"
        load = load_eclip if is_eclip else EClipModel.from_clip
        model, processor = load(name), EClipProcessor.from_pretrained(name)
        has_shared_space = True
    model = model.float().eval().requires_grad_(False)
    tables = {
        modality: cache_vectors(
            products,
            modality,
            model,
            processor,
            accelerator,
            batch_size=batch_size,
            num_workers=num_workers,
            whose="the teacher's {modality} tower",
        )
        for modality in modalities
    }
    projections = {"text": model.text_projection, "image": model.visual_projection} if has_shared_space else {}
    return Teacher(
        tables,
        own_places,
        projections,
        model.logit_scale.exp().item() if has_shared_space else None,
    )


def vector_files(name: str) -> list[Path]:
    """Return the files of a teacher that is a folder that `embed.py` wrote; none for another one."""
    return sorted(Path(name).glob("embeddings-*.parquet")) if name else []


def _places(name: str, what: str, row_ids: list[str]) -> dict[str, int]:
    """Return the place of each id, of which no two may be the same: an offer would learn another one's relations."""
    places = dict(zip(row_ids, range(len(row_ids)), strict=True))
    if len(places) < len(row_ids):
        ((repeated, count),) = Counter(row_ids).most_common(1)
        raise ValueError(
            f"`teacher` is {name!r}, whose vectors are found by the offers' ids, and {count} {what} have the id "
            f"{repeated!r}; give an `id_column` whose values differ."
        )
    return places


def _of_files(name: str, files: list[Path], row_ids: list[str], modalities: Sequence[str]) -> Teacher:
    """Read the vectors that `embed.py` wrote."""
    settings, report = (_read_beside(name, file) for file in ("settings.json", "report.json"))
    if settings["id_column"] is None and not _is_as_embedded(settings):
        raise ValueError(
            f"`teacher` is {name!r}, where offers are known by their places in {settings['input']}, whose files have "
            "changed since: embed them again, or both embed and train with an `id_column`."
        )
    table = datasets.Dataset.from_parquet([str(file) for file in files])
    assert isinstance(table, datasets.Dataset)
    places = _places(name, "of its vectors", table["row_id"][:])
    num_known = sum(row_id in places for row_id in row_ids)
    tables = {
        modality: table.select_columns(f"{modality}_embeds")
        for modality in modalities
        if f"{modality}_embeds" in table.column_names
    }
    if not num_known or not tables:
        raise ValueError(
            f"`teacher` is {name!r}, whose files have vectors of {num_known} of {len(row_ids)} training offers; embed "
            f"the same files, with the same `id_column` (ids there: {list(places)[:3]}, here: {row_ids[:3]})."
        )
    logger.info("the teacher's files have vectors of %s of %s training offers", num_known, len(row_ids))
    return Teacher(tables, places, {}, report["logit_scale"] if len(tables) > 1 else None)


def _is_as_embedded(settings: dict[str, Any]) -> bool:
    """Tell whether the files that vectors were made of are the same today."""
    try:
        files = [files_digest(source_files(source, settings["split"])) for source in settings["input"]]
    except FileNotFoundError:
        return False
    return bool(files == settings["input_files"])


def _read_beside(name: str, file: str) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads((Path(name) / file).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(
            f"`teacher` is {name!r}, which has vectors but no {file}: copy the whole folder, or run embed.py again, "
            "which goes on to its end."
        ) from error
    return content


__all__ = ["DistillationObjective", "Teacher", "check_teacher", "open_teacher", "vector_files"]
