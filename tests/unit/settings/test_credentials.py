"""What is refused as a credential is also hidden where it is shown: both follow from the same patterns."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musc_ray.settings.credentials import has_credentials, redacted

NAMES = ["password", "Passwd", "pwd", "secret", "token", "access_token", "credential", "signature", "connection_string"]
NAMES += ["api_key", "ACCESS-KEY-ID", "secret_access_key", "shared_key", "accountKey", "my_password"]
SECRET = st.text("abcdefghijkmnpqrsuvwxyz23456789", min_size=9, max_size=20).map(lambda text: "Zq" + text)


@given(
    SECRET,
    st.sampled_from(NAMES),
    st.sampled_from(["{0}={1}", "{0} = {1}", "s3://b/x?{0}={1}", "cannot open {0}={1}, sorry"]),
)
def test_named_secrets(secret, name, text):
    shown = text.format(name, secret)
    assert has_credentials(shown)
    assert secret not in redacted(shown, {})


@given(
    SECRET,
    st.sampled_from(["s3://key:{}@host/b", "https://{}@host/x", "https://h/x?sig={}&a=1", "https://h/x;auth={}"]),
)
def test_secrets_of_urls(secret, text):
    for shown in (text.format(secret), "Cannot read " + text.format(secret) + "/image.png: not found."):
        assert has_credentials(shown)
        assert secret not in redacted(shown, {})


@given(SECRET)
def test_escaped_secrets(secret):
    shown = f"s3://bucket/x%3Fpassword%3D{secret}"
    assert has_credentials(shown)
    assert secret not in redacted(f"Cannot read {shown}.", {})


@given(st.text(max_size=60))
def test_whatever_is_refused_is_not_shown_as_it_is(text):
    if has_credentials(text) and not text.rstrip().endswith(("=", "%3D", "%3d")):
        assert redacted(text, {}) != text or "***" in text


PLAIN = ["s3://lake/day=2026-01-01/token=abc/x.png", "http://host:8080/a@b", "keys: 3, tokens: 4"]


@pytest.mark.parametrize("text", PLAIN)
def test_what_is_not_a_secret_stays(text):
    assert not has_credentials(text)
    assert redacted(text, {}) == text
