"""What the tests of data sets share."""

import pytest

from diffjax.errors import UserError


def error_of(call, *args, **kwargs) -> str:
    """The one line with which a call refuses."""
    with pytest.raises(UserError) as raised:
        call(*args, **kwargs)
    message = str(raised.value)
    assert "\n" not in message
    return message
