"""Arguments of the scripts: dataclasses, which `training.arguments.parser` fills."""

import math
from dataclasses import dataclass
from typing import Literal

from training.arguments.options import check_encoding, check_ranges, option
from training.arguments.schedule import BatchSizeRule, BatchSizeSchedule, parse_batch_size_steps
from training.arguments.workers import workers_per_rank

TASK_NAMES: list[str] = []
"""What `--task` may be; each task of `training.tasks` adds its name when it is registered."""

TITLES_PER_IMAGE = 4
"""Titles that are encoded at once for each image that is: a title takes a twentieth of an image's work, so that a
stream of as many would leave a GPU waiting for kernels to be launched; its graph takes a fifteenth of the memory."""


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
    vocab_size: int = option(
        "Size of the vocabulary of a tokenizer that is trained on the titles.", 8192, within="[100, inf)"
    )
    image_size: int | None = option(
        "Height and width in pixels that images are resized to; the tower's own if not given.", None, within="[1, inf)"
    )
    max_title_length: int | None = option(
        "Titles are cut after this many tokens; 32, or the checkpoint's own, if not given.", None, within="[3, inf)"
    )
    projection_dim: int | None = option(
        "Dimension of the shared space; 512 if not given, or as in `clip`.", None, within="[1, inf)"
    )
    vision_pooling: str | None = option(
        "pooler, cls, mean or last: how a tower's output becomes one vector; see EClipConfig.", None
    )
    text_pooling: str | None = option(
        "pooler, cls, mean or last: how a tower's output becomes one vector; see EClipConfig.", None
    )
    catalog_mates: str | None = option(
        "positive, negative or masked: the mode for offers of the same catalog; see EClipConfig.", None
    )
    catalog_weight: float | None = option(
        "Target mass of a positive catalog mate relative to the offer's own partner, 0 to 1.", None, within="[0, 1]"
    )
    matryoshka_dims: list[int] = option(
        "Sizes that embeddings can be cut to, projection_dim among them.", [], within="[1, inf)"
    )
    matryoshka_weights: list[float] = option("Weight of each of these sizes in the loss; 1 if not given.", [])
    freeze: list[str] = option("Regular expressions of parameter names that are not trained.", [])
    lora_rank: int | None = option(
        "Train adapters of this rank in place of the towers' weights.", None, within="[1, inf)"
    )
    lora_alpha: int = option("An adapter's output is multiplied by this, divided by its rank.", 16, within="[1, inf)")
    lora_targets: list[str] = option(
        "Regular expressions of tower layers that get adapters; the linear ones of blocks if not given.", []
    )

    def __post_init__(self) -> None:
        """Check the values."""
        check_ranges(self)


