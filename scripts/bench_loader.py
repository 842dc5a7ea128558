"""Images a second that the training loader delivers, against bare decoding and torchvision's ImageFolder, in one run.

    python scripts/bench_loader.py                              # 4 096 generated crops, one worker
    python scripts/bench_loader.py --data crops --workers 2     # a folder <identity>/<image>.jpg of your own
    python scripts/bench_loader.py --data pack.rec              # a RecordIO pack

Bare decoding is the loader's own decoder in a loop over the same bytes in memory, in one process: what there is to reach with
one worker. ImageFolder has the usual transforms (RandomHorizontalFlip, ToTensor, Normalize). All take turns for `--rounds`
rounds; the medians, and the medians of each round's ratios, count. The last column compares processor time instead of time on the
clock, where all happens in one process: other work on the machine disturbs it least. Rates are those of a loader at work: its start and the batches
that it decodes ahead meanwhile are left out.
"""

from __future__ import annotations

import argparse
import io
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from frtrain.commands.composition import compose_plain, group_defaults
from frtrain.data import SOURCES
from frtrain.data.augmentation import AUGMENTATIONS
from frtrain.data.encoded import EncodedSource
from frtrain.data.images import MAX_PIXELS
from frtrain.data.jpeg import decode_ordinary_jpeg
from frtrain.data.loader import AHEAD, TrainingLoader
from frtrain.data.packs import open_pack
from frtrain.data.samplers.shuffled import Shuffled

IMAGES_PER_IDENTITY = 16


@dataclass(frozen=True)
class Rate:
    """Images a second on the clock, and for each second of this process's processor time."""

    clock: float
    processor: float


Case = Callable[[], Rate]


class Timer:
    """Starts when it is made."""

    def __init__(self) -> None:
        self.clock, self.processor = time.perf_counter(), time.process_time()

    def rate(self, images: int) -> Rate:
        return Rate(
            images / (time.perf_counter() - self.clock), images / max(time.process_time() - self.processor, 1e-9)
        )


def generate(root: Path, images: int) -> None:
    """JPEGs of about 5 kB, as those of aligned faces are: coarse shapes under a little noise, quality 95."""
    for number in range(images):
        random = np.random.default_rng(number)
        coarse = Image.fromarray(random.integers(40, 216, (8, 8, 3), dtype=np.uint8)).resize(
            (112, 112), Image.Resampling.BICUBIC
        )
        pixels = np.clip(np.asarray(coarse) + random.normal(0, 2, (112, 112, 3)), 0, 255).astype(np.uint8)
        folder = root / f"{number // IMAGES_PER_IDENTITY:05d}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{number % IMAGES_PER_IDENTITY}.jpg", quality=95)


def open_source(path: Path) -> EncodedSource:
    kind = "recordio" if path.suffix == ".rec" or (path / "train.rec").exists() else "folder"
    source = SOURCES.build(compose_plain("train", [f"data={kind}", f"data.root={path}"])["data"])
    assert isinstance(source, EncodedSource)
    return source


def packed(source: EncodedSource, target: Path) -> EncodedSource:
    with open_pack("recordio", target, {}) as pack:
        for index in range(len(source)):
            pack.append(source.encoded(index), int(source.labels[index]), source.name(index))
        pack.finish(source.classes)
    return open_source(target)


def decoding(data: list[bytes], decode: Callable[[bytes], Any]) -> Case:
    def rate() -> Rate:
        timer = Timer()
        for image in data:
            decode(image)
        return timer.rate(len(data))

    return rate


def delivered(batches: Iterable[Any], batch_size: int, ahead: int) -> Rate:
    """Between the batches after the first `ahead` and the last one."""
    count, timer = 0, Timer()
    for number, _ in enumerate(batches):
        if number == ahead:
            timer = Timer()
        count = number
    return timer.rate((count - ahead) * batch_size)


def ours(source: EncodedSource, batch_size: int, batches: int, workers: int, augment: str) -> Case:
    sampler, augmentation = Shuffled(source.labels, batch_size), AUGMENTATIONS.build(group_defaults("augment", augment))
    loader = TrainingLoader(source, sampler, augmentation, batch_size, seed=1, workers=workers, pin_memory=False)
    ahead = workers * AHEAD + 1
    return lambda: delivered(loader.batches(0, batches + ahead), batch_size, ahead)


