"""`python -m frtrain doctor`: what this machine has, and what frtrain will choose because of it."""

from __future__ import annotations

import importlib
import importlib.util
import io
import json
import os
import platform
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from pydantic import Field
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import frtrain
from frtrain.errors import ConfigError
from frtrain.schema import Section

EXAMPLES = """
python -m frtrain doctor
python -m frtrain doctor device=cuda json=true
"""

GIB = 1 << 30
LOW_DISK_BYTES = 5 * GIB
LOW_SHARED_MEMORY_BYTES = GIB
DECODING_SECONDS = 0.3

PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "pillow",
    "albumentations",
    "opencv-python-headless",
    "facenet-pytorch",
    "hydra-core",
    "omegaconf",
    "pydantic",
    "tensorboard",
    "matplotlib",
    "safetensors",
)


class Config(Section):
    """What to print.

    Attributes:
        device: the device that the choices are shown for.
        as_json: the key `json`: print JSON instead of a table.
    """

    device: str
    as_json: bool = Field(alias="json")


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        topic: what was looked at.
        value: what was found.
        verdict: `problem` makes training impossible; `warning` makes something slow or fail later.
        advice: what to do about a warning or problem; the reason of a choice.
    """

    topic: str
    value: str
    verdict: Literal["ok", "warning", "problem"] = "ok"
    advice: str = ""


def run(config: Config) -> int:
    """Look, print, and return 0 if training is possible, else 1."""
    software = list(_software())
    blocked = any(finding.verdict == "problem" for finding in software)
    # The rest needs a torch that can be imported.
    machine = [] if blocked else list(_machine())
    choices = [] if blocked else list(_choices(config.device))
    sections = {"software": software, "machine": machine, "frtrain will choose": choices}
    possible = all(finding.verdict != "problem" for findings in sections.values() for finding in findings)
    if config.as_json:
        report = {name.replace(" ", "_"): [asdict(item) for item in items] for name, items in sections.items()}
        print(json.dumps({"training_possible": possible, **report}, indent=1))
    else:
        _print(sections, possible)
    return 0 if possible else 1


def _software() -> Iterator[Finding]:
    yield Finding("Python", f"{platform.python_version()}, {platform.platform()}")
    yield Finding("frtrain", f"{frtrain.__version__} in {Path(frtrain.__file__).parent}")
    for name in PACKAGES:
        version = _version(name)
        if version is None:
            yield Finding(name, "missing", "problem", "install frtrain with its dependencies: pip install -e .")
        else:
            yield Finding(name, version)
    yield from _imports()
    yield from _clashes()


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _imports() -> Iterator[Finding]:
    """Import what breaks when wheels of different origin meet."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    remedies = {
        "torch": "reinstall torch",
        "torchvision": "torch and torchvision must come from the same index: pip install --force-reinstall both together",
        "cv2": "pip uninstall opencv-python opencv-python-headless; pip install opencv-python-headless",
        "facenet_pytorch": "pip install facenet-pytorch==2.5.3",
        "albumentations": "pip install --upgrade albumentations",
    }
    for module, remedy in remedies.items():
        try:
            importlib.import_module(module)
        except Exception as error:  # a broken binary wheel raises nearly anything, and telling which is the purpose
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            yield Finding(f"import {module}", reason, "problem", remedy)


def _clashes() -> Iterator[Finding]:
    opencv = _version("opencv-python")
    if opencv and _version("opencv-python-headless"):
        advice = "they overwrite each other's cv2: pip uninstall both, then pip install opencv-python-headless"
        yield Finding("opencv-python", f"{opencv}, besides opencv-python-headless", "warning", advice)
    facenet = _version("facenet-pytorch")
    if facenet and facenet != "2.5.3":
        advice = "releases after 2.5.3 pin an old torch: pip install facenet-pytorch==2.5.3, and check torch's version"
        yield Finding("facenet-pytorch", facenet, "warning", advice)
    package = importlib.util.find_spec("facenet_pytorch")
    if package and package.submodule_search_locations:
        folder = Path(package.submodule_search_locations[0]) / "data"
        missing = [name for name in ("pnet.pt", "rnet.pt", "onet.pt") if not (folder / name).is_file()]
        if missing:
            advice = "pip install --force-reinstall --no-deps facenet-pytorch==2.5.3"
            yield Finding("MTCNN weights", f"{', '.join(missing)} missing in {folder}", "warning", advice)
        else:
            yield Finding("MTCNN weights", "found")


