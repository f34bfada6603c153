"""Addresses as people write them."""

from __future__ import annotations

import re

_NEXT = re.compile(r"(,\s*)(?=\w+://)")
_USER_INFO = re.compile(r"^(\w+://[^:@/]*):.*@")
_PARAMETER = re.compile(r"([?&]password=)[^&]*")


def without_passwords(addresses: str) -> str:
    """One URL, or several separated by commas, fit for a screen: passwords as ``***``.

    Also where a password holds what belongs into a URL only encoded, and the URL is refused for it.

    >>> without_passwords("rediss://shop:s3cret@store:6379/0")
    'rediss://shop:***@store:6379/0'
    """
    return "".join(
        _PARAMETER.sub(r"\1***", _USER_INFO.sub(r"\1:***@", part))
        for part in _NEXT.split(addresses)
    )
