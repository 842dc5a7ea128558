"""Speed of the MTCNN detector against facenet-pytorch's, and whether it finds the same faces, in one run.

    python scripts/bench_align.py                                  # 64 synthetic photographs of 250x250
    python scripts/bench_align.py FOLDER --images 256 --threads 2  # photographs of a folder, of any sizes
    python scripts/bench_align.py --photos FOLDER                  # recall and point error against hand-made annotations

Three contenders take turns for `--rounds` rounds, at the same number of threads: `facenet_pytorch.MTCNN.detect` one image
at a time, the same in batches (of images of one size, which is all it takes), and `detector=mtcnn` as configured, without
its second search and closer looks, which facenet-pytorch has no match for; `with them` is the configured detector. Ratios
are medians over the rounds of ratios within a round, so that other work on the machine touches both sides alike.
The processor time of an image is that of all threads, those that wait for each other included.
Faces differ if their number in an image does, or if a box or a point is more than a pixel apart.

`--photos` wants a folder with `training_with_face_landmarks.xml` in dlib's format: boxes and 68 landmarks (iBUG) in photographs.
"""

from __future__ import annotations

import argparse
import platform
import random
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
from numpy.typing import NDArray

from frtrain.alignment.detector import DETECTORS, Detector, Face
from frtrain.commands.composition import compose_plain
from frtrain.data.images import read_image
from frtrain.data.synthetic.conditions import draw_conditions
from frtrain.data.synthetic.identity import draw_person
from frtrain.data.synthetic.photograph import render_photograph

Image = NDArray[np.uint8]
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
PLAIN: dict[str, Any] = {
    "max_side": 10**6,
    "min_side": None,
    "retry_thresholds": None,
    "closer_look_below": None,
    "closer_look_reduction": None,
}
"""Settings under which the faces are to be facenet-pytorch's, whatever the image."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="photographs, of any depth; without: synthetic ones")
    parser.add_argument("--images", type=int, default=64, help="how many photographs")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender")
    parser.add_argument("--batch", type=int, default=32, help="images per call of the batched contenders")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of PyTorch, for all contenders")
    parser.add_argument("--device", default="cpu", help="where the networks run")
    parser.add_argument("--photos", type=Path, help="annotated photographs: recall and point error instead of speed")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    print(f"torch {torch.__version__}, {platform.processor() or platform.machine()}, {device}, {date.today()}")
    if arguments.photos:
        report_errors(arguments.photos, device)
        return
    images = read_photographs(arguments.folder, arguments.images) if arguments.folder else draw(arguments.images)
    compare(images, arguments.rounds, arguments.batch, device)


def build(device: torch.device, **changes: Any) -> Detector:
    """The detector as configured, but for `changes`."""
    settings = compose_plain("align", ["source=photographs", "target=crops"])["detector"]
    return DETECTORS.build({**settings, **changes}, device=device)


def draw(count: int) -> list[Image]:
    """Synthetic photographs, 250x250."""
    return [render_photograph(draw_person(0, n), draw_conditions(0, n, 0), 250)[0] for n in range(count)]


def read_photographs(folder: Path, count: int) -> list[Image]:
    """The same `count` photographs of a folder at every call."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise SystemExit(f"{folder} holds no photographs ({' '.join(sorted(SUFFIXES))})")
    return [read_image(path) for path in random.Random(0).sample(paths, min(count, len(paths)))]


