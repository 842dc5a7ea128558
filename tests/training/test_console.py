"""What a person sees of several processes."""

import io
import logging

import pytest
from rich.console import Console

from frtrain.training.console import ConsoleLines, LinesOfARank


@pytest.fixture
def shown():
    """shown(handler class, *arguments): a function of (logger, level) that gives what is printed of a record."""

    def shown(kind, *arguments):
        screen = io.StringIO()
        handler = kind(Console(file=screen), *arguments)

        def of(logger, level):
            if level >= handler.level:  # as a logger asks
                handler.handle(logging.LogRecord(logger, level, "", 0, "said %s", ("this",), None))
            return screen.getvalue()

        return of

    return shown


def test_warning_of_a_rank_is_shown_with_its_number(shown):
    assert "rank 3: said this" in shown(LinesOfARank, 3)("frtrain.data.folder", logging.WARNING)


def test_rank_is_silent_about_what_is_no_warning(shown):
    assert shown(LinesOfARank, 3)("frtrain.data.folder", logging.INFO) == ""


@pytest.mark.parametrize("logger", ["frtrain.losses.magface", "frtrain.classifier.automatic", "frtrain.losses"])
def test_what_every_process_says_of_loss_and_classifier_is_shown_by_the_first_alone(logger, shown):
    assert shown(LinesOfARank, 1)(logger, logging.WARNING) == ""
    assert "said this" in shown(ConsoleLines)(logger, logging.WARNING)


def test_only_what_is_below_these_loggers_is_kept_back(shown):
    assert "said this" in shown(LinesOfARank, 1)("frtrain.losses_of_another_kind", logging.WARNING)
