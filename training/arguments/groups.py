"""Arguments of the scripts: dataclasses, which `training.arguments.parser` fills."""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from training.arguments.schedule import BatchSizeRule, BatchSizeSchedule, parse_batch_size_steps

TASK_NAMES: list[str] = []
"""What `--task` may be; each task of `training.tasks` adds its name when it is registered."""


def option(text: str, default: Any = dataclasses.MISSING, choices: list[str] | None = None) -> Any:
    """Return a field with the help that `--help` prints, and with what it may be where that is no type."""
    metadata = {"help": text} if choices is None else {"help": text, "choices": choices}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class ModelArguments:
    """What is trained. Give one of `checkpoint`, `clip`, the two towers, or the two tower configurations."""

    checkpoint: str = option("e-CLIP checkpoint to continue from: Hub id or folder.", "")
    clip: str = option("CLIP, SigLIP or SigLIP 2 checkpoint to continue from: Hub id or folder.", "")
    vision_tower: str = option("Pretrained image tower: Hub id or folder.", "")
    text_tower: str = option("Pretrained title tower, with its tokenizer: Hub id or folder.", "")
    vision_config: str = option("Configuration of a new image tower, JSON with a model_type.", "")
    text_config: str = option("Configuration of a new title tower, JSON with a model_type.", "")
    tokenizer: str = option("Tokenizer of a new title tower; one is trained on the titles if not given.", "")
    vocab_size: int = option("Size of the vocabulary of a tokenizer that is trained on the titles.", 8192)
    image_size: int | None = option("Side in pixels that images are brought to; the tower's own if not given.", None)
    max_title_length: int | None = option("Titles are cut after this many tokens; 32, or the checkpoint's own.", None)
    projection_dim: int | None = option("Dimension of the shared space; 512 if not given, or as in `clip`.", None)
    vision_pooling: str | None = option("pooler, cls, mean or last; see EClipConfig.", None)
    text_pooling: str | None = option("pooler, cls, mean or last; see EClipConfig.", None)
    catalog_mates: str | None = option("What offers of one catalog are to each other; see EClipConfig.", None)
    catalog_weight: float | None = option("Mass of a positive catalog mate, 0 to 1.", None)
    matryoshka_dims: list[int] = option("Sizes that embeddings can be cut to, projection_dim among them.", [])
    matryoshka_weights: list[float] = option("Weight of each of these sizes in the loss; 1 if not given.", [])
    freeze: list[str] = option("Regular expressions of parameter names that are not trained.", [])
    lora_rank: int | None = option("Train adapters of this rank in place of the towers' weights.", None)
    lora_alpha: int = option("An adapter's output is multiplied by this, divided by its rank.", 16)
    lora_targets: list[str] = option(
        "Regular expressions of tower layers that get adapters; the linear ones of blocks if not given.", []
    )


