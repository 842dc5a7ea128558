"""`python -m frtrain curate`: what is wrong with a data set, as a trained model sees it."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Interval
from rich.console import Console
from rich.markup import escape

from frtrain.bars import progress_bar
from frtrain.commands.evaluate import load_model
from frtrain.config import SubsetConfig
from frtrain.config_files import completed
from frtrain.curation.duplicates import find_duplicates, find_shared_photographs
from frtrain.curation.embeddings import embed_source, sample_digest
from frtrain.curation.findings import Findings, Mislabelled, Overlap
from frtrain.curation.page import findings_page
from frtrain.curation.search import (
    Surveyed,
    find_merges,
    find_mislabelled,
    find_overlaps,
    find_splits,
    survey,
)
from frtrain.data import SOURCES, Source
from frtrain.data.encoded import image_name
from frtrain.data.exclusion import Exclusion, write_exclusions
from frtrain.data.packs.target import locked
from frtrain.data.selection import select
from frtrain.data.soundness import check_source
from frtrain.deploy.embedder import Weights
from frtrain.errors import ConfigError, DataError
from frtrain.evaluation.references import Embedder
from frtrain.files import make_writable_folder, write_atomically
from frtrain.schema import PositiveInt, Section
from frtrain.training.hardware import choose_device

EXAMPLES = """
python -m frtrain curate model=runs/arcface data.root=data/crops target=curation
python -m frtrain curate model=runs/arcface data.root=data/webface against=data/lfw/crops target=curation
python -m frtrain data.root=data/webface 'subset.exclude=[curation/exclude_overlap.txt]'     trains without what was found
"""

MOST_MISLABELLED = 0.1
"""Share of a data set beyond which the model, not the labels, is to blame."""

MARK = ".curation"
"""Lies in a folder of findings from the first call on."""

_WRITTEN = re.compile(
    r"page\.html|findings\.json|exclude_(overlap|mislabelled|duplicates|unreadable)\.txt"
    r"|(data|against)\.(json|embeddings\.npy|hashes\.npy|readable\.npy)"
)

Share = Annotated[float, Interval(gt=0, lt=1)]


class Config(Section):
    """What is looked at, with which eyes.

    Attributes:
        data, subset: the data set.
        model: run folder or checkpoint.
        weights: of it: those of the model, or their average (`trainer.ema_decay`).
        target: folder of what is found.
        against: folder or pack of a test set; null: none.
        false_share: expected share of wrong ones among overlaps and merges found by likeness.
        stranger_share: an image is taken for mislabelled when so many strangers look at least as much like the identity.
        split_images: least images of a second person within an identity.
        duplicate_distance: bits of 64 in which hashes of nearly equal images may differ.
        shown: worst cases of each kind on the page.
        device: auto, cpu, cuda, cuda:1, mps.
        batch_size: images at once.
    """

    data: dict[str, Any]
    subset: SubsetConfig
    model: str
    weights: Weights
    target: str
    against: str | None
    false_share: Share
    stranger_share: Share
    split_images: Annotated[int, Interval(ge=2, le=10_000)]
    duplicate_distance: Annotated[int, Interval(ge=0, le=16)]
    shown: Annotated[int, Interval(ge=0, le=1000)]
    device: str
    batch_size: PositiveInt


def check(config: Config) -> None:
    """What can be known to be wrong without reading data.

    Raises:
        ConfigError: naming the key.
    """
    SOURCES.check(config.data)
    if not config.target:
        raise ConfigError("target: a folder is required; set it with target=...")
    root = config.data.get("root")
    if root and Path(config.target).expanduser().resolve() == Path(root).expanduser().resolve():
        raise ConfigError(f"target={config.target} is the data set itself: choose another folder")
    if root and config.against and Path(config.against).expanduser().resolve() == Path(root).expanduser().resolve():
        raise ConfigError(f"against={config.against} is the data set itself: everybody would be found in it")
    if config.against is not None and not Path(config.against).expanduser().exists():
        raise ConfigError(f"against={config.against}: there is no such folder or pack")


def run(config: Config) -> None:
    """Embed, search, write the page, the lists and `findings.json`, and say how much was found."""
    check(config)
    folder = Path(config.target).expanduser()
    source = select(SOURCES.build(config.data), config.subset)
    check_source(source)
    test = (
        None if config.against is None else SOURCES.build(completed("data", {"name": "auto", "root": config.against}))
    )
    embedder = load_model(config.model, config.device, config.weights)
    try:
        make_writable_folder(folder)
        with locked(folder):
            _check_owner(folder)
            _curate(config, embedder, source, test, folder)
    except OSError as error:
        raise DataError(f"target={folder} cannot be written ({error.strerror or error})") from None


def _check_owner(folder: Path) -> None:
    """See that nothing of others is replaced: what curation writes lies there only where curation was before.

    Raises:
        DataError: otherwise; names the first file. `OSError`: the folder cannot be listed or written.
    """
    if not (folder / MARK).exists():
        found = sorted(path.name for path in folder.iterdir() if _WRITTEN.fullmatch(path.name))
        if found:
            raise DataError(
                f"target={folder} holds {found[0]}, which is not of an earlier call (there is no {MARK}): choose an empty or "
                "new folder"
            )
        write_atomically(folder / MARK, "python -m frtrain curate writes here, and replaces what it has written.\n")


def _curate(config: Config, embedder: Embedder, source: Source, test: Source | None, folder: Path) -> None:
    console = Console(soft_wrap=True, highlight=False, emoji=False)
    data = _surveyed(config, embedder, source, folder, "data", console)
    against = None if test is None else _surveyed(config, embedder, test, folder, "against", console)
    findings = _search(config, data, against)
    sure = len(findings.mislabelled) <= MOST_MISLABELLED * len(source)
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    write_atomically(folder / "findings.json", json.dumps(asdict(findings), indent=1) + "\n")
    lists = _write_lists(folder, findings, data, sure)
    write_atomically(
        folder / "page.html", findings_page(findings, data, against, config.shown, embedder.description, created)
    )
    for line in _summary(findings, lists):
        console.print(escape(line))
    if not sure:
        console.print(
            f"[yellow]{len(findings.mislabelled) / len(source):.0%} of the images do not look like their identity: this model "
            "does not tell these people apart well enough, and no list of wrong labels was written; use a better one[/]"
        )
    console.print(f"look at it before you leave anything out: [cyan]{escape(str(folder / 'page.html'))}[/]")


def _surveyed(
    config: Config, embedder: Embedder, source: Source, folder: Path, name: str, console: Console
) -> Surveyed:
    identity = {"model": embedder.fingerprint, "data": source.fingerprint, "sample": sample_digest(source)}
    with progress_bar(f"embedding {name}", len(source), console) as advance:
        embedded = embed_source(embedder.embed, source, folder, name, config.batch_size, identity, advance)
    return survey(source, embedded, config.stranger_share)


def _search(config: Config, data: Surveyed, test: Surveyed | None) -> Findings:
    device = choose_device(config.device).value
    overlaps: list[Overlap] = []
    if test is not None:
        overlaps = find_overlaps(data, test, config.false_share, device)
        known = {(overlap.identity, overlap.other) for overlap in overlaps}
        shared = find_shared_photographs(data, test, config.duplicate_distance)
        overlaps += [overlap for overlap in shared if (overlap.identity, overlap.other) not in known]
    return Findings(
        overlaps=overlaps,
        mislabelled=find_mislabelled(data, device),
        merges=find_merges(data, config.false_share, device),
        splits=find_splits(data, config.split_images),
        duplicates=find_duplicates(data, config.duplicate_distance),
        unreadable=np.flatnonzero(~data.embedded.readable).tolist(),
        thresholds={"a stranger's fit is below": data.outlier, "the same person's at least": data.same},
    )


def _write_lists(folder: Path, findings: Findings, data: Surveyed, sure: bool) -> dict[str, int]:
    """One exclusion list per kind of finding; merges and splits are for a person to decide.

    Args:
        folder: where to.
        findings: all.
        data: what they are of.
        sure: whether the model knows these people well enough for a list of wrong labels.
    """
    source = data.source
    kinds = {
        "overlap": [
            Exclusion("identity", identity, f"is {other} of the test set")
            for identity, other in {overlap.identity: overlap.other for overlap in findings.overlaps}.items()
        ],
        "mislabelled": [Exclusion("image", case.name, _reason(case)) for case in findings.mislabelled if sure],
        "duplicates": [
            Exclusion("image", image_name(source, image), f"nearly the same as {image_name(source, group.images[0])}")
            for group in findings.duplicates
            for image in group.images[1:]
        ],
        "unreadable": [Exclusion("image", image_name(source, image), "unreadable") for image in findings.unreadable],
    }
    for kind, exclusions in kinds.items():
        path = folder / f"exclude_{kind}.txt"
        if exclusions:
            write_exclusions(path, exclusions)
        else:
            path.unlink(missing_ok=True)
    return {f"exclude_{kind}.txt": len(exclusions) for kind, exclusions in kinds.items() if exclusions}


def _reason(case: Mislabelled) -> str:
    suggestion = f", looks like {case.suggestion}" if case.suggestion else ""
    return f"fits {case.identity} by {case.fit:.2f}{suggestion}"


def _summary(findings: Findings, lists: dict[str, int]) -> list[str]:
    between = sum(len(group.identities) > 1 for group in findings.duplicates)
    return [
        f"{len(findings.overlaps):,} identities that are people of the test set",
        f"{len(findings.mislabelled):,} images that do not look like their identity",
        f"{len(findings.merges):,} pairs of identities that look like one person, {len(findings.splits):,} identities "
        "that hold a second person",
        f"{len(findings.duplicates):,} groups of nearly equal images, {between:,} of them between identities",
        f"{len(findings.unreadable):,} unreadable images",
        *(f"  {name}: {count:,} lines" for name, count in lists.items()),
    ]
