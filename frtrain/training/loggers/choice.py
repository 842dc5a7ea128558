"""The loggers of a run, from its configuration."""

from __future__ import annotations

from frtrain.config import ComponentSpec, LogConfig, TrainConfig
from frtrain.training.logbook import Logbook, LoggedRun, Logger
from frtrain.training.loggers import LOGGERS
from frtrain.training.loggers.json_lines import JsonLines
from frtrain.training.loggers.tensorboard import TensorBoard
from frtrain.training.run_folder import RunFolder


def check_loggers(config: LogConfig) -> None:
    """See that the chosen loggers exist and take the parameters that they are given.

    Raises:
        ConfigError: naming what does not fit.
    """
    for spec in _specs(config):
        LOGGERS.check(spec, "run")


def logbook_for(config: TrainConfig, folder: RunFolder, step: int, *shown: Logger) -> Logbook:
    """`metrics.jsonl`, what is `shown` to a person, TensorBoard unless it is off, and what `log.loggers` adds.

    Raises:
        ConfigError: a logger refuses its parameters.
        FrtrainError: a logger cannot begin.
    """
    loggers: list[Logger] = [JsonLines(folder.metrics, step), *shown]
    if config.log.tensorboard:
        loggers.append(TensorBoard(folder.tensorboard, step))
    run = LoggedRun(config.name, folder.path, step, config.model_dump())
    loggers += [LOGGERS.build(spec, run=run) for spec in _specs(config.log)]
    return Logbook(loggers)


def _specs(config: LogConfig) -> list[ComponentSpec]:
    return [{"name": logger} if isinstance(logger, str) else logger for logger in config.loggers]
