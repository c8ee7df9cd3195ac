"""A POST meets its deadline whatever the receiver does, and neither URL nor credentials appear in output."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from support.receiver import Receiver, Response

from streamclf.errors import UsageError
from streamclf.net.http_target import parse_target
from streamclf.runtime.stop_request import StopRequest
from streamclf.subscribers.webhook.http_post import Poster, UnreachableError, shown_location


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


def test_a_receiver_that_sends_forever_is_cut_off_at_the_deadline(receiver: Receiver) -> None:
    receiver.answer = lambda request: Response(200, is_endless=True)
    with (
        closing(Poster(parse_target(receiver.url), StopRequest(), timeout_s=0.5)) as poster,
        pytest.raises(UnreachableError, match=r"no complete answer within 0\.5 s"),
    ):
        poster.post(b"{}", {})


def test_a_connection_closed_while_idle_is_made_again(receiver: Receiver) -> None:
    with closing(Poster(parse_target(receiver.url), StopRequest())) as poster:
        assert poster.post(b"{}", {}).status == 200
        receiver.stop()
        with pytest.raises(UnreachableError):
            poster.post(b"{}", {})
        receiver.start()
        assert poster.post(b"{}", {}).status == 200


@pytest.mark.parametrize(
    "url",
    ["", "ftp://h/", "file:///etc/passwd", "http://", "http://h:x/s3cret", "http://h/a b?s3cret", "http://h/\n", "h/p"],
)
def test_only_http_is_accepted_and_an_invalid_url_is_not_shown(url: str) -> None:
    with pytest.raises(UsageError, match="give http://host") as caught:
        parse_target(url)
    assert "s3cret" not in str(caught.value)


def test_the_text_of_a_target_holds_no_secret() -> None:
    target = parse_target("https://user:s3cret-pw@[::1]/s3cret-path?token=s3cret")
    assert str(target) == "https://[::1]:443"
    assert "s3cret" not in repr(target)
    assert target.authorization is not None
    assert target.authorization.startswith("Basic ")


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("http://other.example:8080/new/", "http://other.example:8080/new/"),
        ("/new", "https://h:443/new"),
        ("https://user:s3cret-pw@other.example/x?token=s3cret", "https://other.example/x?…"),
        ("https://other.example/hooks/s3cret-path-of-ours", "https://other.example/***/***"),
        ("https://other.example/t/0123456789abcdef0123", "https://other.example/t/***"),
        ("http://[::1", "an invalid address"),
        ("http://a:b#c@d/", "an invalid address"),
        ("http://other.example/\x1b[31mred", "http://other.example/\\x1b[31mred"),
    ],
)
def test_the_place_of_a_redirect_is_shown_without_secrets_and_control_characters(location: str, shown: str) -> None:
    assert shown_location(parse_target("https://h/hooks/s3cret-path-of-ours"), location) == shown


@pytest.mark.parametrize("password", ["a#b", "1#b", "1/b", "a?b", "a@b", "[b"])
def test_raw_signs_in_a_password_are_refused_with_the_remedy(password: str) -> None:
    with pytest.raises(UsageError, match="percent-encode") as caught:
        parse_target(f"https://user:{password}@10.0.0.5/hook")
    assert password not in str(caught.value)
