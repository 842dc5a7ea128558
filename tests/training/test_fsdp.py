"""Backbones divided by FSDP2 and other ways to average gradients, with real gloo: what one process computes, and checkpoints."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from gloo_processes import of_each_rank
from torch.distributed.tensor import DTensor

from frtrain.commands import train as command
from frtrain.config import TrainConfig
from frtrain.deploy.embedder import load_embedder
from frtrain.errors import ConfigError, FrtrainError
from frtrain.training import parallel
from frtrain.training.checkpoint import Checkpoint, read_checkpoint
from frtrain.training.fully_sharded import follow_statistics_of_first
from frtrain.training.run_folder import RunFolder, checkpoint_of

pytestmark = pytest.mark.slow

EXACT = (
    "trainer.precision=fp64",
    "trainer.max_steps=4",
    "trainer.batch_size=9",
    "trainer.accumulate=2",
    "trainer.clip_norm=1.5",
    "checkpoint.every_steps=2",
    "checkpoint.keep=9",
)
"""Batch norm takes the statistics of all processes on a CPU, so one process computes the same. 9 images do not divide by 2."""

RUNS = {
    "fsdp": (*EXACT, "trainer.parallel=fsdp"),
    "bad_gradient": (*EXACT, "trainer.parallel=fsdp", "trainer.max_skipped_in_a_row=2"),
    "validated": (
        "trainer.parallel=fsdp",
        "trainer.sync_batch_norm=false",
        "trainer.max_steps=2",
        "trainer.ema_decay=0.9",
        "trainer.activation_checkpointing=true",
        "validation.weights=ema",
        "validation.fraction=0.3",
        "validation.pairs=24",
    ),
    "static_graph": ("trainer.static_graph=true", "trainer.max_steps=2"),
    "ddp": ("trainer.max_steps=2",),
    "bf16": ("trainer.gradient_compression=bf16", "trainer.max_steps=2"),
    "fp16": ("trainer.gradient_compression=fp16", "trainer.max_steps=2"),
}


@dataclass
class Outcome:
    """What a process has after a run.

    Attributes:
        error: that ended it.
        rows: of each parameter, those of this process and all.
        buffers: statistics of batch norm.
        embedding: of four images, by process 0 alone.
        sent_bytes: of gradients.
    """

    error: str
    rows: dict[str, tuple[int, int]]
    buffers: dict[str, torch.Tensor]
    embedding: list[torch.Tensor]
    sent_bytes: int


def images(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, 112, 112), dtype=torch.uint8, generator=generator)


def train_one(name: str, config: TrainConfig, rank: int) -> Outcome:
    runs: list[Any] = []
    embedding: list[torch.Tensor] = []
    loop, all_reduce, sent, error = command.train, dist.all_reduce, [0], ""

    def watched(run: Any, *rest: Any) -> None:
        runs.append(run)
        if name == "bad_gradient" and rank == 1:
            step = run.optimization.step

            def spoiled(number: int) -> torch.Tensor:
                run.backbone.fc.weight.grad.to_local().mul_(torch.nan)
                return step(number)

            run.optimization.step = spoiled
        loop(run, *rest)
        with run.evaluating():
            embedding.append(run.embed(images(4)) if rank == 0 else torch.empty(0))
        follow_statistics_of_first(run.backbone, ())  # as the next step would

    def counted(tensor: torch.Tensor, *rest: Any, **more: Any) -> Any:
        sent[0] += tensor.nbytes if more.get("async_op") else 0
        return all_reduce(tensor, *rest, **more)

    command.train, dist.all_reduce = watched, counted
    try:
        command.check(config)
        command.run(config)
    except FrtrainError as raised:
        error = str(raised)
    finally:
        command.train, dist.all_reduce = loop, all_reduce
    backbone = runs[0].backbone
    shapes = {
        key: (len(weight.to_local()) if isinstance(weight, DTensor) else len(weight), len(weight))
        for key, weight in backbone.named_parameters()
    }
    buffers = {key: value.clone() for key, value in backbone.named_buffers()}
    return Outcome(error, shapes, buffers, embedding, sent[0])


def train_all(rank: int, configs: dict[str, TrainConfig]) -> dict[str, Outcome]:
    return {name: train_one(name, config, rank) for name, config in configs.items()}


@dataclass
class Together:
    """Where the runs of two processes are, and what each process had after them."""

    folder: Path
    crops: Path
    outcomes: list[dict[str, Outcome]]

    def last(self, name: str) -> Checkpoint:
        return read_checkpoint(checkpoint_of(self.folder / name))


@pytest.fixture(scope="module")
def together(
    tmp_path_factory: pytest.TempPathFactory,
    make_crops: Callable[..., Path],
    small_config_on: Callable[..., TrainConfig],
) -> Together:
    folder = tmp_path_factory.mktemp("runs")
    crops = make_crops(tmp_path_factory.mktemp("faces") / "crops")
    configs = {name: small_config_on(crops, *more, f"run_dir={folder / name}") for name, more in RUNS.items()}
    return Together(folder, crops, of_each_rank(train_all, 2, folder, configs))


@pytest.fixture
def alone(together: Together, small_config_on: Callable[..., TrainConfig]) -> Callable[..., Checkpoint]:
    """Train in this process, in a folder of its own or one given."""

    def train(folder: Path, *overrides: str) -> Checkpoint:
        command.run(small_config_on(together.crops, *overrides, f"run_dir={folder}"))
        return read_checkpoint(checkpoint_of(folder))

    return train


def assert_same(ours: Checkpoint, theirs: Checkpoint, bound: float) -> None:
    for part, tensors in theirs.tensors.items():
        assert ours.tensors[part].keys() == tensors.keys()
        for name, tensor in tensors.items():
            torch.testing.assert_close(ours.tensors[part][name], tensor, rtol=0, atol=bound, msg=name)


def test_fsdp_computes_what_one_process_computes(together: Together, alone: Callable[..., Checkpoint], tmp_path: Path):
    one = alone(tmp_path / "one", *RUNS["fsdp"], "classifier=dense")
    assert together.outcomes[0]["fsdp"].error == ""
    assert together.last("fsdp").tensors["backbone"]["fc.weight"].dtype == torch.float64
    assert_same(together.last("fsdp"), one, 1e-10)


def test_each_process_holds_its_half_of_every_weight(together: Together):
    first, second = (outcomes["fsdp"].rows for outcomes in together.outcomes)
    assert first["fc.weight"] == second["fc.weight"] == (8, 16)
    assert all(
        mine + others == total for (mine, total), (others, _) in zip(first.values(), second.values(), strict=True)
    )


def test_a_checkpoint_of_fsdp_is_gone_on_with_by_one_process(together: Together, alone: Callable[..., Checkpoint]):
    whole = together.last("fsdp")
    shorter = together.folder / "shorter"
    shutil.copytree(together.folder / "fsdp", shorter, symlinks=True)
    shutil.rmtree(RunFolder(shorter).checkpoint(4))
    assert_same(alone(shorter, *RUNS["fsdp"], "trainer.parallel=ddp"), whole, 1e-10)


def test_a_bad_gradient_of_one_share_skips_the_step_everywhere_and_is_named(together: Together):
    for outcomes in together.outcomes:
        assert "2 steps in a row were not finite" in outcomes["bad_gradient"].error
        assert "the gradient of backbone.fc.weight. Usual" in outcomes["bad_gradient"].error  # of all: no rank is named


def test_process_0_verifies_alone_with_the_whole_weights(together: Together):
    folder, outcome = RunFolder(together.folder / "validated"), together.outcomes[0]["validated"]
    assert outcome.error == ""
    assert "verify/accuracy" in folder.metrics.read_text()
    assert folder.report.exists()
    embedder = load_embedder(folder.path, torch.device("cpu"), weights="ema")
    torch.testing.assert_close(embedder.embed(images(4)), outcome.embedding[0], rtol=0, atol=1e-5)


def test_statistics_of_batch_norm_are_those_of_process_0_everywhere(together: Together):
    first, second = (outcomes["validated"].buffers for outcomes in together.outcomes)
    written = together.last("validated").tensors["backbone"]
    assert any(name.endswith("running_var") for name in first)
    for name, buffer in first.items():
        assert torch.equal(buffer, written[name]), name
        assert torch.equal(buffer, second[name]), name


def test_a_static_graph_changes_no_bit(together: Together):
    assert_same(together.last("static_graph"), together.last("ddp"), 0.0)


@pytest.mark.parametrize("kind", ["bf16", "fp16"])
def test_compressed_gradients_are_half_the_bytes_and_nearly_the_same(together: Together, kind: str):
    weights, plain = (together.last(name).tensors["backbone"]["fc.weight"] for name in (kind, "ddp"))
    count = sum(
        tensor.numel() for name, tensor in together.last("ddp").tensors["optimizer"].items() if "backbone" in name
    )
    assert together.outcomes[0][kind].sent_bytes == 2 * 2 * count  # two steps
    assert not torch.equal(weights, plain)
    assert float((weights - plain).norm() / plain.norm()) < 0.01


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("trainer.parallel=fsdp", "trainer.compile=true"), r"trainer\.compile=true: torch compiles no network"),
        (("trainer.static_graph=true", "trainer.accumulate=2"), r"trainer\.static_graph=true: .*use one of the two"),
        (("trainer.parallel=fsdp", "trainer.static_graph=true"), r"use trainer\.static_graph=false"),
        (("trainer.parallel=fsdp", "trainer.gradient_compression=bf16"), r"use trainer\.gradient_compression=none"),
    ],
)
def test_what_torch_cannot_do_is_refused(
    small_config_on: Callable[..., TrainConfig], overrides: tuple[str, ...], message: str
):
    with pytest.raises(ConfigError, match=message):
        parallel.check_parallel(small_config_on(Path("crops"), *overrides).trainer)
