"""How long packs and lists of a million tiny images take to open, and how much memory a process then has.

    python scripts/bench_open.py --at /fast/disk

Each is opened by a fresh process, first without and then with a cached index. The folder form has a script of its own
(bench_folder_index.py), since making its files takes longer than all of these.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Literal

from PIL import Image

from frtrain.data.packs import open_pack

PER_IDENTITY = 5

OPEN = """
import sys, time
from frtrain.config_files import completed
from frtrain.data import SOURCES
started, worked = time.perf_counter(), time.process_time()
source = SOURCES.build(completed("data", dict(item.split("=", 1) for item in sys.argv[1:])))
seconds, processor = time.perf_counter() - started, time.process_time() - worked
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
most = int(status["VmHWM"].split()[0]) // 1024
print(f"{seconds:6.2f} s  {processor:6.2f} s of processor time  {most:5d} MB at most  "
      f"{len(source):,} images of {len(source.classes):,} identities")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--at", type=Path, help="folder for the data; by default the system's for temporary files")
    arguments = parser.parse_args()
    content = io.BytesIO()
    Image.new("RGB", (112, 112), (90, 120, 60)).save(content, "JPEG", quality=30)
    with tempfile.TemporaryDirectory(dir=arguments.at) as folder:
        root = Path(folder)
        environment = {**os.environ, "XDG_CACHE_HOME": str(root / "cache")}
        write_pack("recordio", root / "recordio", content.getvalue(), arguments.images)
        write_pack("webdataset", root / "webdataset", content.getvalue(), arguments.images)
        write_list(root / "images.txt", arguments.images)
        write_parquet(root / "parquet", content.getvalue(), arguments.images)
        for keys in (
            ["name=recordio", f"root={root / 'recordio'}"],
            ["name=webdataset", f"root={root / 'webdataset'}"],
            ["name=list", f"list={root / 'images.txt'}"],
            ["name=parquet", f"root={root / 'parquet'}"],
        ):
            for state in ("first", "again"):
                print(f"{keys[0].removeprefix('name='):11} {state}  ", end="", flush=True)
                subprocess.run([sys.executable, "-c", OPEN, *keys], env=environment, check=True)


def write_pack(kind: Literal["recordio", "webdataset"], target: Path, image: bytes, images: int) -> None:
    """A pack of one image again and again."""
    classes = [identity(number) for number in range(0, images, PER_IDENTITY)]
    with open_pack(kind, target, {"made by": "bench_open"}, classes=classes) as pack:
        for number in range(images):
            pack.append(image, number // PER_IDENTITY, f"{identity(number)}/{number % PER_IDENTITY}.jpg")
        pack.finish(classes)


def write_list(path: Path, images: int) -> None:
    """A list of files that are not there: opening looks at none."""
    with path.open("w") as lines:
        for number in range(images):
            lines.write(f"{identity(number)}/{number % PER_IDENTITY}.jpg {number // PER_IDENTITY}\n")


def write_parquet(folder: Path, image: bytes, images: int) -> None:
    """Ten tables as Hugging Face's datasets write them, in row groups of 1 000."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for part in range(10):
        numbers = range(images * part // 10, images * (part + 1) // 10)
        rows = pa.array([{"bytes": image, "path": f"{number}.jpg"} for number in numbers], kind)
        labels = pa.array([number // PER_IDENTITY for number in numbers])
        pq.write_table(pa.table({"image": rows, "label": labels}), folder / f"{part:05d}.parquet", row_group_size=1000)


def identity(number: int) -> str:
    """Name of the identity of an image."""
    return f"id{number // PER_IDENTITY:06d}"


if __name__ == "__main__":
    main()
