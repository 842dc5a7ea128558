"""The memory of a process over a step, its messages and its arithmetic."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from frtrain.backbones.base import CROP_SIZE
from frtrain.data.loader import AHEAD
from frtrain.planning import rehearsal
from frtrain.planning.imagined import Traffic
from frtrain.planning.job import Job
from frtrain.planning.ledger import Bytes, Ledger, together, total
from frtrain.planning.rehearsal import CENTRES, GRADIENTS, STATISTICS, WEIGHTS, Part
from frtrain.training.optimizers import build_optimizer

BACKBONE_STATE, CENTRE_STATE = "optimizer state of the backbone", "optimizer state of the centres"
AVERAGE, OPTIMIZING, COMPRESSED, GATHERED = (
    "average of the weights",
    "optimizer at work",
    "compressed gradients",
    "gathered weights",
)

REPLICATING = ("dense", "chunked")
"""Engines with which every process has all centres."""

MIB = 2**20

CUDA_CONTEXT = 600 * MIB
"""Context, kernels and cuBLAS handles of a process on a GPU. An allowance: between 400 and 800 MiB by GPU and driver."""

NCCL_BUFFERS = 400 * MIB
"""Of a process that talks to others by NCCL. An allowance."""

CUDNN_WORKSPACE = 256 * MIB
"""What convolutions borrow, the channels-last ones included. An allowance: cuDNN chooses its algorithms by the GPU."""

ROUNDING = 0.05
"""Share of all tensors that an allocator loses to rounding and gaps. An allowance."""

CPU_PROCESS = 775 * MIB
"""Interpreter, torch and its libraries in a training process on a CPU, measured (docs/plan.md)."""

CPU_SCRATCH = 150 * MIB
"""What oneDNN and the allocator hold besides, on a CPU, measured likewise; `ROUNDING` comes on top."""


@dataclass(frozen=True)
class Moment:
    """What is held at the worst moment of one part of a step.

    Attributes:
        name: of the part.
        held: bytes by what they hold.
    """

    name: str
    held: Bytes

    @property
    def total(self) -> int:
        """All of it."""
        return total(self.held)


@dataclass(frozen=True)
class Prediction:
    """What one process needs; of several the first, which has the most.

    Attributes:
        job: what was asked.
        engine: name of the classifier's engine.
        moments: in the order of a step.
        allowances: what no tensor of the step holds, estimated.
        host: bytes in main memory of the process, where it computes on a GPU.
        sent: bytes that a process sends in a step, by what they are.
        backbone_flops, classifier_flops: of a process in a step.
        left_out: what is not counted; empty where nothing is.
    """

    job: Job
    engine: str
    moments: tuple[Moment, ...]
    allowances: Bytes
    host: Bytes
    sent: Bytes
    backbone_flops: int
    classifier_flops: int
    left_out: str = ""

    @property
    def peak(self) -> Moment:
        """The moment that holds most."""
        return max(self.moments, key=lambda moment: moment.total)

    @property
    def total(self) -> int:
        """Of the GPU, or of the process on a CPU: the peak and the allowances."""
        return self.peak.total + total(self.allowances)

    @property
    def fits(self) -> bool:
        """Whether the target has that much memory."""
        return self.total <= self.job.target.memory_bytes

    @property
    def flops(self) -> int:
        """Of a process in a step."""
        return self.backbone_flops + self.classifier_flops


def predict(job: Job, classifier: Part | None = None) -> Prediction:
    """Rehearse a step of the job and add up.

    Args:
        job: what is planned.
        classifier: in place of the one of its configuration.

    Raises:
        ConfigError: a component's parameters, by key.
    """
    accumulate = job.config.trainer.accumulate
    backbone = _backbone(job)
    classifier = classifier or _classifier(job, backbone.embedding_size)
    state, working = _optimizer(job, backbone, classifier)
    resident = together(
        backbone.resident, {STATISTICS: backbone.resident.get(STATISTICS, 0)}, classifier.resident, state
    )
    if job.config.trainer.ema_decay is not None:
        resident = together(resident, {AVERAGE: backbone.resident[WEIGHTS]})
    backward = backbone.backward
    if job.config.trainer.gradient_compression != "none" and job.processes > 1:
        backward = together(backward, {COMPRESSED: _weight_bytes(job, backbone) // 2})
    moments: tuple[Moment, ...] = (
        Moment("backbone, forward", together(resident, backbone.forward)),
        Moment("classifier, forward", together(resident, backbone.between, classifier.forward)),
        Moment("classifier, backward", together(resident, backbone.between, classifier.backward)),
        Moment("backbone, backward", together(resident, classifier.after, backward)),
        Moment("optimizer", together(resident, classifier.after, backbone.after, working)),
    )
    if job.sharded_backbone:
        moments = tuple(_divided(moment, backbone, job.processes) for moment in moments)
    host = _host(job, moments[0].held, backbone, classifier)
    on_gpu = job.target.kind == "cuda"
    peak = max(moment.total for moment in moments)
    return Prediction(
        job=job,
        engine=classifier.name,
        moments=moments,
        allowances=_allowances(job, peak) if on_gpu else {**_cpu_allowances(peak), **host},
        host=host if on_gpu else {},
        sent=_sent(job, backbone, classifier),
        backbone_flops=backbone.flops * accumulate,
        classifier_flops=classifier.flops * accumulate,
        left_out=classifier.left_out,
    )


Rehearsed = TypeVar("Rehearsed")

_REHEARSED: dict[str, Any] = {}


def _key(*facts: Any) -> str:
    """A text that is the same for the same facts."""
    return json.dumps(facts, default=str, sort_keys=True)


def _once(key: str, rehearse: Callable[[], Rehearsed]) -> Rehearsed:
    """Parts do not depend on each other, so that a search for a batch or an engine repeats little."""
    if key not in _REHEARSED:
        _REHEARSED[key] = rehearse()
    found: Rehearsed = _REHEARSED[key]
    return found


def _backbone(job: Job) -> Part:
    config, trainer = job.config, job.config.trainer
    kept = trainer.accumulate > 1 or (job.processes > 1 and not job.sharded_backbone)
    rows = job.rows if job.sync_batch_norm else job.rows[:1]
    facts = (rows, job.target.kind, job.precision, job.channels_last, job.sync_batch_norm, kept)
    key = _key("backbone", config.backbone, trainer.activation_checkpointing, trainer.precision, *facts)
    return _once(
        key,
        lambda: rehearsal.rehearse_backbone(
            config, rows, job.target.device, job.precision, job.channels_last, job.sync_batch_norm, kept
        ),
    )


def _classifier(job: Job, embedding_size: int) -> Part:
    config = job.config
    facts = (job.identities, embedding_size, job.rows, job.target.kind, config.trainer.accumulate > 1)
    parts = (config.classifier, config.loss, config.modifiers.model_dump(), config.auxiliary, config.trainer.precision)
    return _once(
        _key("classifier", *parts, *facts),
        lambda: rehearsal.rehearse_classifier(config, job.identities, embedding_size, job.rows, job.target.device),
    )


class _Outline(nn.Module):
    """A module of nothing but parameters, without memory, that go by given names."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype):
        super().__init__()
        self.shapes = {
            name: nn.Parameter(torch.empty(shape, dtype=dtype, device="meta")) for name, shape in shapes.items()
        }

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Name and parameter."""
        yield from self.shapes.items()


def _optimizer(job: Job, backbone: Part, classifier: Part) -> tuple[Bytes, Bytes]:
    """The optimizer's state, and what it needs besides while it works; the batch changes the learning rate alone."""
    facts = (job.config.optimizer, job.config.trainer.precision, job.target.kind, job.sharded_backbone)
    key = _key("optimizer", *facts, list(backbone.shapes.items()), list(classifier.shapes.items()))
    return _once(key, lambda: _rehearse_optimizer(job, backbone, classifier))