@dataclass
class DataArguments:
    """Which products, under which column names."""

    train_data: list[str] = option("Sources of training offers: files, folders, Hub datasets, or 'toy'.", ["toy"])
    train_split: str = option("Split of train_data, where a source has splits.", "train")
    validation_data: list[str] = option("Sources of held-out offers; 'toy' if train_data is.", [])
    validation_split: str = option("Split of validation_data.", "validation")
    test_data: list[str] = option("Sources of offers that evaluate_tasks.py reports on; 'toy' if train_data is.", [])
    test_split: str = option("Split of test_data.", "test")
    pairs_data: list[str] = option("Sources of offers that test_pairs speaks of.", [])
    test_pairs: str | None = option("Parquet of labelled pairs of offers: left, right, label.", None)
    pair_id_column: str | None = option(
        "Column of the offers that left and right speak of; title_column if they are titles themselves.", None
    )
    train_pairs: str | None = option("Parquet of labelled pairs of train_data: left, right, label.", None)
    validation_pairs: str | None = option("Parquet of labelled pairs of validation_data.", None)
    category_column: str = option("Column of the category path: a list, or text with category_separator.", "category")
    category_separator: str = option("What separates the levels of a category that is text.", ">")
    attribute_columns: list[str] = option("Columns of attributes; a null there is no label.", [])
    restricted_column: str = option("Column that is true for products for adults only.", "restricted")
    streaming: bool = option("Read training offers, as parquet, when they are needed, not beforehand.", False)
    shuffle_buffer: int = option("Rows of a stream that are shuffled together, and held in memory.", 4096)
    title_column: str = option("Column of the title; none where there are no titles.", "title")
    image_column: str = option("Column of the image; none where there are no images.", "image")
    catalog_id_column: list[str] = option(
        "Columns of the catalog id; per row the first that is not null is taken.", ["catalog_id"]
    )
    id_column: str | None = option("Column of the offer's id; rows are numbered if not given.", None)
    exclude_rows: list[str] = option("Training rows to leave out, as column=value.", [])
    max_train_rows: int | None = option("Take at most so many training rows.", None)
    max_skipped_share: float = option("Stop if more than this share of the rows can't be used.", 0.05)
    toy_offers: int = option("Offers in the drawn catalogue.", 4000)
    toy_seed: int = option("Seed of the drawn catalogue.", 0)
    mates_share: float = option("Share of the catalogs whose offers meet in a batch; not for streams.", 0.0)
    min_crop_scale: float = option("Smallest share of an image that a random crop keeps.", 0.7)
    flip_probability: float = option("Probability of mirroring an image.", 0.5)
    colour_jitter: float = option("Strength of colour changes; off, since colour is an attribute of products.", 0.0)
    word_dropout: float = option("Probability of leaving out each word of a title.", 0.0)
    shuffle_probability: float = option("Probability of shuffling the words of a title.", 0.0)
    num_workers: int = option("Processes that decode images, per rank.", 1)

    def __post_init__(self) -> None:
        """Hold out offers of the drawn catalogue where it is what is trained on."""
        if self.train_data == ["toy"]:
            self.validation_data = self.validation_data or ["toy"]
            self.test_data = self.test_data or ["toy"]
            self.attribute_columns = self.attribute_columns or ["colour", "pattern"]


@dataclass
class CardArguments:
    """What the card of a published checkpoint says that no file tells."""

    license: str | None = option("Licence of the weights, by the Hub's name for it; other with the next two.", None)
    license_name: str | None = option("Name of a licence that the Hub has no name for.", None)
    license_link: str | None = option("Address of that licence.", None)
    base_models: list[str] = option("Hub ids of the models that training started from; found if not given.", [])
    card_data: list[str] = option("Training data and its licence, as name=licence; Hub ids are linked.", [])
    card_languages: list[str] = option("Languages of the titles, such as en.", [])
    card_limits: list[str] = option("Further limits, a sentence each.", [])

    def __post_init__(self) -> None:
        """Refuse what no card can be made of."""
        if wrong := [entry for entry in self.card_data if not all(entry.partition("=")[::2])]:
            raise ValueError(f"`card_data` holds {wrong[0]!r}; give name=licence, such as 'Fashion Products=mit'.")
        if (self.license == "other") != bool(self.license_name and self.license_link):
            raise ValueError(
                f"`license` is {self.license!r}, `license_name` {self.license_name!r}, `license_link` "
                f"{self.license_link!r}; a licence that the Hub has no name for is other, with the two."
            )


