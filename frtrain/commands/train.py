"""`python -m frtrain [train]`: train a network, verify it, leave everything in a run folder."""

from __future__ import annotations

import logging
import shlex
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from rich.console import Console

from frtrain.config import TrainConfig
from frtrain.data.loader import death_of_loader
from frtrain.deploy.embedder import Embedder
from frtrain.errors import EndedElsewhereError, FrtrainError, TrainingError
from frtrain.evaluation import SUITES, Report
from frtrain.evaluation.identities import identities_report
from frtrain.evaluation.pairs import pairs_from_labels
from frtrain.evaluation.report import write_report
from frtrain.processes import Processes
from frtrain.signals import StoppedError, StopRequest
from frtrain.training.build import prepare, run_folder_for
from frtrain.training.checkpoint_reading import StoredCheckpoint
from frtrain.training.checks import check_components
from frtrain.training.console import ConsoleLines, LinesOfARank, LogFile, log_of_rank
from frtrain.training.distributed import all_or_none, lost_processes_told, shared
from frtrain.training.loop import train
from frtrain.training.peers import Lost, Peers, loss_told
from frtrain.training.restarts import Attempts, how_to_go_on, where_it_stands
from frtrain.training.resume import checkpoint_to_resume
from frtrain.training.run import Run
from frtrain.training.run_folder import RunFolder

EXAMPLES = """
python -m frtrain                                      trains on synthetic faces, on whatever is here
python -m frtrain loss=sv_softmax backbone=iresnet50 data=folder data.root=/faces/casia
python -m frtrain resume=runs/NAME/TIME                goes on where a run stopped
torchrun --nproc-per-node=8 -m frtrain loss=arcface    one process for each of eight GPUs
python -m frtrain -m loss=arcface,sv_softmax seed=1,2  a sweep
"""

ECHO_SECONDS = 3.0
"""Within which a second stop signal is taken for torchrun's copy of the first."""

Config = TrainConfig
log = logging.getLogger("frtrain")


def check(config: TrainConfig) -> None:
    """What can be known to be wrong before anything is built.

    Raises:
        ConfigError, DataError: naming the key or file.
    """
    check_components(config)


def run(config: TrainConfig) -> None:
    """Train, verify, report.

    Raises:
        StoppedError: a signal ended the run; its checkpoint is written and the message says how to go on.
        EndedElsewhereError: another process of the run failed.
        FrtrainError: anything else that the user can act on.
    """
    processes = Processes.current()
    console = Console(soft_wrap=True, highlight=False, emoji=False)
    folder: RunFolder | None = None
    own_folder: RunFolder | None = None
    handlers: list[logging.Handler] = []

    def tell_loss(lost: Sequence[Lost]) -> None:
        log.error("%s", loss_told(lost, processes.count, where_it_stands(folder, attempts)))

    def abandon() -> None:
        if own_folder is not None:
            own_folder.unlock()

    try:
        with lost_processes_told():
            attempts = Attempts(config, processes)
        with Peers(processes, tell_loss, abandon), lost_processes_told():
            with all_or_none(processes):
                if processes.rank == 0:
                    config = attempts.going_on(config)
                    folder = own_folder = run_folder_for(config)
                handlers = _log_to(own_folder, console, processes.rank)
            path = shared(processes, None if own_folder is None else str(own_folder.path))
            folder = own_folder or RunFolder(Path(str(path)))
            handlers += log_of_rank(folder.path, processes.rank)
            _run(config, folder, console, processes, attempts)
    except (FrtrainError, KeyboardInterrupt) as error:
        log.debug("%s: %s", type(error).__name__, error)
        raise
    except Exception:
        log.debug("an error that nobody expected", exc_info=True)  # Python shows it on the screen
        raise
    finally:
        if own_folder is not None:
            own_folder.unlock()
        for handler in handlers:
            logging.getLogger("frtrain").removeHandler(handler)
            handler.close()


def _run(config: TrainConfig, folder: RunFolder, console: Console, processes: Processes, attempts: Attempts) -> None:
    first = processes.rank == 0
    checkpoint = _checkpoint(config, folder, processes, attempts)
    prepared = prepare(config, folder, checkpoint, console)
    run = prepared.run
    overrides = list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []
    with all_or_none(processes):
        if first:
            kept = [text for text in overrides if not text.startswith(("resume=", "resume_anyway="))]
            folder.write_facts(config.model_dump(), kept, run.device, processes.count)
    began = time.monotonic()
    try:
        if not run.finished:
            with StopRequest(ECHO_SECONDS if processes.count > 1 else 0) as stop:
                try:
                    with lost_processes_told():
                        train(run, prepared.loader, prepared.observers, stop)
                except EndedElsewhereError:
                    if stop.signal is not None:  # torchrun ends this process because of the other one
                        raise SystemExit(128 + stop.signal) from None
                    raise
                except RuntimeError as error:
                    if (death := death_of_loader(error)) is None:
                        raise
                    raise death from None
                finally:
                    folder.in_use |= run.state.step > 0
            if stop.signal is not None and not run.finished:
                raise StoppedError(stop.signal, _how_to_go_on(run), stop.exit_status)
        if run.state.skipped == run.state.step:
            raise TrainingError(
                f"all {run.state.step} steps were skipped because loss or gradients were not finite: nothing was learned"
            )
        with run.evaluating(), all_or_none(processes):
            if first:
                _report(run, began)
    finally:
        run.logbook.close()


