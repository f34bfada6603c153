"""Addresses as people write them."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit


def without_passwords(addresses: str) -> str:
    """One URL, or several separated by commas, fit for a screen: passwords as ``***``.

    >>> without_passwords("rediss://shop:s3cret@store:6379/0")
    'rediss://shop:***@store:6379/0'
    """
    return ",".join(_without_password(address) for address in addresses.split(","))


def _without_password(address: str) -> str:
    try:
        parts = urlsplit(address)
    except ValueError:  # no URL: whoever reads it says so
        return address
    if not parts.password:
        return address
    user, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}:***@{host}"))
