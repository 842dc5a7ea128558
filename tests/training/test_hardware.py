"""What frtrain chooses for a given machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from frtrain.errors import ConfigError
from frtrain.training.cgroup import Limits, read_limits
from frtrain.training.hardware import (
    Gpu,
    Hardware,
    choose_channels_last,
    choose_device,
    choose_precision,
    choose_threads,
    choose_workers,
    inspect_machine,
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
LAPTOP = Hardware("a CPU", frozenset({"avx2"}), 8, 8, 16 << 30, None, (), False, 0, 1)
AMX = replace(LAPTOP, cpu_flags=frozenset({"avx512_bf16", "amx_tile", "amx_bf16"}))
GPU = Gpu("a GPU", 80 << 30, (9, 0), native_bf16=True)
OLD_GPU = Gpu("an old GPU", 16 << 30, (7, 5), native_bf16=False)


def server(**changes: Any) -> Hardware:
    return replace(LAPTOP, cores_present=64, cores_usable=64, gpus=(GPU, GPU), **changes)


def test_auto_is_the_cpu_without_a_gpu() -> None:
    assert choose_device("auto", LAPTOP).value == CPU


def test_auto_leaves_apples_gpu_to_who_asks_for_it() -> None:
    machine = replace(LAPTOP, mps=True)
    assert choose_device("auto", machine).value == CPU
    assert choose_device("mps", machine).value == torch.device("mps")


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_each_rank_gets_its_own_gpu(name: str) -> None:
    assert choose_device(name, server(local_rank=1, local_ranks=2)).value == torch.device("cuda", 1)


@pytest.mark.parametrize(
    ("name", "machine", "message"),
    [
        ("gpu", LAPTOP, "device=gpu: unknown device"),
        ("cuda:x", LAPTOP, "device=cuda:x: unknown device"),
        ("cuda", LAPTOP, "device=cuda: .*CUDA"),
        ("mps", LAPTOP, "device=mps: "),
        ("cuda:7", server(), r"device=cuda:7: there is no GPU for cuda:7; torch sees 2 \(cuda:0 to cuda:1\)"),
        ("cuda", server(local_rank=2, local_ranks=3), "no GPU for process 2 of 3; torch sees 2"),
        ("cuda:1", server(local_ranks=2), "device=cuda:1: 2 processes would share one GPU"),
    ],
)
def test_device_that_cannot_be_had_is_refused_by_name(name: str, machine: Hardware, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        choose_device(name, machine)


@pytest.mark.parametrize(
    ("device", "machine", "dtype"),
    [
        (CPU, LAPTOP, None),
        (CPU, replace(LAPTOP, cpu_flags=frozenset({"avx512_bf16"})), None),
        (CPU, replace(LAPTOP, cpu="AMD EPYC", cpu_flags=frozenset({"avx512_bf16"})), torch.bfloat16),
        (CPU, AMX, torch.bfloat16),
        (CUDA, replace(LAPTOP, gpus=(GPU,)), torch.bfloat16),
        (CUDA, replace(LAPTOP, gpus=(OLD_GPU,)), None),
    ],
)
def test_automatic_precision_is_bfloat16_where_the_hardware_is_fast_in_it(
    device: torch.device, machine: Hardware, dtype: torch.dtype | None
) -> None:
    assert choose_precision("auto", device, machine).value is dtype


def test_configured_precision_wins() -> None:
    assert choose_precision("bf16", CPU, LAPTOP).value is torch.bfloat16
    assert choose_precision("fp32", CPU, AMX).value is None


def test_forced_bfloat16_says_that_it_is_slow() -> None:
    assert "slower than float32" in choose_precision("bf16", CPU, LAPTOP).reason


def test_channels_last_is_automatic_on_cpus_and_tensor_cores_only() -> None:
    assert choose_channels_last("auto", CPU, LAPTOP).value
    assert choose_channels_last("auto", CUDA, replace(LAPTOP, gpus=(GPU,))).value
    assert not choose_channels_last("auto", CUDA, replace(LAPTOP, gpus=(OLD_GPU,))).value
    assert not choose_channels_last(False, CPU, LAPTOP).value


@pytest.mark.parametrize(
    ("device", "machine", "workers"),
    [
        (CPU, replace(LAPTOP, cores_usable=2), 0),
        (CPU, replace(LAPTOP, cores_usable=32), 4),
        (CUDA, server(), 8),
        (CUDA, server(local_ranks=16), 3),
        (CUDA, replace(LAPTOP, cores_usable=1, gpus=(GPU,)), 1),
    ],
)
def test_automatic_workers_follow_the_cores_of_a_rank(device: torch.device, machine: Hardware, workers: int) -> None:
    assert choose_workers("auto", device, machine).value == workers


def test_configured_workers_win() -> None:
    assert choose_workers(3, CPU, LAPTOP).value == 3


def test_ranks_share_the_cores_as_threads_despite_torchruns_one() -> None:
    assert choose_threads(0, replace(LAPTOP, local_ranks=2), {"OMP_NUM_THREADS": "1"}).value == 4


def test_a_single_process_keeps_the_threads_of_its_environment() -> None:
    assert choose_threads(0, LAPTOP, {"OMP_NUM_THREADS": "3"}).value == 3


def test_loader_workers_are_not_given_to_threads_again() -> None:
    assert choose_threads(2, LAPTOP, {}).value == 6


def test_ranks_are_read_from_torchruns_environment() -> None:
    machine = inspect_machine({"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"})
    assert (machine.local_rank, machine.local_ranks) == (1, 4)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_container_limit_bounds_the_usable_cores(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "0::/\n")
    write(tmp_path / "sys/fs/cgroup/cpu.max", "100000 100000\n")
    write(tmp_path / "proc/cpuinfo", "processor\t: 0\nmodel name\t: Model X\nflags\t\t: avx2 amx_tile amx_bf16\n")
    machine = inspect_machine({}, tmp_path)
    assert machine.cores_usable == 1
    assert machine.cpu == "Model X"
    assert machine.amx_bf16


def test_the_tightest_limit_of_all_parent_groups_holds(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "0::/slice/job\n")
    write(tmp_path / "sys/fs/cgroup/slice/cpu.max", "150000 100000\n")
    write(tmp_path / "sys/fs/cgroup/slice/job/cpu.max", "max 100000\n")
    write(tmp_path / "sys/fs/cgroup/slice/job/memory.max", "4294967296\n")
    assert read_limits(tmp_path) == Limits(1.5, 4 << 30)


def test_version_one_groups_are_read(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "4:memory:/docker/x\n1:cpu,cpuacct:/docker/x\n0::/\n")
    write(tmp_path / "sys/fs/cgroup/memory/memory.limit_in_bytes", "2147483648\n")
    write(tmp_path / "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "200000\n")
    write(tmp_path / "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    assert read_limits(tmp_path) == Limits(2.0, 2 << 30)


def test_unlimited_groups_are_no_limit(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "4:memory:/\n1:cpu:/\n")
    write(tmp_path / "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    write(tmp_path / "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n")
    assert read_limits(tmp_path) == Limits(None, None)


def test_without_control_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert read_limits(tmp_path) == Limits(None, None)
