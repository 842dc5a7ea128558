"""The typed schema of a training run. Defaults live in configs/; types, bounds and meaning live here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import Ge, Interval, MinLen
from pydantic import StringConstraints, model_validator

from frtrain.schema import (
    Fraction,
    FractionBelowOne,
    NonNegative,
    NonNegativeInt,
    Positive,
    PositiveInt,
    Section,
    Seed,
)

ComponentSpec = dict[str, Any]
"""`{"name": ..., parameter: value}`: a registered component; its parameters are checked by its own signature."""


class TrainerConfig(Section):
    """The loop: how long, how much at once, on what.

    Attributes:
        epochs: passes over the training images; or `max_steps` or `max_samples`, whichever comes first. One is needed.
        max_steps: optimizer steps.
        max_samples: images, counted in whole steps: the last one is completed.
        batch_size: of all processes together; images of one optimizer step are `batch_size * accumulate`.
        accumulate: batches whose gradients are averaged before a step.
        clip_norm: gradients of backbone and class centres are scaled down to this joint L2 norm; null: not.
        device: auto, cpu, cuda, cuda:1, mps.
        precision: of the backbone; the loss is float32, except with fp64, which is for proofs.
        channels_last: memory layout of the backbone; auto where it is faster.
        compile: whether the backbone is compiled (torch.compile).
        compile_classifier: whether what the classifier does with each similarity is.
        activation_checkpointing: whether the inside of each block is computed again in backward instead of kept.
        ema_decay: of an average of the backbone's weights, see `frtrain.training.weight_average`; null: none.
        workers: processes that decode images; auto by the number of cores; 0: in the training process.
        on_corrupt: what becomes of images that cannot be read, see `frtrain.data.corrupt`.
        max_skipped_in_a_row: non-finite steps in a row after which the run stops.
        hang_after_minutes: without a new batch, after which the run is taken for stuck and ended; 0 or null: never.
        profile: whether a few early steps are recorded, see `frtrain.training.observers.profile`.
        sync_batch_norm: batch norm takes the statistics of the whole batch, else each process those of its own images; auto:
            on CPUs.
        parallel: who averages the gradients of several processes: DistributedDataParallel, each process with all weights, or
            FSDP2, each with its share of them. One process alone does without.
        static_graph: of DistributedDataParallel: every step takes the same way through the network.
        gradient_compression: the type in which DistributedDataParallel sends and sums gradients; none: their own.
    """

    epochs: Positive | None
    max_steps: PositiveInt | None
    max_samples: PositiveInt | None
    batch_size: Annotated[int, Ge(2)]  # batch norm needs two
    accumulate: PositiveInt
    clip_norm: Positive | None
    device: str
    precision: Literal["auto", "fp32", "bf16", "fp16", "fp64"]
    channels_last: Literal["auto"] | bool
    compile: bool
    compile_classifier: bool
    activation_checkpointing: bool
    ema_decay: Annotated[float, Interval(ge=0, lt=1)] | None
    workers: Literal["auto"] | Annotated[int, Interval(ge=0, le=256)]
    on_corrupt: Literal["error", "skip", "replace"]
    max_skipped_in_a_row: PositiveInt
    hang_after_minutes: NonNegative | None
    profile: bool
    sync_batch_norm: Literal["auto"] | bool
    parallel: Literal["ddp", "fsdp"]
    static_graph: bool
    gradient_compression: Literal["none", "bf16", "fp16"]

    @model_validator(mode="after")
    def _has_an_end(self) -> TrainerConfig:
        if self.epochs is None and self.max_steps is None and self.max_samples is None:
            raise ValueError(
                "trainer.epochs, trainer.max_steps or trainer.max_samples must be set: the run would have no end"
            )
        return self


class ValidationConfig(Section):
    """Verification on identities of the training data that are held out of training.

    Attributes:
        fraction: share of the identities held out; 0: no validation.
        pairs: genuine and impostor pairs together.
        every_epochs: how often; fractions are allowed.
        patience: validations in a row without improvement of `checkpoint.metric` after which the run ends; null: never.
        weights: that are verified, also in the report at the end: those of the model, or their average (`trainer.ema_decay`).
        min_improvement: by how much the metric has to become better to count as improved.
    """

    fraction: Fraction
    pairs: Annotated[int, Ge(4)]
    every_epochs: Positive
    patience: PositiveInt | None
    min_improvement: NonNegative
    weights: Literal["model", "ema"]


class CheckpointConfig(Section):
    """When checkpoints are written and which are kept.

    Attributes:
        every_epochs: how often; fractions are allowed. One more is written at the end and on a stop signal.
        every_steps: additionally after so many steps; null: not.
        keep: the newest so many are kept, besides the best.
        keep_every_steps: those of multiples of so many steps are never removed; null: none is exempt.
        background: whether they are written while training goes on, from a copy in main memory.
        metric: the validation metric whose best checkpoint is kept as `best`.
    """

    every_epochs: Positive
    every_steps: PositiveInt | None
    keep: PositiveInt
    keep_every_steps: PositiveInt | None
    background: bool
    metric: str


class LogConfig(Section):
    """What is shown and written while training.

    Attributes:
        every_steps: scalars to the progress line, TensorBoard and metrics.jsonl.
        pictures_every_epochs: batch, angle histogram, ROC and hardest pairs to TensorBoard; null: never.
        tensorboard: whether event files are written.
        progress: auto shows a live line on a terminal and plain lines elsewhere.
        loggers: further destinations, by name or with their parameters, see `frtrain.training.logbook.LOGGERS`.
    """

    every_steps: PositiveInt
    pictures_every_epochs: Positive | None
    tensorboard: bool
    progress: Literal["auto", "live", "plain", "none"]
    loggers: list[str | ComponentSpec]


class ModifiersConfig(Section):
    """What is put on top of the loss, see `frtrain.modifiers`.

    Attributes:
        margin_warmup_steps: steps over which margins grow linearly from 0; 0: off.
        interclass_filter: cosine above which a wrong class is left alone; null: off.
        label_smoothing: share of the target that is spread over all classes; 0: off.
        focal_gamma: exponent of the focal factor (1 - p)^gamma of each sample; 0: off.
        hard_mining: share of the samples of a batch, the hardest, that are learned from; 1: off.
    """

    margin_warmup_steps: NonNegativeInt
    interclass_filter: Annotated[float, Interval(gt=-1, lt=1)] | None
    label_smoothing: FractionBelowOne
    focal_gamma: NonNegative
    hard_mining: Annotated[float, Interval(gt=0, le=1)]


class SubsetConfig(Section):
    """What of a data set is used, see `frtrain.data.selection.select`.

    Attributes:
        include: a text file with one identity per line: only these; null: all.
        exclude: exclusion lists (`frtrain.data.exclusion`) of identities and images that are left out.
        min_images: identities with fewer images are left out.
        max_images: of each identity, the first so many in the order of the source; null: all.
        first: of the identities that remain, the first so many; null: all.
    """

    include: Annotated[str, MinLen(1)] | None
    exclude: list[Annotated[str, MinLen(1)]]
    min_images: PositiveInt
    max_images: PositiveInt | None
    first: PositiveInt | None


class TrainConfig(Section):
    """A training run.

    Attributes:
        name: of the run; its folder is `<runs>/<name>/<time>`.
        runs: folder of all runs.
        run_dir: a given folder instead; if it holds a checkpoint, `resume=auto` goes on from it.
        resume: auto, never, or the path of a run or checkpoint to go on from.
        resume_anyway: whether a run may go on where its configuration or data differ in what would else be refused.
        init_from: run or checkpoint whose backbone a new run starts with; null: random weights.
        init_centres: whether it also starts with the class centres of the identities that both have.
        seed: of initial weights, order, augmentation, dropout and held-out identities.
        subset: what of the data is used.
        sampler: which images an epoch visits, in what order.
        device_augment: augmentation on the training device, after `augment`; null: none.
        auxiliary: a further loss on the embedding, e.g. `center`; null: none.
        suite: protocols evaluated after training, e.g. `lfw_view1`; null: none.
    """

    name: Annotated[str, StringConstraints(pattern=r"^[^/]*[^/.][^/]*$")]
    runs: Annotated[str, MinLen(1)]
    run_dir: str | None
    resume: str
    resume_anyway: bool
    init_from: Annotated[str, MinLen(1)] | None
    init_centres: bool
    seed: Seed
    data: ComponentSpec
    subset: SubsetConfig
    sampler: ComponentSpec
    augment: ComponentSpec
    backbone: ComponentSpec
    loss: ComponentSpec
    modifiers: ModifiersConfig
    classifier: ComponentSpec
    optimizer: ComponentSpec
    scheduler: ComponentSpec
    trainer: TrainerConfig
    validation: ValidationConfig
    checkpoint: CheckpointConfig
    log: LogConfig
    device_augment: ComponentSpec | None = None
    auxiliary: ComponentSpec | None = None
    suite: ComponentSpec | None = None