def image_folder(root: Path, batch_size: int, batches: int, workers: int) -> Case:
    from torchvision import datasets, transforms

    usual = transforms.Compose(
        [transforms.RandomHorizontalFlip(), transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]
    )
    faces = datasets.ImageFolder(str(root), usual)
    ahead = workers * AHEAD + 1
    draws = torch.utils.data.RandomSampler(faces, replacement=True, num_samples=(batches + ahead) * batch_size)
    prefetch = AHEAD if workers else None
    loader: DataLoader[Any] = DataLoader(
        faces, batch_size, sampler=draws, num_workers=workers, prefetch_factor=prefetch
    )
    return lambda: delivered(loader, batch_size, ahead)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder of crops or a .rec; none: generated crops")
    parser.add_argument("--images", type=int, default=4096, help="generated, or used for bare decoding")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--batches", type=int, default=32, help="that are timed in each round")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--augment", nargs="*", default=[], help="further ones besides flip, e.g. jitter adaface")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as scratch:
        path = arguments.data
        if path is None:
            path = Path(scratch) / "crops"
            generate(path, arguments.images)
        source = open_source(path)
        packs = [source] if path.suffix == ".rec" else [source, packed(source, Path(scratch) / "pack")]
        data = [source.encoded(index) for index in range(min(len(source), arguments.images))]
        print(
            f"{len(source)} images, {np.mean([len(image) for image in data]) / 1000:.1f} kB, {arguments.workers} worker(s)"
        )

        size = (arguments.batch, arguments.batches, arguments.workers)
        cases: dict[str, Case] = {
            "bare decoding": decoding(data, lambda image: decode_ordinary_jpeg(image, MAX_PIXELS)),
            "bare decoding, Pillow": decoding(data, lambda image: np.asarray(Image.open(io.BytesIO(image)))),
            "bare decoding, OpenCV": decoding(
                data, lambda image: cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR_RGB)
            ),
        }
        for pack in packs:
            kind = type(pack).__name__.removesuffix("Source")
            for augment in ("flip", *arguments.augment):
                cases[f"frtrain, {kind}, {augment}"] = ours(pack, *size, augment)
            if arguments.workers:
                name = f"frtrain, {kind}, flip, no worker"
                cases[name] = ours(pack, arguments.batch, arguments.batches, 0, "flip")
        if path.is_dir() and path.suffix != ".rec" and not (path / "train.rec").exists():
            cases["ImageFolder"] = image_folder(path, *size)
        report(in_turns(cases, arguments.rounds))


def in_turns(cases: dict[str, Case], rounds: int) -> dict[str, list[Rate]]:
    rates: dict[str, list[Rate]] = {name: [] for name in cases}
    for number in range(rounds + 1):
        for name, rate in cases.items():
            found = rate()
            if number:  # the first warms caches
                rates[name].append(found)
                print(f"  {name}: {found.clock:,.0f}", file=sys.stderr, flush=True)
    return rates


def report(rates: dict[str, list[Rate]]) -> None:
    def ratio(name: str, reference: str, kind: str) -> str:
        if reference not in rates:
            return ""
        pairs = zip(rates[name], rates[reference], strict=True)
        return f"{statistics.median(getattr(a, kind) / getattr(b, kind) for a, b in pairs):.2f}"

    print(f"{platform.machine()}, torch {torch.__version__}, {date.today()}")
    print(f"| {'':36} | images/s | of bare decoding | of ImageFolder | of bare decoding, processor time |")
    print("|---|---|---|---|---|")
    for name, found in rates.items():
        bare, folder = ratio(name, "bare decoding", "clock"), ratio(name, "ImageFolder", "clock")
        in_one_process = name.startswith("bare") or name.endswith("no worker")
        processor = ratio(name, "bare decoding", "processor") if in_one_process else ""
        clock = statistics.median(rate.clock for rate in found)
        print(f"| {name:36} | {clock:,.0f} | {bare} | {folder} | {processor} |")


if __name__ == "__main__":
    main()