@dataclass
class DataArguments:
    """Product data: sources, column names, augmentation."""

    train_data: list[str] = option("Sources of training offers: files, folders, Hub datasets, or 'toy'.", ["toy"])
    train_split: str = option("Split of train_data, where a source has splits.", "train")
    validation_data: list[str] = option("Sources of held-out offers; 'toy' if train_data is.", [])
    validation_split: str = option("Split of validation_data.", "validation")
    test_data: list[str] = option("Sources of offers that evaluate_tasks.py reports on; 'toy' if train_data is.", [])
    test_split: str = option("Split of test_data.", "test")
    pairs_data: list[str] = option("Sources of the offers that test_pairs refers to.", [])
    test_pairs: str | None = option("Parquet of labelled pairs of offers: left, right, label.", None)
    pair_id_column: str | None = option(
        "Column that left and right of the pairs refer to; title_column if they are titles.", None
    )
    train_pairs: str | None = option("Parquet of labelled pairs of train_data: left, right, label.", None)
    validation_pairs: str | None = option("Parquet of labelled pairs of validation_data.", None)
    category_column: str = option("Column of the category path: a list, or text with category_separator.", "category")
    category_separator: str = option("Separator between the levels of a category that is text.", ">")
    attribute_columns: list[str] = option("Columns of attributes; null means no label.", [])
    restricted_column: str = option("Column that is true for products for adults only.", "restricted")
    encoding: str = option("Encoding of CSV and JSON files, such as latin-1 or cp1252.", "utf-8")
    streaming: bool = option("Read training offers from parquet files during training, not before it.", False)
    shuffle_buffer: int = option(
        "Rows of a stream that are shuffled together, and held in memory.", 4096, within="[1, inf)"
    )
    title_column: str = option("Column of the title; none for data without titles.", "title")
    image_column: str = option("Column of the image; none for data without images.", "image")
    catalog_id_column: list[str] = option(
        "Columns of the catalog id; the first that is not null counts for a row.", ["catalog_id"]
    )
    max_catalog_share: float = option(
        "Stop if one catalog holds more than this share of the offers: they count as one product.",
        0.5,
        within="(0, 1]",
    )
    id_column: str | None = option("Column of the offer's id; rows are numbered if not given.", None)
    exclude_rows: list[str] = option("Training rows to leave out, as column=value.", [])
    max_train_rows: int | None = option("Maximum number of training rows; all if not given.", None, within="[1, inf)")
    max_skipped_share: float = option("Stop if more than this share of the rows can't be used.", 0.05, within="[0, 1]")
    toy_offers: int = option("Number of generated offers where a source is 'toy'.", 4000, within="[1, inf)")
    toy_seed: int = option("Seed of the generated offers.", 0)
    mates_share: float = option(
        "Share of the catalogs whose offers are put in the same batch; not with streaming.", 0.0, within="[0, 1]"
    )
    min_crop_scale: float = option("Smallest share of an image that a random crop keeps.", 0.7, within="(0, 1]")
    flip_probability: float = option("Probability of mirroring an image.", 0.5, within="[0, 1]")
    colour_jitter: float = option(
        "Strength of colour changes; off, since colour is an attribute of products.", 0.0, within="[0, 1)"
    )
    word_dropout: float = option("Probability of leaving out each word of a title.", 0.0, within="[0, 1)")
    shuffle_probability: float = option("Probability of shuffling the words of a title.", 0.0, within="[0, 1]")
    num_workers: int = option(
        "Processes that decode images, per rank; 0 decodes in the rank's own. As many as the machine's cores allow if "
        "not given.",
        default_factory=workers_per_rank,
        within="[0, inf)",
    )
    prefetch_factor: int = option(
        "Parts of a batch that each of these processes prepares ahead.", 2, within="[1, inf)"
    )
    part_size: int = option("Offers of such a part; batches do not depend on it.", 64, within="[1, inf)")
    batch_memory_gib: float = option(
        "GiB of memory that the pixels of a rank's share of a batch may take; those of a larger one lie in a "
        "temporary file (TMPDIR). There are two shares at a time: one is trained on, one is read.",
        4.0,
        within="[0, inf)",
    )

    def __post_init__(self) -> None:
        """Check the encoding; use generated offers for validation and test where training uses them."""
        check_encoding(self.encoding)
        check_ranges(self)
        if self.train_data == ["toy"]:
            self.validation_data = self.validation_data or ["toy"]
            self.test_data = self.test_data or ["toy"]
            self.attribute_columns = self.attribute_columns or ["colour", "pattern"]


@dataclass
class CardArguments:
    """What the card of a published checkpoint says and no file of the checkpoint holds."""

    license: str | None = option(
        "Licence of the weights, by the Hub's name for it; 'other' needs license_name and license_link.", None
    )
    license_name: str | None = option("Name of a licence that the Hub has no name for.", None)
    license_link: str | None = option("URL of that licence.", None)
    base_models: list[str] = option(
        "Hub ids of the models that training started from; found from the checkpoint if not given.", []
    )
    card_data: list[str] = option("Training data and its licence, as name=licence; Hub ids are linked.", [])
    card_languages: list[str] = option("Languages of the titles, such as en.", [])
    card_limits: list[str] = option("Further limitations, a sentence each.", [])

    def __post_init__(self) -> None:
        """Check the values."""
        if wrong := [entry for entry in self.card_data if not all(entry.partition("=")[::2])]:
            raise ValueError(f"`card_data` holds {wrong[0]!r}; give name=licence, such as 'Fashion Products=mit'.")
        if (self.license == "other") != bool(self.license_name and self.license_link):
            raise ValueError(
                f"`license` is {self.license!r}, `license_name` {self.license_name!r}, `license_link` "
                f"{self.license_link!r}; a licence that the Hub has no name for is other, with the two."
            )


