"""Addresses as people give them."""

import pytest

from configs.address import base_url
from configs.errors import ConfigError


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("http://h:1", "http://h:1/v1"),
        ("http://h:1/", "http://h:1/v1"),
        ("http://h:1/v1/", "http://h:1/v1"),
        ("https://h/v1beta/openai", "https://h/v1beta/openai"),
    ],
)
def test_an_address_without_a_path_means_v1(url, meant):
    assert base_url(url) == meant


@pytest.mark.parametrize("url", ["banana", "h:1", "127.0.0.1:9", "ftp://h", "http://", "http://h:99999", "http://h:x"])
def test_what_is_no_address_is_refused(url):
    with pytest.raises(ConfigError, match=f"--url '{url}' is not an address") as caught:
        base_url(url)
    assert "http://127.0.0.1:8000/v1" in caught.value.hint
