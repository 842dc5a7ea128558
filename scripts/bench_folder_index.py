"""How long a folder of many images takes to open: walked for the first time, and from the kept index.

python scripts/bench_folder_index.py --at /var/tmp --identities 200000 --images 5

Makes a tree of hard links to a few small files (no image is read), and removes it at the end.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

LINKS_OF_A_FILE = 60_000
"""ext4 allows 65 000."""


def main() -> None:
    """Print one line per round: seconds on the wall and of the processor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--at", type=Path, default=Path(tempfile.gettempdir()), help="folder to make the tree in")
    parser.add_argument("--identities", type=int, default=200_000)
    parser.add_argument("--images", type=int, default=5, help="of each identity")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.at, prefix="frtrain-bench-") as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        root = Path(folder, "crops")
        make_tree(root, options.identities, options.images)
        time.sleep(2.5)  # folders younger than two seconds are not trusted
        measure(root, options.rounds)


def make_tree(root: Path, identities: int, images: int) -> None:
    """`<root>/<identity>/<image>.jpg`, all of them the same few files."""
    root.mkdir()
    for identity in range(identities):
        folder = root / f"{identity:07d}"
        folder.mkdir()
        for image in range(images):
            number, links = divmod(identity * images + image, LINKS_OF_A_FILE)
            original = root.with_name(f"original-{number}.jpg")
            if links == 0:
                original.write_bytes(b"no image")
            (folder / f"{image:03d}.jpg").hardlink_to(original)


def measure(root: Path, rounds: int) -> None:
    """Compare a bare walk with opening, in turns."""
    from frtrain.config_files import completed
    from frtrain.data import SOURCES
    from frtrain.data.index_cache import cache_folder

    spec = completed("data", {"name": "folder", "root": str(root)})
    before = peak_mebibytes()
    for _ in range(rounds):
        shutil.rmtree(cache_folder(), ignore_errors=True)
        columns = {
            "os.walk": lambda: sum(len(files) for _, _, files in os.walk(root)),
            "first opening": lambda: len(SOURCES.build(spec)),
            "kept index": lambda: len(SOURCES.build(spec)),
        }
        print("   ".join(f"{what} {seconds(work)}" for what, work in columns.items()), flush=True)
    print(f"memory on top of the imports: {peak_mebibytes() - before:.0f} MiB")


def seconds(work: Callable[[], int]) -> str:
    """`wall (processor)` of a piece of work that counts files."""
    wall, processor = time.perf_counter(), time.process_time()
    count = work()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return f"{count:,} files in {wall:.2f} s (processor {processor:.2f} s)"


def peak_mebibytes() -> float:
    """The most memory that this process has had so far, on Linux."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
