"""A training step on fake tensors: backbone, classifier and optimizer, each as training builds and calls them.

Nothing is computed and no memory is taken; what the step would hold at its worst is counted by a `Ledger`, operation by operation,
with what autograd saves, what autocast casts, and what a loss or a block of classes needs for a moment.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

from frtrain.auxiliary import AUXILIARIES
from frtrain.backbones import BACKBONES
from frtrain.backbones.base import CROP_SIZE, Backbone
from frtrain.classifier import CLASSIFIERS, Classifier
from frtrain.classifier.allocation import LARGE, GradientMemory
from frtrain.classifier.automatic import DENSE_UP_TO
from frtrain.classifier.chunked import BlockwiseClassifier
from frtrain.classifier.dense import DenseClassifier
from frtrain.classifier.selection import block_size
from frtrain.config import TrainConfig
from frtrain.data.preprocessing import Preprocessing
from frtrain.losses import LOSSES
from frtrain.modifiers import modified
from frtrain.planning.imagined import ImaginedProcesses
from frtrain.planning.ledger import Bytes, Ledger, together, without
from frtrain.training.activation_checkpointing import recompute_in_backward
from frtrain.training.batch_norm import synchronised
from frtrain.training.dropout import place_dropout

WEIGHTS, GRADIENTS = "backbone weights", "backbone gradients"
STATISTICS = "batch-norm statistics"
CENTRES, CENTRE_GRADIENTS = "class centres", "gradient of the centres"
IMAGES, ACTIVATIONS, BACKWARD = "images", "activations", "backward of the backbone"
CLASSIFYING = "similarities and blocks"

MOST_BLOCKS = 64
"""Blocks of classes that are visited one by one. More are all alike: their memory is reckoned from two smaller numbers of classes."""


@dataclass(frozen=True)
class Part:
    """What one part of a step holds, besides the other parts.

    Attributes:
        resident: all the time.
        forward, backward: at the peak of its pass, besides that.
        between: from the end of its forward pass to the begin of its backward pass.
        after: after its backward pass, to the optimizer's step.
        shapes: of its trainable parameters, by name.
        flops: of both passes.
        sent: bytes that a process sends in both, by what they are.
        name: of what was chosen, where there was a choice.
        gathered: bytes of weights that FSDP has whole at once.
        embedding_size: of a backbone.
        left_out: what could not be rehearsed.
    """

    resident: Bytes
    forward: Bytes
    between: Bytes
    backward: Bytes
    after: Bytes
    shapes: Mapping[str, tuple[int, ...]]
    flops: int
    sent: Bytes
    name: str = ""
    gathered: int = 0
    embedding_size: int = 0
    left_out: str = ""


class HeldMemory(GradientMemory):
    """As `GradientMemory`, which asks numpy for memory, on fake tensors.

    Args:
        kept: whether the memory is kept from step to step, as on a CPU.
    """

    def __init__(self, ledger: Ledger, kept: bool):
        super().__init__()
        self._ledger = ledger
        self.kept = kept
        self._tensor: Tensor | None = None
        self._lent: weakref.ref[Tensor] | None = None

    def empty_like(self, tensor: Tensor) -> Tensor:
        """A tensor of the same shape, of the memory of the last one if that is free."""
        with self._ledger.under(CENTRE_GRADIENTS):
            if not self.kept:
                return torch.empty_like(tensor, memory_format=torch.contiguous_format)
            if self._tensor is None or (self._lent is not None and self._lent() is not None):
                self._tensor = torch.empty_like(tensor, memory_format=torch.contiguous_format)
            lent = self._tensor.detach()
            self._lent = weakref.ref(lent)
            return lent


def rehearse_backbone(
    config: TrainConfig,
    rows: tuple[int, ...],
    device: torch.device,
    precision: torch.dtype | None,
    channels_last: bool,
    synchronise: bool,
    gradients_kept: bool,
) -> Part:
    """The backbone's forward and backward pass over the first process's rows.

    Args:
        config: of the run.
        rows: of each process.
        device: kind of device that is planned for.
        precision: of autocast; None: float32.
        channels_last: memory layout.
        synchronise: whether batch norm takes the statistics of all processes.
        gradients_kept: whether gradients exist all the time: in the buckets of DistributedDataParallel, or accumulated.
    """
    processes = ImaginedProcesses.of(rows, "batch-norm statistics")
    with FakeTensorMode(), Ledger() as ledger:
        backbone = BACKBONES.build(config.backbone)
        embedding_size, network = backbone.embedding_size, cast(nn.Module, backbone)
        place_dropout(network, config.seed, torch.device("cpu"))
        if synchronise:
            network = synchronised(network, processes, torch.device("cpu"))
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        _lay_out(network.train(), memory_format, dtype_of(config))
        if config.trainer.activation_checkpointing and isinstance(network, Backbone):
            recompute_in_backward(network.blocks())
        ledger.enter(WEIGHTS, network.parameters())
        ledger.enter(STATISTICS, [buffer for buffer in network.buffers() if buffer.dim()])
        trainable = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
        for parameter in trainable.values():
            if gradients_kept:
                parameter.grad = torch.zeros_like(parameter)
                ledger.enter(GRADIENTS, [parameter.grad])
            parameter.register_post_accumulate_grad_hook(
                lambda weight: ledger.enter(GRADIENTS, [cast(Tensor, weight.grad)])
            )
        resident = ledger.live
        ledger.flops = 0
        with ledger.under(IMAGES):
            images = torch.empty(rows[0], CROP_SIZE, CROP_SIZE, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
        ledger.take_peak()
        with ledger.under(ACTIVATIONS):
            with torch.autocast("cpu", dtype=precision, enabled=precision is not None):
                crops = Preprocessing().normalise(images).to(dtype_of(config))
                embedding = network(crops.contiguous(memory_format=memory_format))
                del crops
            embedding = embedding.to(dtype_of(config))
        forward, between = ledger.take_peak(), ledger.live
        with ledger.under(BACKWARD):
            embedding.backward(torch.empty_like(embedding))
        backward = ledger.take_peak()
        del embedding
        after = ledger.live
        gathered = _gathered(network)
    return Part(
        resident=resident,
        forward=without(forward, resident),
        between=without(between, resident),
        backward=without(backward, resident),
        after=without(after, resident),
        shapes={name: tuple(weight.shape) for name, weight in trainable.items()},
        flops=ledger.flops,
        sent=processes.traffic.sent,
        gathered=gathered,
        embedding_size=embedding_size,
    )


def rehearse_classifier(
    config: TrainConfig, classes: int, embedding_size: int, rows: tuple[int, ...], device: torch.device
) -> Part:
    """Forward and backward pass of loss and classifier over the batch of all processes.

    An auxiliary loss whose tensors have sizes that depend on the labels, as those of pairs and triplets, is left out.
    """
    try:
        return _rehearse_classifier(config, classes, embedding_size, rows, device)
    except Exception as error:
        if config.auxiliary is None or not _of_unknown_size(error):
            raise
    alone = config.model_copy(update={"auxiliary": None})
    part = _rehearse_classifier(alone, classes, embedding_size, rows, device)
    return replace(
        part, left_out=f"auxiliary={config.auxiliary['name']}, whose tensors depend on the labels of a batch"
    )


def _of_unknown_size(error: BaseException | None) -> bool:
    unknown = (DynamicOutputShapeException, DataDependentOutputException)
    return error is not None and (isinstance(error, unknown) or _of_unknown_size(error.__cause__ or error.__context__))


def _rehearse_classifier(
    config: TrainConfig, classes: int, embedding_size: int, rows: tuple[int, ...], device: torch.device
) -> Part:
    spec = dict(config.classifier)
    name = _chosen(spec, config, classes, rows)
    spec = {
        key: value for key, value in {**spec, "name": name}.items() if name != "dense" or key in ("name", "init_std")
    }
    per_class = modified(LOSSES.build(config.loss), config.modifiers).centres_per_class
    if name == "dense":
        return _classify(config, spec, classes, embedding_size, rows, device)
    batch, share = sum(rows), 1 if name == "chunked" else len(rows)
    size = block_size(spec["chunk"], batch, per_class, device)
    blocks = -(-classes // share) // size
    rate = float(spec.get("rate", 1))
    width = dtype_of(config).itemsize
    gradient_bytes = width * embedding_size * per_class * -(-classes // share)
    kept_gradient = device.type == "cpu" and gradient_bytes >= LARGE and rate == 1  # of a sample it is made anew
    if blocks <= MOST_BLOCKS:
        return _classify(config, spec, classes, embedding_size, rows, device, kept_gradient)
    # Kept similarities are added by hand: all of them would have to be made first.
    kept = min(int(spec["keep_mib"] * 2**20) // width // (batch * size * per_class), int(blocks * rate))
    few, more = (share * (batch + round(size * count / rate)) for count in (MOST_BLOCKS // 4, MOST_BLOCKS // 2))
    parts = [
        _classify(config, {**spec, "keep_mib": 0.0}, count, embedding_size, rows, device, kept_gradient)
        for count in (few, more)
    ]
    part = _extrapolated(parts[0], parts[1], few, more, classes)
    numbers = kept * batch * size * per_class
    similarities = {CLASSIFYING: width * numbers}
    return replace(
        part,
        forward=together(part.forward, similarities),
        between=together(part.between, similarities),
        backward=together(part.backward, similarities),
        flops=part.flops - 2 * numbers * embedding_size,
    )


def _chosen(spec: Mapping[str, Any], config: TrainConfig, classes: int, rows: tuple[int, ...]) -> str:
    """The engine that `auto` is: asked of the registry with no more than a row of centres."""
    if spec["name"] != "auto":
        return str(spec["name"])
    with FakeTensorMode(), Ledger():
        head = modified(LOSSES.build(config.loss), config.modifiers)
        engine = CLASSIFIERS.build(
            spec,
            head=head,
            classes=min(classes, DENSE_UP_TO + 1),  # beyond it nothing depends on their number
            embedding_size=1,
            processes=ImaginedProcesses.of(rows),
        )
    return next(entry.name for entry in CLASSIFIERS if entry.factory is type(engine))


def _classify(
    config: TrainConfig,
    spec: Mapping[str, Any],
    classes: int,
    embedding_size: int,
    rows: tuple[int, ...],
    device: torch.device,
    kept_gradient: bool = False,
) -> Part:
    processes = ImaginedProcesses.of(rows)
    with FakeTensorMode(), Ledger() as ledger:
        classifier: Classifier = CLASSIFIERS.build(
            spec,
            head=modified(LOSSES.build(config.loss), config.modifiers),
            classes=2 * len(rows),
            embedding_size=embedding_size,
            processes=processes,
        )
        _widen(classifier, classes, embedding_size, processes)
        if config.auxiliary is not None:
            classifier.auxiliary = AUXILIARIES.build(config.auxiliary)
            classifier.auxiliary.set_up(classes, embedding_size)
        _lay_out(classifier, torch.contiguous_format, dtype_of(config))
        memory = HeldMemory(ledger, kept_gradient)
        if isinstance(classifier, BlockwiseClassifier):
            per_class = classifier.head.centres_per_class
            classifier.chunk = block_size(classifier.chunk, sum(rows), per_class, device)
            classifier._memory = memory
        ledger.enter(CENTRES, [*classifier.parameters(), *classifier.buffers()])
        trainable = {name: weight for name, weight in classifier.named_parameters() if weight.requires_grad}
        for parameter in trainable.values():
            parameter.register_post_accumulate_grad_hook(
                lambda weight: ledger.enter(CENTRE_GRADIENTS, [cast(Tensor, weight.grad)])
            )
        embedding = torch.empty(rows[0], embedding_size, dtype=dtype_of(config), requires_grad=True)
        labels = torch.zeros(rows[0], dtype=torch.int64)
        ledger.enter(ACTIVATIONS, [embedding, labels])
        if config.trainer.accumulate > 1:
            for parameter in trainable.values():
                parameter.grad = torch.zeros_like(parameter)
                ledger.enter(CENTRE_GRADIENTS, [parameter.grad])
        if isinstance(classifier, BlockwiseClassifier):
            memory.empty_like(classifier.centres)  # is there from the first step on
        resident = {label: count for label, count in ledger.live.items() if label != ACTIVATIONS}
        ledger.flops = 0
        ledger.take_peak()
        with ledger.under(CLASSIFYING):
            loss, facts = classifier(embedding, labels)
            forward, between = ledger.take_peak(), ledger.live
            loss.backward()
            backward = ledger.take_peak()
            del loss, facts
            embedding.grad = None
        after = ledger.live
        shapes = {name: tuple(weight.shape) for name, weight in trainable.items()}
        apart = {**resident, ACTIVATIONS: after[ACTIVATIONS]}
    return Part(
        resident=resident,
        forward=without(forward, apart),
        between=without(between, apart),
        backward=_with_gradient(without(backward, apart), without(after, apart)),
        after=without(after, apart),
        shapes=shapes,
        flops=ledger.flops,
        sent=processes.traffic.sent,
        name=str(spec["name"]),
    )


def _widen(classifier: Classifier, classes: int, embedding_size: int, processes: ImaginedProcesses) -> None:
    """Make a classifier of few classes one of many: their first centres need not be drawn."""
    classifier.classes = classes
    classifier.head.set_up(classes)
    assert isinstance(classifier, DenseClassifier | BlockwiseClassifier)
    count = classes
    if isinstance(classifier, BlockwiseClassifier):
        classifier.shard = classifier.shard_of(classes, processes)
        count = len(classifier.shard)
    count *= classifier.head.centres_per_class
    classifier.centres = nn.Parameter(torch.empty(count, embedding_size))
    classifier.bias = None if classifier.bias is None else nn.Parameter(torch.zeros(count))


def _with_gradient(backward: Bytes, after: Bytes) -> Bytes:
    """What becomes the gradient of the centres is one while it is made, too."""
    made = min(after.get(CENTRE_GRADIENTS, 0) - backward.get(CENTRE_GRADIENTS, 0), backward.get(CLASSIFYING, 0))
    return together(backward, {CENTRE_GRADIENTS: made, CLASSIFYING: -made}) if made > 0 else backward


def _extrapolated(few: Part, more: Part, classes_few: int, classes_more: int, classes: int) -> Part:
    """What grows with the number of classes grows in proportion once there are many blocks."""
    share = (classes - classes_few) / (classes_more - classes_few)

    def line(low: int, high: int) -> int:
        return round(low + (high - low) * share)

    def bytes_of(low: Bytes, high: Bytes) -> Bytes:
        return {label: line(low.get(label, 0), high.get(label, 0)) for label in {**low, **high}}

    shapes = {
        name: tuple(line(size, other) for size, other in zip(shape, more.shapes[name], strict=True))
        for name, shape in few.shapes.items()
    }
    return Part(
        resident=bytes_of(few.resident, more.resident),
        forward=bytes_of(few.forward, more.forward),
        between=bytes_of(few.between, more.between),
        backward=bytes_of(few.backward, more.backward),
        after=bytes_of(few.after, more.after),
        shapes=shapes,
        flops=line(few.flops, more.flops),
        sent=bytes_of(few.sent, more.sent),
        name=few.name,
    )


def dtype_of(config: TrainConfig) -> torch.dtype:
    """Of weights, embeddings and loss."""
    return torch.float64 if config.trainer.precision == "fp64" else torch.float32


def _lay_out(network: nn.Module, memory_format: torch.memory_format, dtype: torch.dtype) -> None:
    """As `network.to(dtype).to(memory_format=...)`, which refuses tensors that somebody watches."""
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            laid = parameter.detach().to(dtype)
            laid = laid.contiguous(memory_format=memory_format) if parameter.dim() == 4 else laid
            setattr(module, name, nn.Parameter(laid, parameter.requires_grad))
        for name, buffer in list(module.named_buffers(recurse=False)):
            if buffer.is_floating_point():
                setattr(module, name, buffer.to(dtype))


def _gathered(network: nn.Module) -> int:
    """Bytes of weights that FSDP has whole at once: what is in no block, one block, and the next one that is on its way."""
    units = network.blocks() if isinstance(network, Backbone) else []
    blocks = [sum(weight.nbytes for weight in unit.parameters()) for unit in units]
    rest = sum(weight.nbytes for weight in network.parameters()) - sum(blocks)
    return rest + 2 * max(blocks, default=0)