@dataclass
class TrainArguments(CardArguments):
    """How it is trained. Everything that lasts is counted in samples (offers seen), not in steps."""

    output_dir: str = option("Where checkpoints, the model and the report go.", "outputs/eclip")
    overwrite_output_dir: bool = option("Start anew where output_dir holds checkpoints.", False)
    resume_from_checkpoint: str | None = option("'latest', or the folder of a checkpoint.", None)
    seed: int = option("Seed of weights, order, augmentation and dropout.", 0)
    num_epochs: float = option("Passes over the training offers.", 1.0)
    max_samples: int | None = option("Samples to train on, instead of num_epochs.", None)
    batch_size: int = option("Offers in a batch, all ranks together: each is contrasted with all others.", 256)
    batch_size_schedule: list[str] = option(
        "Later batch sizes as share:size, 0.1:4096 being 4096 offers after a tenth of the run.", []
    )
    batch_size_rule: BatchSizeRule = option(
        "What a later batch size does to the learning rates, which are those of batch_size.", "none"
    )
    text_stream_size: int | None = option("Titles that a rank encodes at once; all of its batch if not given.", None)
    image_stream_size: int | None = option("Images that a rank encodes at once; all of its batch if not given.", None)
    keep_graphs: str = option(
        "Share of the streams that are encoded once, 0 to 1; auto is what memory allows.", "auto"
    )
    mate_contrast_weight: float = option("Weight of contrast among titles and among images of catalog mates.", 0.0)
    learning_rate: float = option("Peak learning rate of the projections, and of the towers if none is given.", 5e-4)
    tower_learning_rate: float | None = option("Peak learning rate of the towers.", None)
    layer_decay: float = option("Factor by which a tower's rate shrinks per block below its top.", 1.0)
    weight_decay: float = option("Weight decay of matrices; biases, norms and the temperature have none.", 0.1)
    no_weight_decay: list[str] = option("Regular expressions of further parameter names without decay.", [])
    adam_beta1: float = option("AdamW's first beta.", 0.9)
    adam_beta2: float = option("AdamW's second beta.", 0.98)
    adam_epsilon: float = option("AdamW's epsilon.", 1e-6)
    warmup_share: float = option("Share of the samples over which the learning rate rises.", 0.1)
    final_learning_rate_share: float = option("Share of the peak learning rate that the cosine ends at.", 0.0)
    keep_patches: float = option("Share of an image's patches that the image tower sees in training.", 1.0)
    ema_decay: float | None = option("Average the weights over steps with this decay, such as 0.999.", None)
    max_grad_norm: float = option("Gradients are clipped to this norm.", 1.0)
    max_bad_steps: int = option("Steps in a row whose loss or gradient is not a number, before the run stops.", 5)
    mixed_precision: str | None = option(
        "no, bf16, fp16, or auto for what the machine is fast in; as `accelerate` is set to if not given.", None
    )
    compile: bool = option("Compile both towers with torch.compile.", False)
    compile_backend: str = option("Backend of torch.compile.", "inductor")
    cache_frozen_towers: bool = option("Encode offers once with a frozen tower, keep its vectors on disk.", False)
    gradient_checkpointing: bool = option("Trade time for memory.", False)
    channels_last: bool = option("Lay images out channels last: faster for convolutional towers.", False)
    fix_batch_norm: bool = option("Keep batch norm's statistics as they are: do so for pretrained towers.", True)
    eval_batch_size: int = option("Offers embedded at a time in evaluation.", 256)
    eval_every_samples: int | None = option("Evaluate so often; at the start and the end in any case.", None)
    save_every_samples: int | None = option("Write a checkpoint so often; only the end's model if not given.", None)
    save_total_limit: int = option("Checkpoints that are kept.", 2)
    report_to: list[str] = option("Trackers: tensorboard, trackio, wandb.", [])
    push_to_hub: bool = option("Publish model and processor at the end.", False)
    hub_model_id: str | None = option("Repository to publish to; the name of output_dir if not given.", None)
    hub_private: bool = option("Make that repository private.", False)

    def __post_init__(self) -> None:
        """Refuse what no run can be made of."""
        super().__post_init__()
        if self.batch_size < 2:
            raise ValueError(f"`batch_size` is {self.batch_size}; a contrast needs at least 2 offers, and likes many.")
        BatchSizeSchedule(self.batch_size, parse_batch_size_steps(self.batch_size_schedule), 1, self.batch_size_rule)
        if self.keep_graphs != "auto":
            try:
                share = float(self.keep_graphs)
            except ValueError:
                share = math.nan
            if not 0 <= share <= 1:
                raise ValueError(f"`keep_graphs` is {self.keep_graphs!r}; give a share from 0 to 1, or auto.")
        if self.max_bad_steps < 1:
            raise ValueError(f"`max_bad_steps` is {self.max_bad_steps}; give at least 1.")
        if self.save_total_limit < 1:
            raise ValueError(f"`save_total_limit` is {self.save_total_limit}; keep at least 1 checkpoint.")
        for name in ("eval_every_samples", "save_every_samples"):
            if (every := getattr(self, name)) is not None and every < 1:
                raise ValueError(f"`{name}` is {every}; give at least 1, or leave it out.")


