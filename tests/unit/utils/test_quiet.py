"""Warnings about packages that are not used are not shown."""

import logging

from speechbrain.utils.logger import get_logger

from speechbrain_pom.utils.quiet import without_warnings_of


def test_warnings_of_one_logger_are_left_out_for_a_while(caplog):
    name = "speechbrain_pom.tests.quiet"
    with caplog.at_level(logging.INFO):
        with without_warnings_of(name):
            logger = get_logger(name)  # as a module that is imported here, which sets the level
            logger.warning("no such package")
            logger.error("broken")
            logging.getLogger("another").warning("of another")
        logger.warning("of later")
    assert caplog.messages == ["broken", "of another", "of later"]
