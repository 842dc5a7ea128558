"""`python -m frtrain convert`: a data set from one form into another, byte by byte."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from frtrain.bars import rated_columns
from frtrain.commands.convert_pairs import Bars, is_verification_pack, pack_pairs, unpack_pairs
from frtrain.config import SubsetConfig
from frtrain.config_files import completed, option_values
from frtrain.data import SOURCES
from frtrain.data.encoded import EncodedSource
from frtrain.data.packs import PACK, Facts, Kind, Shards, open_pack
from frtrain.data.packs.conversion import Told, WrittenFolder, check_written, copy_images
from frtrain.data.packs.folder import CHECKSUMS
from frtrain.data.packs.target import check_apart
from frtrain.data.selection import select, selection
from frtrain.errors import ConfigError
from frtrain.schema import PositiveInt, Section, Seed, parse
from frtrain.signals import StopRequest

EXAMPLES = """
python -m frtrain convert source=data/ms1mv3 target=data/ms1mv3_shards to=webdataset
python -m frtrain convert source=data/crops target=data/crops_rec to=recordio subset.min_images=2
python -m frtrain convert source=data/lfw/crops target=data/lfw.bin to=bin pairs=data/lfw/pairs.txt
python -m frtrain convert source=data/agedb_30.bin target=data/agedb_30 to=folder
"""


_SHOWN_EVERY = 100


class Config(Section):
    """The keys of configs/convert.yaml.

    Attributes:
        source: what is read; null where `data` says it all (`data=concat`).
        target: folder of the new pack; for a verification pack its file.
        to: the form of the new pack.
        data: node of a registered source; its `root` is `source`.
        subset: what of the source is copied.
        shard_images, shard_mebibytes: when a WebDataset shard is full.
        pairs: for a verification pack, a list of pairs, or how many to draw.
        seed: of drawn pairs.
        decode: whether images are decoded on the way.
        verify: whether the new pack is read back.
        redo: replace a pack that is there.
    """

    source: str | None
    target: str
    to: Literal["recordio", "webdataset", "folder", "bin"]
    data: dict[str, Any]
    subset: SubsetConfig
    shard_images: PositiveInt
    shard_mebibytes: PositiveInt
    pairs: str | PositiveInt | None
    seed: Seed
    decode: bool
    verify: bool
    redo: bool


def check(config: Config) -> None:
    """Find what is wrong with the keys before anything is read.

    Raises:
        ConfigError: naming the key.
    """
    if not config.target:
        raise ConfigError("target: a folder is required (to=bin: a file); set it with target=...")
    if config.to != "bin" and config.pairs is not None:
        raise ConfigError(f"pairs={config.pairs}: is for to=bin; leave it out, or set to=bin")
    spec = _specification(config)
    root = _root(spec)
    for place in _places(spec):
        check_apart(place, Path(config.target).expanduser(), "its images", "the pack")
    if root is not None and is_verification_pack(root):
        if config.to != "folder":
            raise ConfigError(
                f"to={config.to}: a verification pack holds pairs, not identities; it becomes a folder (to=folder)"
            )
        if config.subset != parse(SubsetConfig, option_values("subset", "all")):
            raise ConfigError(
                f"subset: source={root} is a verification pack, which is unpacked as a whole; leave subset out"
            )
        return
    SOURCES.check(spec)
    if config.to == "bin" and config.pairs is None:
        raise ConfigError(
            "pairs: to=bin needs pairs: LFW's pairs.txt (pairs=data/lfw/pairs.txt), or how many to draw (pairs=6000)"
        )


def run(config: Config) -> None:
    """Convert, and say what was done.

    Raises:
        FrtrainError: as the source, the target, or what is between them.
    """
    check(config)
    console = Console(emoji=False)
    root, target = _root(_specification(config)), Path(config.target).expanduser()
    with StopRequest() as stop, _progress(console) as bar:
        if root is not None and is_verification_pack(root):
            lines = unpack_pairs(root, target, stop, bar, decode=config.decode, verify=config.verify, redo=config.redo)
        elif config.to == "bin":
            assert config.pairs is not None
            lines = pack_pairs(
                _source(config),
                config.pairs,
                config.seed,
                target,
                stop,
                bar,
                decode=config.decode,
                verify=config.verify,
                redo=config.redo,
            )
        else:
            lines = _convert(config, config.to, root, target, stop, bar)
    for line in lines:
        shown = line.encode("utf-8", "backslashreplace").decode()
        console.print(escape(shown), highlight=False, soft_wrap=True)


def _convert(config: Config, to: Kind, root: Path | None, target: Path, stop: StopRequest, bar: Bars) -> list[str]:
    source = _source(config)
    settings = {"source": None if root is None else str(root.resolve()), "data": source.fingerprint}
    shards = Shards(config.shard_images, config.shard_mebibytes << 20)
    started = time.monotonic()
    with open_pack(to, target, settings, classes=source.classes, shards=shards, redo=config.redo) as pack:
        earlier = pack.written
        facts = copy_images(source, pack, stop, bar("copying", len(source), earlier), config.decode)
        lines = summary_lines(facts, target, earlier, time.monotonic() - started)
        if config.verify:
            started = time.monotonic()
            check_written(written_pack(target, facts), facts, target, stop, bar("verifying", facts.images))
            lines.insert(1, f"Read back and compared in {time.monotonic() - started:.1f} s: all is as it was written.")
    return lines


def written_pack(target: Path, facts: Facts) -> EncodedSource:
    """A complete pack as training reads it; a folder in the order of its list.

    Raises:
        DataError: it cannot be read.
    """
    if facts.kind == "folder":
        return WrittenFolder(target)
    source = SOURCES.build(completed("data", {"name": facts.kind, "root": str(target)}))
    assert isinstance(source, EncodedSource)
    return source


def summary_lines(facts: Facts, target: Path, earlier: int, seconds: float) -> list[str]:
    """What is in the pack, and how fast it came there."""
    now = facts.images - earlier
    share = facts.bytes / 1e6 * now / facts.images
    pace = f" ({now / seconds:,.0f} images/s, {share / seconds:,.0f} MB/s)" if now else ""
    before = f" {earlier:,} were there from earlier calls." if earlier else ""
    return [
        f"{facts.images:,} images of {facts.identities:,} identities, {facts.bytes / 1e6:,.1f} MB, in {target}: "
        f"{now:,} copied in {seconds:.1f} s{pace}.{before}",
        f"Images and labels: sha256 {facts.content_sha256}, the same in every form of these images ({target / PACK}).",
        f"To check the files later: cd {target} && sha256sum --quiet -c {CHECKSUMS}",
    ]


def _specification(config: Config) -> dict[str, Any]:
    """The node `data`, without a `root` that this kind of source does not have."""
    spec = dict(config.data)
    has_root = "root" in SOURCES.get(str(spec.get("name"))).parameters()
    if not has_root and config.source is not None:
        raise ConfigError(f"source={config.source}: data={spec['name']} reads no folder; leave source out")
    if not has_root:
        spec.pop("root", None)
    elif spec.get("root") is None and option_values("data", str(spec["name"])).get("root") is not None:
        raise ConfigError("source: a value is required; set it with source=...")
    return spec


def _places(spec: Mapping[str, Any]) -> Iterator[Path]:
    """Everything that the source reads: its root and list, and those of the sources that it is made of."""
    for key in ("root", "list"):
        if isinstance(spec.get(key), str):
            yield Path(spec[key]).expanduser()
    for part in spec.get("sources") or ():
        if isinstance(part, Mapping):
            yield from _places(part)


def _root(spec: dict[str, Any]) -> Path | None:
    return None if spec.get("root") is None else Path(str(spec["root"])).expanduser()


def _source(config: Config) -> EncodedSource:
    """What is to be copied. Identities without images are left out, as no pack can show them."""
    source = SOURCES.build(_specification(config))
    if not isinstance(source, EncodedSource):
        raise ConfigError(
            f"data={config.data['name']}: its images are not stored as files, so there is nothing to copy"
        )
    chosen = select(source, config.subset)
    present = np.unique(chosen.labels)
    if len(present) < len(chosen.classes):
        chosen = selection(chosen, np.arange(len(chosen), dtype=np.int64), present)
    assert isinstance(chosen, EncodedSource)
    return chosen


@contextmanager
def _progress(console: Console) -> Iterator[Bars]:
    with Progress(*rated_columns(), console=console) as progress:

        def bar(what: str, total: int | None = None, done: int = 0) -> Told:
            task = progress.add_task(what, total=total, completed=done, rate="")
            started, copied = time.monotonic(), 0

            def told(images: int, size: int) -> None:
                nonlocal copied
                copied += size
                if images % _SHOWN_EVERY == 0 or images == total:
                    seconds = time.monotonic() - started
                    rate = f"{(images - done) / seconds:,.0f} images/s, {copied / 1e6 / seconds:,.1f} MB/s"
                    progress.update(task, completed=images, rate=rate)

            return told

        yield bar
