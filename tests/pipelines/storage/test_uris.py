"""URIs with credentials: refused where a user types them, hidden where they are printed or stored."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.storage.uris import absolute, before_magic, redacted, redacted_text
from vista_core import UsageError

SECRET = "s3cr3t"
WORDS = st.text("abcXYZ019-._~%+", max_size=6)
PATHS = st.lists(st.text("abc019-._~%+:@=", max_size=6), max_size=3).map("/".join)
NAMES = st.sampled_from(
    ["sig", "X-Amz-Signature", "X-Amz-Credential", "X-Goog-Signature", "token", "access_token", "s"]
)


@st.composite
def uris_with_secrets(draw) -> str:
    """URIs in which each credential has the word SECRET, and nothing else has it."""
    secret = f"{draw(WORDS)}{SECRET}{draw(WORDS)}"
    scheme = draw(st.sampled_from(["https", "HTTP", "s3", "S3A", "gs", "ftp"]))
    if draw(st.booleans()):
        password = f"{secret}/{draw(WORDS)}" if scheme in ("s3", "S3A", "gs") else secret
        return f"{scheme}://{draw(st.sampled_from([secret, f'{secret}:x', f'key:{password}']))}@host/{draw(PATHS)}"
    first = draw(st.sampled_from(["", "w=300&", "id=7;"]))
    return f"{scheme}://host/{draw(PATHS)}?{first}{draw(NAMES)}={secret}{draw(st.sampled_from(['', '&h=2', '#top']))}"


@given(uris_with_secrets())
def test_no_credential_is_left_of_a_uri_that_is_redacted(uri):
    assert SECRET not in redacted(uri)
    assert SECRET not in redacted_text(f"ClientError: GET '{uri}' failed (see {uri}), twice: {uri}.")
    assert redacted(redacted(uri)) == redacted(uri)
    assert redacted(uri).startswith(uri.partition("://")[0]) and "host" in redacted(uri)


@given(st.sampled_from(["https://host:8443/", "s3://bucket/", "/data/", "file:///data/", "data/"]), PATHS)
def test_a_uri_without_credentials_stays(start, path):
    assert redacted(start + path) == redacted_text(start + path) == start + path


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://u:p@a.com/x?w=3&sig=a%2Fb#t=1", "https://***@a.com/x?w=***&sig=***#t=***"),
        ("https://a.com/x?abc", "https://a.com/x?***"),
        ("s3://KEY:SE/CR+ET@bucket/x", "s3://***@bucket/x"),
        ("s3://bucket/2024?/day=3/*.parquet", "s3://bucket/2024?/day=3/*.parquet"),
        ("s3://bucket/x?X-Amz-Signature=a/b", "s3://bucket/x?X-Amz-Signature=***"),
        ("/data/x?token=3", "/data/x?token=3"),
    ],
)
def test_what_is_shown_of_a_uri(uri, shown):
    assert redacted(uri) == shown


def test_a_secret_parameter_of_a_message_is_hidden_without_a_host():
    assert redacted_text("/x?w=3&X-Amz-Signature=abc: bad; token=abc") == "/x?w=3&X-Amz-Signature=***: bad; token=***"


@pytest.mark.parametrize(
    "uri",
    [
        "s3://KEY:SECRET@bucket/db",
        "https://me:SECRET@host/x",
        "https://SECRET@host/x",
        "https://host/x?X-Amz-Signature=SECRET&X-Amz-Credential=SECRET",
        "https://host/x?sv=2024&sig=SECRET",
        "s3://bucket/x?token=SECRET",
    ],
)
def test_credentials_in_an_option_are_refused_without_repeating_them(uri):
    with pytest.raises(UsageError, match=r"\*\*\*.* has credentials in it.* AWS_PROFILE") as refused:
        absolute(uri)
    assert "SECRET" not in str(refused.value).partition(" has credentials")[0]


@pytest.mark.parametrize("uri", ["https://host/model.pth?download=true", "s3://b/token=1/x", "s3://b/a?/sig=1/x"])
def test_parameters_that_are_no_secret_are_accepted(uri):
    assert absolute(uri) == uri


@pytest.mark.parametrize(
    ("glob", "folder"), [("/data/2024-*/x?", "/data"), ("/*/x", "/"), ("bucket/[a]", "bucket"), ("b*", "")]
)
def test_the_folder_before_the_first_wildcard(glob, folder):
    assert before_magic(glob) == folder