def _rehearse_optimizer(job: Job, backbone: Part, classifier: Part) -> tuple[Bytes, Bytes]:
    """Two of its steps, on tensors without memory."""
    dtype = rehearsal.dtype_of(job.config)
    modules = {"backbone": _Outline(backbone.shapes, dtype), "classifier": _Outline(classifier.shapes, dtype)}
    spec = dict(job.config.optimizer)
    on_gpu = job.target.kind == "cuda"
    fused = bool(spec.get("fused") in ("auto", True) and on_gpu and not job.sharded_backbone)
    if "fused" in spec:
        spec["fused"] = "auto"
    with Ledger() as ledger:
        optimizer = build_optimizer(spec, cast(Mapping[str, nn.Module], modules), images_per_step=job.batch)
        parameters = [parameter for module in modules.values() for _, parameter in module.named_parameters()]
        for parameter in parameters:
            parameter.grad = torch.empty_like(parameter)
        ledger.enter(
            "given", [tensor for parameter in parameters for tensor in (parameter, cast(Tensor, parameter.grad))]
        )
        for group in optimizer.param_groups:
            if on_gpu and "foreach" in group:
                group["foreach"] = True
        optimizer.step()
        for name, label in (("backbone", BACKBONE_STATE), ("classifier", CENTRE_STATE)):
            for _, parameter in modules[name].named_parameters():
                ledger.enter(label, _tensors(optimizer.state.get(parameter, {})))
        ledger.take_peak()
        optimizer.step()
        peak = ledger.take_peak()
    state = {label: peak[label] for label in (BACKBONE_STATE, CENTRE_STATE) if label in peak}
    return state, {} if fused else {OPTIMIZING: peak.get("other", 0)}