def _checkpoint(
    config: TrainConfig, folder: RunFolder, processes: Processes, attempts: Attempts
) -> StoredCheckpoint | None:
    """The checkpoint to go on from, which process 0 chooses and verifies, and all read."""
    checkpoint: StoredCheckpoint | None = None
    with all_or_none(processes):
        if processes.rank == 0:
            folder.remove_leftovers()
            checkpoint = checkpoint_to_resume(config, folder)
            attempts.note(folder.path)
            log.info("run folder %s", folder.path)
            if checkpoint is not None:
                log.info("going on from %s", checkpoint.path)
                if config.init_from is not None:
                    log.info("init_from=%s is for a new run, and is not read", config.init_from)
    path = shared(processes, None if checkpoint is None else str(checkpoint.path))
    with all_or_none(processes):
        folder.check_seen()
        if path is not None and checkpoint is None:
            checkpoint = StoredCheckpoint.at(Path(path))
    return checkpoint


def _report(run: Run, began: float) -> None:
    try:
        reports = _reports(run)
    except FrtrainError:
        log.error("training is finished and saved in %s; only its report failed", run.folder.checkpoints / "last")
        raise
    _summarise(run, reports, time.monotonic() - began)


def _reports(run: Run) -> dict[str, tuple[Report, Path]]:
    """Verify the last weights on held-out identities and on the configured suite, and write the pages.

    In float32, as `evaluate` does, so that both give the same number.
    """
    reports: dict[str, tuple[Report, Path]] = {}
    model = f"{run.config.backbone['name']} trained with {run.config.loss['name']}, {run.folder.path}"
    embed = Embedder(run.evaluated, run.preprocessing, run.device, model).embed
    evaluations = run.folder.path / "evaluations"
    if run.held_out is not None:
        pairs = pairs_from_labels(run.held_out.labels, run.config.validation.pairs, run.config.seed)
        title = "Held-out identities of the training data"
        report = identities_report(embed, run.held_out, pairs, "held_out", title)
        reports["held-out identities"] = (report, write_report(report, model, evaluations / "held_out"))
    if run.config.suite is not None:
        suite = SUITES.build(run.config.suite)
        report = suite.run(embed, run.preprocessing.size, batch_size=256)
        reports[report.title] = (report, write_report(report, model, evaluations / suite.name))
    if reports:
        first_page = next(page for _, page in reports.values())
        shutil.copyfile(first_page, run.folder.report)  # self-contained
    return reports


def _summarise(run: Run, reports: dict[str, tuple[Report, Path]], seconds: float) -> None:
    minutes, rest = divmod(round(seconds), 60)
    log.info("finished %d steps in %d:%02d, %d skipped", run.state.step, minutes, rest, run.state.skipped)
    for name, (report, page) in reports.items():
        log.info("%s: %s", name, report.verification.headline())
        log.info("  report and pictures: %s", page)
    log.info("checkpoint: %s", run.folder.checkpoints / "last")
    if run.config.log.tensorboard:
        log.info("curves and pictures: tensorboard --logdir %s", shlex.quote(str(run.folder.tensorboard)))
    log.info("evaluate it: python -m frtrain evaluate %s suite=...", shlex.quote(f"model={run.folder.path}"))


def _how_to_go_on(run: Run) -> str:
    return (
        f"after step {run.state.step} of {run.total_steps}, a checkpoint is written. "
        f"Go on with: {how_to_go_on(run.folder.path)}"
    )


def _log_to(folder: RunFolder | None, console: Console, rank: int) -> list[logging.Handler]:
    """Everything to the screen and to the folder's log; warnings to stderr from a process that has no folder."""
    handlers: list[logging.Handler]
    if folder is None:
        stderr = Console(stderr=True, soft_wrap=True, highlight=False, emoji=False)
        handlers = [LinesOfARank(stderr, rank)]
    else:
        try:
            handlers = [ConsoleLines(console), LogFile(folder.log)]
        except OSError as error:
            raise FrtrainError(f"{folder.log}: cannot be written ({error.strerror})") from None
    logger = logging.getLogger("frtrain")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    for handler in handlers:
        logger.addHandler(handler)
    return handlers
