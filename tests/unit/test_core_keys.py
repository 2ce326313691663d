"""The key of a cluster, as people type it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshq.core import keys
from meshq.core.keys import Key
from meshq.errors import BadKey

KEY = Key(bytes(range(20)))
secrets = st.binary(min_size=keys.SECRET_BYTES, max_size=keys.SECRET_BYTES)


@given(secrets)
def test_what_is_written_is_read_again(secret: bytes) -> None:
    text = Key(secret).text
    assert re.fullmatch(r"mq1(-[0-9a-hjkmnp-tv-z]{4}){9}", text)
    assert keys.parse(text) == Key(secret)


@pytest.mark.parametrize(
    "change",
    [str.upper, lambda text: text.replace("-", ""), lambda text: text.replace("-", " "), lambda text: f"  {text}\n"],
    ids=["capitals", "no dashes", "spaces", "white space around"],
)
def test_how_it_is_laid_out_does_not_matter(change: object) -> None:
    assert callable(change)
    assert keys.parse(change(KEY.text)) == KEY


def test_letters_that_look_like_digits_are_those() -> None:
    text = Key(b"\0" * 20).text
    assert keys.parse(text.replace("0", "O")) == Key(b"\0" * 20)
    with_one = Key(b"\x08\x42\x10\x84\x21" * 4).text
    assert "1111" in with_one
    assert keys.parse(with_one.replace("1", "l")) == keys.parse(with_one.replace("1", "I")) == keys.parse(with_one)


@given(secrets, st.integers(0, 35), st.sampled_from("0123456789abcdefghjkmnpqrstvwxyz"))
def test_one_mistyped_character_is_noticed(secret: bytes, place: int, char: str) -> None:
    text = Key(secret).text
    at = 4 + place + place // 4
    wrong = text[:at] + char + text[at + 1 :]
    if wrong != text:
        with pytest.raises(BadKey, match="mistyped"):
            keys.parse(wrong)


@given(secrets, st.integers(0, 34))
def test_two_that_changed_places_are_noticed(secret: bytes, place: int) -> None:
    chars = list(Key(secret).text.removeprefix("mq1").replace("-", ""))
    chars[place], chars[place + 1] = chars[place + 1], chars[place]
    wrong = "mq1-" + "".join(chars)
    if keys.parse(Key(secret).text).text.replace("-", "") != wrong.replace("-", ""):
        with pytest.raises(BadKey, match="changed places"):
            keys.parse(wrong)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "the key is empty"),
        ("swordfish", "a key begins with mq1-"),
        ("mq2" + KEY.text[3:], "a key of version '2'; this meshq knows version 1: upgrade"),
        (KEY.text[:-1], "36 characters behind mq1-, this one 35: a part is missing"),
        (KEY.text + "-0000", "this one 40: something was added"),
        ("mq1-u" + KEY.text[5:], "'u' in group 1 is no character of a key"),
        (KEY.text[:-4] + "é" + KEY.text[-3:], "'é' in group 9 is no character of a key"),
    ],
)
def test_what_is_no_key_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(BadKey, match=re.escape(why)) as caught:
        keys.parse(text)
    assert len(text) < 30 or text not in str(caught.value)


@given(st.text(max_size=60))
def test_any_text_is_a_key_or_refused(text: str) -> None:
    try:
        keys.parse(text)
    except BadKey:
        return
    assert text.strip().lower().startswith("mq")


def test_nothing_but_its_text_tells_a_key() -> None:
    for shown in (repr(KEY), str(KEY), KEY.name):
        assert KEY.text[4:8] not in shown
        assert KEY.secret.hex() not in shown
    assert len(KEY.name) == 8
    assert KEY.name != Key(b"\1" * 20).name