@dataclass
class TrainArguments(CardArguments):
    """How a model is trained. Durations and intervals are counted in samples (offers seen), not in steps."""

    output_dir: str = option("Folder for checkpoints, the model and the report.", "outputs/eclip")
    overwrite_output_dir: bool = option("Start anew although output_dir holds checkpoints, and remove them.", False)
    resume_from_checkpoint: str | None = option("'latest', or the folder of a checkpoint.", None)
    seed: int = option("Seed of new weights, the order of offers, augmentation and dropout.", 0, within="[0, inf)")
    num_epochs: float = option("Passes over the training offers.", 1.0, within="(0, 1e6]")
    max_samples: int | None = option("Samples to train on, in place of num_epochs.", None, within="[1, inf)")
    batch_size: int = option("Offers in a batch over all ranks: each is contrasted with all others.", 256)
    batch_size_schedule: list[str] = option(
        "Later batch sizes as share:size; 0.1:4096 means 4096 offers after a tenth of the run.", []
    )
    batch_size_rule: BatchSizeRule = option(
        "How the learning rates, given for batch_size, grow with a later batch size.", "none"
    )
    text_stream_size: int | None = option(
        "Titles that a rank encodes at once; four times image_stream_size, or its whole batch, if not given.",
        None,
        within="[1, inf)",
    )
    image_stream_size: int | None = option(
        "Images that a rank encodes at once; its whole batch if not given.", None, within="[1, inf)"
    )
    keep_graphs: str = option(
        "Share of the streams, 0 to 1, whose graphs are kept, so that they are encoded once; auto: as memory allows.",
        "auto",
    )
    mate_contrast_weight: float = option(
        "Weight of the contrast among titles and among images by catalog.", 0.0, within="[0, inf)"
    )
    learning_rate: float = option(
        "Peak learning rate of the projections, and of the towers without tower_learning_rate.", 5e-4, within="[0, 10]"
    )
    tower_learning_rate: float | None = option(
        "Peak learning rate of the towers; learning_rate if not given.", None, within="[0, 10]"
    )
    layer_decay: float = option(
        "Factor by which a tower's rate shrinks per block below its top.", 1.0, within="[0, 1]"
    )
    weight_decay: float = option(
        "Weight decay of matrices; biases, norms and the temperature have none.", 0.1, within="[0, 10]"
    )
    no_weight_decay: list[str] = option("Regular expressions of further parameter names without decay.", [])
    adam_beta1: float = option("AdamW's first beta.", 0.9, within="[0, 1)")
    adam_beta2: float = option("AdamW's second beta.", 0.98, within="[0, 1)")
    adam_epsilon: float = option("AdamW's epsilon.", 1e-6, within="(0, 1]")
    warmup_share: float = option("Share of the samples over which the learning rate rises.", 0.1, within="[0, 1]")
    final_learning_rate_share: float = option(
        "Share of the peak learning rate that the cosine ends at.", 0.0, within="[0, 1]"
    )
    keep_patches: float = option(
        "Share of an image's patches that the image tower sees in training.", 1.0, within="(0, 1]"
    )
    ema_decay: float | None = option(
        "Average the weights over steps with this decay, such as 0.999.", None, within="[0, 1)"
    )
    max_grad_norm: float = option("Gradients are clipped to this norm.", 1.0, within="(0, inf)")
    max_bad_steps: int = option(
        "Stop after this many steps in a row whose loss or gradient is not a number.", 5, within="[1, inf)"
    )
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = option(
        "auto: what `accelerate launch` asks for, otherwise bf16 on accelerators that compute in it, and float32 (no) "
        "on CPUs.",
        "auto",
    )
    tf32: bool = option(
        "Let GPUs compute the towers' float32 products in TensorFloat-32; the loss's stay exact. For mixed_precision "
        "no; bf16 and fp16 have no use for it.",
        False,
    )
    compile: bool = option("Compile both towers with torch.compile.", False)
    compile_backend: str = option("Backend of torch.compile.", "inductor")
    cache_frozen_towers: bool = option("Encode offers once with a frozen tower, and keep its vectors on disk.", False)
    gradient_checkpointing: bool = option("Compute activations twice to save memory.", False)
    channels_last: bool = option("Use the channels-last memory format: faster for convolutional towers.", False)
    fix_batch_norm: bool = option("Keep the statistics of batch norm fixed; recommended for pretrained towers.", True)
    eval_batch_size: int = option("Offers embedded at a time in evaluation.", 256, within="[1, inf)")
    eval_every_samples: int | None = option(
        "Samples between evaluations; there is always one at the start and one at the end.", None, within="[1, inf)"
    )
    save_every_samples: int | None = option(
        "Samples between checkpoints; only the final model is saved if not given.", None, within="[1, inf)"
    )
    save_total_limit: int = option("Number of checkpoints that are kept.", 2, within="[1, inf)")
    report_to: list[str] = option("Experiment trackers: tensorboard, trackio, wandb.", [])
    push_to_hub: bool = option("Publish model and processor at the end.", False)
    hub_model_id: str | None = option("Repository to publish to; the name of output_dir if not given.", None)
    hub_private: bool = option("Make that repository private.", False)

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        check_ranges(self)
        if self.text_stream_size is None and self.image_stream_size is not None:
            self.text_stream_size = TITLES_PER_IMAGE * self.image_stream_size
        if self.batch_size < 2:
            raise ValueError(f"`batch_size` is {self.batch_size}; a contrast needs at least 2 offers.")
        BatchSizeSchedule(self.batch_size, parse_batch_size_steps(self.batch_size_schedule), 1, self.batch_size_rule)
        if self.keep_graphs != "auto":
            try:
                share = float(self.keep_graphs)
            except ValueError:
                share = math.nan
            if not 0 <= share <= 1:
                raise ValueError(f"`keep_graphs` is {self.keep_graphs!r}; give a share from 0 to 1, or auto.")