@dataclass
class FinetuneArguments(TrainArguments):
    """How a task is learned: the training arguments, with what fits tasks where nothing is given, and the task.

    Streams and the contrast of mates are pre-training's, and are not looked at.
    """

    output_dir: str = option("Where checkpoints, the model and the report go.", "outputs/finetune")
    task: str = option("What is learned.", "category", TASK_NAMES)
    modality: Literal["text", "image", "both"] = option("What of a product it is learned from.", "both")
    method: Literal["linear", "full", "lora"] = option(
        "linear: a classifier on the vectors of frozen towers; full: all weights; lora: adapters.", "full"
    )
    join: list[str] = option(
        "Two heads, of titles and of images, that are put together; only how they are joined is fitted then.", []
    )
    label_share: float = option("Share of the training rows (or pairs, or catalogs) whose labels are used.", 1.0)
    num_epochs: float = option("Passes over the labelled rows.", 8.0)
    batch_size: int = option("Rows in a batch, all ranks together.", 64)
    learning_rate: float = option("Peak learning rate of the head.", 2e-3)
    tower_learning_rate: float | None = option("Peak rate of the towers; 1e-4 if not given, of adapters 1e-3.", None)
    weight_decay: float = option("Weight decay of matrices; biases and norms have none.", 0.05)
    adam_beta2: float = option("AdamW's second beta.", 0.999)
    label_smoothing: float = option("Share of a label's mass that is spread over all classes; not by linear.", 0.05)
    modality_dropout: float = option("Probability, per side, of learning from both without it; not by linear.", 0.1)
    positive_weight: float | None = option("Weight of restricted products; as much as all others if not given.", None)
    target_recall: float = option("Share of restricted products that the threshold finds on validation.", 0.95)
    min_probability: float = option("Attributes that are less probable than this are answered as not stated.", 0.0)
    merge: bool = option("Save adapters added to the weights, as a model of its own, not alone.", False)

    def __post_init__(self) -> None:
        """Refuse what no run can be made of, and settle the towers' rate."""
        super().__post_init__()
        for name in ("label_share", "target_recall"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise ValueError(f"`{name}` is {getattr(self, name)}; give a share above 0 and at most 1.")
        if self.tower_learning_rate is None:
            self.tower_learning_rate = 1e-3 if self.method == "lora" else 1e-4


@dataclass
class PublishArguments(CardArguments):
    """What `publish.py` publishes."""

    checkpoint: str = option("Folder of a model, a head, or adapters.", "")
    repo: str = option("Repository: owner/name, or a name among one's own.", "")
    private: bool = option("Publish to a private repository, new or old; one that is public is refused.", False)
    revision: str | None = option("Branch, made if need be.", None)
    commit_message: str | None = option("Message of the commit.", None)
    create_pr: bool = option("Propose the change in place of making it.", False)
    evaluation: str | None = option("report.json of evaluate_tasks.py, whose figures are told, too.", None)
    evaluated_on: str | None = option("Name of the data that figures are of; that of its folder if not given.", None)
    new_card: bool = option("Write the card anew even if somebody has edited it.", False)


@dataclass
class EvaluationArguments:
    """What `evaluate_tasks.py` measures."""

    checkpoints: list[str] = option("e-CLIP checkpoints, beside the configuration's untrained model.", [])
    report_dir: str = option("Where the figures and pictures go.", "outputs/evaluation")
    eval_batch_size: int = option("Offers embedded at a time.", 256)
    seed: int = option("Seed of the untrained model's new weights, of derived pairs and of resampling.", 0)
    task: str | None = option(
        "Task that the checkpoints' heads are measured on; retrieval and matching without training if not given.",
        None,
        TASK_NAMES,
    )
    modality: Literal["text", "image", "both"] | None = option(
        "What of a product a head gets to see; all that it looks at if not given.", None
    )
    zero_shot: bool = option(
        "Answer by the names of the classes, without training; categories and attributes, those of the split where "
        "a checkpoint has no head.",
        False,
    )
    split: Literal["train", "validation", "test"] = option("Split that heads are measured on.", "test")
    num_resamples: int = option("How often rows are drawn for the intervals of a head's figures.", 1000)
    resample_by: Literal["catalogs", "rows"] = option(
        "What is drawn; rows where training has seen the very catalogs of the split.", "catalogs"
    )


@dataclass
class ReportArguments:
    """What `report.py` compares."""

    output_dir: str = option("Where runs, checkpoints, tables and pictures go.", "outputs/report")
    pretraining: str = option("Configuration of the pre-training.", "training/configs/fashion.yaml")
    pretraining_samples: int | None = option("Samples of each pre-training, if not as it is configured.", None)
    pretraining_seeds: int = option("Pre-trainings of each kind; a seed of the tasks takes one after the other.", 1)
    tasks: list[str] = option("What is learned, as task:configuration; the file's name is that of the data.", [])
    trained_modalities: list[str] = option(
        "Modalities whose towers are trained with all labels, if validation prefers it to a probe: task:data:modality.",
        [],
    )
    max_task_rows: int | None = option("Training rows that a task has at most; all if not given.", None)
    modalities: list[str] = option("What of a product is looked at; both needs its parts.", ["text", "image", "both"])
    methods: list[str] = option(
        "eclip, hard_labels, no_pretraining, classical.", ["eclip", "hard_labels", "no_pretraining", "classical"]
    )
    baseline: list[str] = option("Further models: Hub ids or folders of CLIP, SigLIP or e-CLIP checkpoints.", [])
    label_shares: list[float] = option("Shares of the labels that are learned from.", [0.01, 0.1, 1.0])
    num_seeds: int = option("Seeds of the shares and of the learning.", 3)
    num_resamples: int = option("How often rows are drawn for intervals.", 300)
    jobs: int = option("Runs that are computed side by side; one on a GPU.", 2)

    def __post_init__(self) -> None:
        """Refuse what no report can be made of."""
        if "both" in self.modalities and not {"text", "image"} <= set(self.modalities):
            raise ValueError(f"`modalities` is {self.modalities}; both is put together from text and image.")
        known = {
            "modalities": ("text", "image", "both"),
            "methods": ("eclip", "hard_labels", "no_pretraining", "classical"),
        }
        for name, values in known.items():
            if unknown := [value for value in getattr(self, name) if value not in values]:
                raise ValueError(f"`{name}` holds {unknown[0]!r}; give some of {', '.join(values)}.")
        if not all(0 < share <= 1 for share in self.label_shares) or not self.label_shares:
            raise ValueError(f"`label_shares` is {self.label_shares}; give shares above 0 and at most 1.")
        for name in ("num_seeds", "pretraining_seeds", "jobs"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}; give at least 1.")


ALL_ARGUMENTS: tuple[type, ...] = (
    ModelArguments,
    DataArguments,
    TrainArguments,
    FinetuneArguments,
    EvaluationArguments,
    PublishArguments,
    ReportArguments,
)


__all__ = [
    "ALL_ARGUMENTS",
    "TASK_NAMES",
    "CardArguments",
    "DataArguments",
    "EvaluationArguments",
    "FinetuneArguments",
    "ModelArguments",
    "PublishArguments",
    "ReportArguments",
    "TrainArguments",
]
