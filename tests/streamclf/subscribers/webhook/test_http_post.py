"""A POST meets its deadline whatever the receiver does, and neither URL nor credentials appear in output."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from support.receiver import Receiver, Response

from streamclf.errors import UsageError
from streamclf.runtime.stop_request import StopRequest
from streamclf.subscribers.webhook.http_post import Poster, UnreachableError, parse_target


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