def _machine() -> Iterator[Finding]:
    import torch
    from torch import distributed

    from frtrain.training.hardware import this_machine

    machine = this_machine()
    units = ", ".join(
        name for name, there in {"AMX": machine.amx_bf16, "AVX512_BF16": machine.avx512_bf16}.items() if there
    )
    yield Finding("CPU", f"{machine.cpu}; bfloat16: {units or 'not native'}")
    yield Finding("cores", f"{machine.cores_usable} usable of {machine.cores_present}")
    limit = machine.memory_limit_bytes
    limited = f"; limit of the container {_gib(limit)}" if limit is not None and limit < machine.memory_bytes else ""
    yield Finding("memory", f"{_gib(machine.memory_bytes)}{limited}")
    for number, gpu in enumerate(machine.gpus):
        bf16 = "native" if gpu.native_bf16 else "not native"
        yield Finding(f"cuda:{number}", f"{gpu.name}, {_gib(gpu.memory_bytes)}, bfloat16 {bf16}")
    if not machine.gpus:
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        yield Finding("CUDA", f"no device; torch is {built}")
    if machine.mps:
        yield Finding("mps", "available, not tested")
    backends = {"gloo": distributed.is_gloo_available, "nccl": distributed.is_nccl_available}
    names = [name for name, there in backends.items() if distributed.is_available() and there()]
    yield Finding("distributed", ", ".join(names) or "no backend", "ok" if names else "warning")
    yield from _disks()
    yield Finding("JPEG decoding", f"{_decoded_per_second():,.0f} crops of 112×112 per second and core")


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return folder if folder.is_dir() or folder == folder.parent else _existing(folder.parent)


def _disks() -> Iterator[Finding]:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    places = {"disk, working folder": Path.cwd(), "disk, cache": _existing(cache)}
    for topic, folder in places.items():
        free = shutil.disk_usage(folder).free
        low = free < LOW_DISK_BYTES
        advice = "checkpoints and crops may not fit" if low else ""
        yield Finding(topic, f"{_gib(free)} free at {folder}", "warning" if low else "ok", advice)
    shared = Path("/dev/shm")
    if shared.is_dir() and shutil.disk_usage(shared).total < LOW_SHARED_MEMORY_BYTES:
        advice = "several GPUs may fail to talk to each other (NCCL uses it): docker run --shm-size=8g"
        yield Finding("shared memory", _gib(shutil.disk_usage(shared).total), "warning", advice)


def _decoded_per_second() -> float:
    import numpy as np
    from PIL import Image

    from frtrain.data.images import decode_image

    coarse = np.random.default_rng(0).integers(0, 256, (14, 14, 3), dtype=np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(coarse).resize((112, 112), Image.Resampling.BICUBIC).save(encoded, "JPEG", quality=95)
    decode_image(encoded.getvalue(), "crop")  # the first finds the decoder
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < DECODING_SECONDS:
        decode_image(encoded.getvalue(), "crop")
        count += 1
    return count / (time.perf_counter() - started)


def _choices(name: str) -> Iterator[Finding]:
    from frtrain.training.hardware import (
        choose_channels_last,
        choose_device,
        choose_precision,
        choose_threads,
        choose_workers,
    )

    try:
        device = choose_device(name)
    except ConfigError as error:
        yield Finding("device", name, "problem", str(error))
        return
    precision = choose_precision("auto", device.value)
    channels_last = choose_channels_last("auto", device.value)
    workers = choose_workers("auto", device.value)
    threads = choose_threads(workers.value)
    yield Finding("device", str(device.value), advice=device.reason)
    yield Finding("precision", "fp32" if precision.value is None else "bf16", advice=precision.reason)
    yield Finding("channels_last", str(channels_last.value).lower(), advice=channels_last.reason)
    yield Finding("workers", str(workers.value), advice=workers.reason)
    yield Finding("threads", str(threads.value), advice=threads.reason)


def _gib(count: int) -> str:
    return f"{count / GIB:.1f} GiB"


MARKS = {"ok": "", "warning": "[yellow]warning[/] ", "problem": "[bold red]problem[/] "}


def _print(sections: dict[str, list[Finding]], possible: bool) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    for title, findings in sections.items():
        if findings:
            table.add_row(f"[bold]{title}[/]")
        for finding in findings:
            mark, advice = MARKS[finding.verdict], f"  [dim]{escape(finding.advice)}[/]" if finding.advice else ""
            table.add_row(f"  {finding.topic}", f"{mark}{escape(finding.value)}{advice}")
    console = Console(highlight=False, emoji=False)
    console.print(table)
    console.print("[green]training is possible[/]" if possible else "[bold red]training is not possible[/]: see above")