@dataclass
class FinetuneArguments(TrainArguments):
    """How a task is learned: the training arguments, with defaults that suit tasks, and those of the task.

    Streams and the contrast of mates belong to pre-training and have no effect here.
    """

    output_dir: str = option("Folder for checkpoints, the model and the report.", "outputs/finetune")
    task: str = option("What is learned.", "category", TASK_NAMES)
    modality: Literal["text", "image", "both"] = option("Modality that the task is learned from.", "both")
    method: Literal["linear", "full", "lora"] = option(
        "linear: a classifier on the vectors of frozen towers; full: all weights; lora: adapters in the towers.",
        "full",
    )
    join: list[str] = option(
        "Two heads, of titles and of images, to join in one; only how they are joined is fitted.", []
    )
    label_share: float = option(
        "Share of the training rows (or pairs, or catalogs) whose labels are used.", 1.0, within="(0, 1]"
    )
    num_epochs: float = option("Passes over the labelled rows.", 8.0, within="(0, 1e6]")
    batch_size: int = option("Rows in a batch over all ranks.", 64)
    learning_rate: float = option("Peak learning rate of the head.", 2e-3, within="[0, 10]")
    tower_learning_rate: float | None = option(
        "Peak learning rate of the towers; 1e-4 if not given, 1e-3 for adapters.", None, within="[0, 10]"
    )
    weight_decay: float = option("Weight decay of matrices; biases and norms have none.", 0.05, within="[0, 10]")
    adam_beta2: float = option("AdamW's second beta.", 0.999, within="[0, 1)")
    label_smoothing: float = option(
        "Share of a label's mass that is spread over all classes; no effect with linear.", 0.05, within="[0, 1)"
    )
    modality_dropout: float = option(
        "Probability, per modality, of leaving it out where both are given; no effect with linear.",
        0.1,
        within="[0, 1]",
    )
    positive_weight: float | None = option(
        "Weight of a restricted product in the loss; if not given, both classes weigh the same in total.",
        None,
        within="(0, inf)",
    )
    target_recall: float = option(
        "Recall of restricted products on validation that the threshold is chosen for.", 0.95, within="(0, 1]"
    )
    min_probability: float = option(
        "Attribute values with a lower probability than this are predicted as not stated.", 0.0, within="[0, 1]"
    )
    merge: bool = option("Save adapters merged into the weights, as a full model, not alone.", False)

    def __post_init__(self) -> None:
        """Check the values, and set the towers' learning rate."""
        super().__post_init__()
        if self.tower_learning_rate is None:
            self.tower_learning_rate = 1e-3 if self.method == "lora" else 1e-4


@dataclass
class PublishArguments(CardArguments):
    """What `publish.py` publishes, and where."""

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