def _tensors(state: Mapping[str, Any]) -> list[Tensor]:
    return [value for value in state.values() if isinstance(value, Tensor) and value.dim()]


def _divided(moment: Moment, backbone: Part, count: int) -> Moment:
    """With FSDP each process keeps a share of what belongs to weights, and has a few of them whole for a moment."""
    held = dict(moment.held)
    for label in (WEIGHTS, GRADIENTS, BACKBONE_STATE, AVERAGE):
        if label in held:
            held[label] = math.ceil(held[label] / count)
    if moment.name.startswith("backbone"):
        held[GATHERED] = backbone.gathered * (2 if moment.name.endswith("backward") else 1)  # and their gradients
    return Moment(moment.name, held)


def _allowances(job: Job, peak: int) -> Bytes:
    allowances = {"CUDA context": CUDA_CONTEXT, "cuDNN workspace": CUDNN_WORKSPACE, "allocator": round(peak * ROUNDING)}
    if job.processes > 1:
        allowances["NCCL buffers"] = NCCL_BUFFERS
    return allowances


def _cpu_allowances(peak: int) -> Bytes:
    return {"interpreter and libraries": CPU_PROCESS, "allocator and scratch": CPU_SCRATCH + round(peak * ROUNDING)}


def _host(job: Job, held: Bytes, backbone: Part, classifier: Part) -> Bytes:
    """Main memory of the process that needs most: the loader's slots, batches under way, and the copy that a checkpoint is written of."""
    batch = job.rows[0] * 3 * CROP_SIZE**2
    slots = (job.workers * AHEAD + 2) if job.workers else 0
    host = {"loader": (slots + 2) * batch}
    if job.config.checkpoint.background:
        host["checkpoint being written"] = _written(job, held, backbone, classifier)
    return host


def _written(job: Job, held: Bytes, backbone: Part, classifier: Part) -> int:
    """Bytes of a checkpoint that the process writes that writes most.

    Each writes what it alone has. What all have is dealt out by whole tensors, but the average of the weights, which
    process 0 writes (`frtrain.training.shards.own_duty`).
    """
    itemsize, shared, largest = rehearsal.dtype_of(job.config).itemsize, 0, 0
    own = {label: held.get(label, 0) for label in (WEIGHTS, BACKBONE_STATE, AVERAGE, CENTRES, CENTRE_STATE)}
    of_first = 0 if job.sharded_backbone else own.pop(AVERAGE)
    for part, labels, divided in (
        (backbone, (WEIGHTS, BACKBONE_STATE), job.sharded_backbone),
        (classifier, (CENTRES, CENTRE_STATE), classifier.name not in REPLICATING),
    ):
        if not divided:
            shared += sum(own.pop(label) for label in labels)
            largest = max(largest, *(math.prod(shape) * itemsize for shape in part.shapes.values()))
    return total(own) + max(of_first, largest, math.ceil((of_first + shared) / job.processes))


def _weight_bytes(job: Job, part: Part) -> int:
    return rehearsal.dtype_of(job.config).itemsize * sum(math.prod(shape) for shape in part.shapes.values())


def _sent(job: Job, backbone: Part, classifier: Part) -> Bytes:
    """Bytes that a process sends in a step."""
    if job.processes == 1:
        return {}
    trainer, weights = job.config.trainer, _weight_bytes(job, backbone)
    traffic = Traffic(job.processes)
    passes = trainer.accumulate
    statistics = backbone.sent
    if job.target.kind == "cuda":  # torch's SyncBatchNorm sends float32, that of CPUs float64
        statistics = {what: count // 2 for what, count in statistics.items()}
    for held in (statistics, classifier.sent):
        traffic.sent = dict(together(traffic.sent, {what: count * passes for what, count in held.items()}))
    share = math.ceil(weights / job.processes)
    if job.sharded_backbone:
        for _ in range(2 * passes):  # forward and backward
            traffic.all_gather("weights (FSDP)", share)
        traffic.all_gather("gradients (FSDP, reduce-scatter)", share)
    else:
        factor = 1 if trainer.gradient_compression == "none" else 2
        traffic.all_reduce("gradients of the backbone", weights // factor)
        if not job.sync_batch_norm:
            traffic.sent["batch-norm statistics"] = backbone.resident.get(STATISTICS, 0) * passes
    if classifier.name in REPLICATING:
        traffic.sent["gradients of the centres, which all have"] = _weight_bytes(job, classifier)
    return traffic.sent
