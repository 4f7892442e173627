"""Calls that end with one line."""

import pytest

from speechbrain_pom.utils.errors import UserError


def refusal(call, *args, **options):
    """The line of the `UserError` that a call raises."""
    with pytest.raises(UserError) as caught:
        call(*args, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message