@dataclass
class ResamplingArguments:
    """How the intervals of a head's metrics are computed."""

    num_resamples: int = option(
        "Number of bootstrap samples for the confidence intervals of a head's metrics.", 1000, within="[1, inf)"
    )
    resample_by: Literal["catalogs", "rows"] = option(
        "Unit of the bootstrap; rows where training has seen the same catalogs as the split.", "catalogs"
    )


@dataclass
class EvaluationArguments(ResamplingArguments):
    """What `evaluate_tasks.py` measures."""

    checkpoints: list[str] = option("e-CLIP checkpoints, compared with the configuration's untrained model.", [])
    report_dir: str = option("Folder for metrics and plots.", "outputs/evaluation")
    eval_batch_size: int = option("Offers embedded at a time.", 256, within="[1, inf)")
    eval_mixed_precision: Literal["no", "bf16", "fp16"] = option(
        "Number format of the towers' computation; no is float32, which every machine computes alike.", "no"
    )
    seed: int = option(
        "Seed of the untrained model's weights, of derived pairs and of resampling.", 0, within="[0, inf)"
    )
    task: str | None = option(
        "Task that the checkpoints' heads are measured on; retrieval and matching without training if not given.",
        None,
        TASK_NAMES,
    )
    modality: Literal["text", "image", "both"] | None = option(
        "Modality that a head gets; all that it was trained with if not given.", None
    )
    zero_shot: bool = option(
        "Predict by the names of the classes, without training, for categories and attributes; the classes are those "
        "of the split where a checkpoint has no head.",
        False,
    )
    split: Literal["train", "validation", "test"] = option("Split that heads are measured on.", "test")

    def __post_init__(self) -> None:
        """Check the values."""
        check_ranges(self)


@dataclass
class ReportArguments:
    """What `report.py` compares."""

    output_dir: str = option("Folder for runs, checkpoints, tables and plots.", "outputs/report")
    pretraining: str = option("Configuration of the pre-training.", "training/configs/fashion.yaml")
    pretraining_samples: int | None = option(
        "Samples of each pre-training; as its configuration says if not given.", None, within="[1, inf)"
    )
    pretraining_seeds: int = option(
        "Pre-trainings of each kind; the seeds of the tasks use them in turn.", 1, within="[1, inf)"
    )
    tasks: list[str] = option("Tasks, as task:configuration; the name of the file is the name of the data.", [])
    trained_modalities: list[str] = option(
        "Modalities, as task:data:modality, whose towers are trained with all labels if that is better on validation "
        "than a linear probe.",
        [],
    )
    max_task_rows: int | None = option(
        "Maximum number of training rows of a task; all if not given.", None, within="[1, inf)"
    )
    modalities: list[str] = option("text, image, both; both needs the other two.", ["text", "image", "both"])
    methods: list[str] = option(
        "eclip, hard_labels, no_pretraining, classical.", ["eclip", "hard_labels", "no_pretraining", "classical"]
    )
    baseline: list[str] = option(
        "Further models to compare with: Hub ids or folders of CLIP, SigLIP or e-CLIP checkpoints.", []
    )
    label_shares: list[float] = option(
        "Shares of the labels that are learned from.", [0.01, 0.1, 1.0], within="(0, 1]"
    )
    num_seeds: int = option("Number of seeds, of the label shares and of training.", 3, within="[1, inf)")
    num_resamples: int = option("Number of bootstrap samples for confidence intervals.", 300, within="[1, inf)")
    jobs: int = option("Runs that are computed at the same time; use 1 on a GPU.", 2, within="[1, inf)")

    def __post_init__(self) -> None:
        """Check the values."""
        if "both" in self.modalities and not {"text", "image"} <= set(self.modalities):
            raise ValueError(f"`modalities` is {self.modalities}; both is put together from text and image.")
        known = {
            "modalities": ("text", "image", "both"),
            "methods": ("eclip", "hard_labels", "no_pretraining", "classical"),
        }
        for name, values in known.items():
            if unknown := [value for value in getattr(self, name) if value not in values]:
                raise ValueError(f"`{name}` holds {unknown[0]!r}; give some of {', '.join(values)}.")
        check_ranges(self)
        if not self.label_shares:
            raise ValueError("`label_shares` is empty; give shares above 0 and at most 1.")


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
