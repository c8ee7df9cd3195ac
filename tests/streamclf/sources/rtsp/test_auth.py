"""Basic and digest authentication, checked against the examples of the RFCs."""

from __future__ import annotations

from hashlib import md5

import pytest

from streamclf.sources.rtsp.address import Credentials
from streamclf.sources.rtsp.auth import Authenticator, choose_challenge

MUFASA = Credentials(user="Mufasa", password="Circle of Life")


RFC_7616 = (
    'Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm={}, '
    'nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"'
)


@pytest.mark.parametrize(
    ("algorithm", "response"),
    [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ],
)
def test_the_digest_example_of_rfc_7616_section_3_9_1(algorithm: str, response: str) -> None:
    challenge = choose_challenge([RFC_7616.format(algorithm)])
    assert challenge
    header = Authenticator(MUFASA, challenge).header(
        "GET", "/dir/index.html", "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"
    )
    assert f'response="{response}"' in header
    assert "qop=auth, nc=00000001" in header
    assert 'opaque="FQhe' in header


def test_the_digest_example_of_rfc_2617_section_3_5() -> None:
    header = (
        'Digest realm="testrealm@host.com", qop="auth,auth-int", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", '
        'opaque="5ccc069c403ebaf9f0171e9517f40e41"'
    )
    challenge = choose_challenge([header])
    assert challenge
    authenticator = Authenticator(Credentials(user="Mufasa", password="Circle Of Life"), challenge)
    assert 'response="6629fae49393a05397450978507c4ef1"' in authenticator.header("GET", "/dir/index.html", "0a4f113b")
    assert "nc=00000002" in authenticator.header("GET", "/dir/index.html")
    assert "algorithm" not in authenticator.header("GET", "/"), (
        "only if the server names one: old servers do not know it"
    )


def test_the_strongest_of_several_challenges_is_chosen() -> None:
    both = 'Basic realm="a, b", Digest realm="x", nonce="1", Digest realm="x", nonce="2", algorithm=SHA-256'
    for headers in ([both], ['Digest realm="x", nonce="2", algorithm=SHA-256', "Basic realm=q", "Digest nonce=1"]):
        challenge = choose_challenge(headers)
        assert challenge
        assert (challenge.scheme, challenge.parameters["nonce"]) == ("digest", "2")
    basic = choose_challenge(["Negotiate abc=", 'Digest realm="x", nonce="n", qop="auth-int"', 'Basic realm="q\\"q"'])
    assert basic
    assert Authenticator(MUFASA, basic).header("X", "y") == "Basic TXVmYXNhOkNpcmNsZSBvZiBMaWZl"
    assert basic.parameters["realm"] == 'q"q'
    assert choose_challenge(["Negotiate", "Digest algorithm=X", ""]) is None


def test_a_session_digest_includes_the_nonces_in_its_secret() -> None:
    challenge = choose_challenge(['Digest realm="r", nonce="n", algorithm=MD5-sess'])
    assert challenge
    header = Authenticator(Credentials(user="u", password="p"), challenge).header("PLAY", "rtsp://c/", "c")
    secret = md5(b"%s:n:c" % md5(b"u:r:p").hexdigest().encode()).hexdigest()
    right = md5(f"{secret}:n:{md5(b'PLAY:rtsp://c/').hexdigest()}".encode()).hexdigest()
    assert f'response="{right}"' in header
    assert 'cnonce="c"' in header
