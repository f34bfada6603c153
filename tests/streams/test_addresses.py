"""Addresses on a screen."""

from __future__ import annotations

import pytest

from streams.addresses import without_passwords


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("rediss://shop:s3cret@store:6379/0?x=1", "rediss://shop:***@store:6379/0?x=1"),
        ("redis://:s3cret@store", "redis://:***@store"),
        ("redis://shop@store", "redis://shop@store"),
        ("redis://a:s3@x:1,redis://a:cret@y:2", "redis://a:***@x:1,redis://a:***@y:2"),
        ("redis://a:s3@cret@store", "redis://a:***@store"),
        ("redis://u:p#x@store", "redis://u:***@store"),
        ("redis://u:p/x?y@store:1/0", "redis://u:***@store:1/0"),
        ("redis://u:s3,cret@store", "redis://u:***@store"),
        ("redis://a:s3@x:1, redis://a:c,et@y:2", "redis://a:***@x:1, redis://a:***@y:2"),
        ("redis://store/0?password=s3cret&x=1", "redis://store/0?password=***&x=1"),
        ("redis://x:1,redis://a:cret@y:2", "redis://x:1,redis://a:***@y:2"),
        ("redis://a:cret@y:2,redis://x:1", "redis://a:***@y:2,redis://x:1"),
        ("unix:///run/store.sock", "unix:///run/store.sock"),
        ("kafka-1:9092,kafka-2:9092", "kafka-1:9092,kafka-2:9092"),
        ("redis://[store", "redis://[store"),
        ("", ""),
    ],
)
def test_passwords_are_left_out(address: str, shown: str) -> None:
    assert without_passwords(address) == shown