def compare(images: list[Image], rounds: int, batch: int, device: torch.device) -> None:
    """Print throughput, ratios and differences."""
    import facenet_pytorch

    theirs = facenet_pytorch.MTCNN(keep_all=True, device=device)
    plain, configured = build(device, **PLAIN), build(device)
    batches = [images[start : start + batch] for start in range(0, len(images), batch)]
    same_size = [stack for part in batches for stack in stacks_of_one_size(part)]

    def ours(detector: Detector) -> list[list[Face]]:
        return [faces for part in batches for faces in detector.detect(part)]

    contenders: dict[str, Callable[[], Any]] = {
        "facenet-pytorch, one by one": lambda: [theirs.detect(image, landmarks=True) for image in images],
        "facenet-pytorch, batched": lambda: [theirs.detect(stack, landmarks=True) for stack in same_size],
        "frtrain": lambda: ours(plain),
        "frtrain, with its additions": lambda: ours(configured),
    }
    expected, found = contenders["facenet-pytorch, one by one"](), ours(plain)
    report_differences(expected, found)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    processor_seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            started, processor_started = time.perf_counter(), time.process_time()
            run()
            seconds[name].append(time.perf_counter() - started)
            processor_seconds[name].append(time.process_time() - processor_started)
    one_by_one, batched, *_ = contenders
    print(f"{len(images)} images, {torch.get_num_threads()} threads, batches of {batch}, {rounds} rounds")
    print(
        "| detector | images/s, median | to one by one | to batched | processor ms per image |\n|---|---|---|---|---|"
    )
    for name, times in seconds.items():
        ratios = [
            statistics.median(other / own for other, own in zip(seconds[reference], times, strict=True))
            for reference in (one_by_one, batched)
        ]
        speed = len(images) / statistics.median(times)
        busy = 1000 * statistics.median(processor_seconds[name]) / len(images)
        print(f"| {name} | {speed:.1f} | {ratios[0]:.2f} × | {ratios[1]:.2f} × | {busy:.1f} |")


def stacks_of_one_size(images: list[Image]) -> list[NDArray[np.uint8]]:
    """`uint8 [N, H, W, 3]` of the images of each size."""
    by_size: dict[tuple[int, ...], list[Image]] = {}
    for image in images:
        by_size.setdefault(image.shape, []).append(image)
    return [np.stack(group) for group in by_size.values()]


def report_differences(expected: list[Any], found: list[list[Face]]) -> None:
    """Print how far the faces of the two detectors are apart."""
    faces, different = 0, 0
    box_distances, point_distances = [0.0], [0.0]
    for (boxes, _, points), ours in zip(expected, found, strict=True):
        theirs = 0 if boxes is None else len(boxes)
        faces += theirs
        different += abs(theirs - len(ours))
        if theirs == len(ours):
            for face, box, five in zip(ours, boxes if theirs else [], points if theirs else [], strict=True):
                box_distances.append(float(np.abs(face.box - box.astype(float)).max()))
                point_distances.append(float(np.linalg.norm(face.points - five.astype(float), axis=1).max()))
                different += max(box_distances[-1], point_distances[-1]) > 1
    print(
        f"{faces} faces by facenet-pytorch, {different} differ; largest difference of boxes {max(box_distances):.6f}, "
        f"of points {max(point_distances):.6f} pixels"
    )


def report_errors(folder: Path, device: torch.device) -> None:
    """Print recall and errors, of the cascade alone and of the detector as configured, on annotated photographs."""
    annotations = ElementTree.parse(folder / "training_with_face_landmarks.xml")
    print(
        "| detector | eyes apart | found | mean point error / eye distance | median | worst |\n|---|---|---|---|---|---|"
    )
    for name, detector in {"cascade alone": build(device, **PLAIN), "as configured": build(device)}.items():
        eye_distances, errors = [], []
        for photograph in annotations.iter("image"):
            faces = detector.detect([read_image(folder / photograph.attrib["file"])])[0]
            for box in photograph.iter("box"):
                truth = five_points(box)
                eye_distances.append(float(np.linalg.norm(truth[1] - truth[0])))
                distances = [np.linalg.norm(face.points - truth, axis=1).mean() for face in faces]
                errors.append(float(min(distances, default=np.inf)) / eye_distances[-1])
        for label, low, high in (("all", 0, np.inf), ("under 20 pixels", 0, 20), ("20 or more", 20, np.inf)):
            row = [error for eyes, error in zip(eye_distances, errors, strict=True) if low <= eyes < high]
            hits = np.array([error for error in row if error < 0.5])
            numbers = f"{hits.mean():.3f} | {np.median(hits):.3f} | {hits.max():.3f}" if len(hits) else "- | - | -"
            print(f"| {name} | {label} | {len(hits)} of {len(row)} | {numbers} |")


def five_points(box: ElementTree.Element) -> NDArray[np.float64]:
    """Of the 68 landmarks of iBUG: the middle of each eye, the tip of the nose, the corners of the mouth."""
    parts = {int(p.attrib["name"]): (float(p.attrib["x"]), float(p.attrib["y"])) for p in box.iter("part")}
    landmarks = np.array([parts[index] for index in range(68)])
    return np.stack([landmarks[36:42].mean(0), landmarks[42:48].mean(0), landmarks[30], landmarks[48], landmarks[54]])


if __name__ == "__main__":
    main()
