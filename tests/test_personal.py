"""Personal data in texts: what is found, what is not, and masks that look alike and are nobody's."""

import re

import pytest

from ktodata import personal

FOUND = [
    ("write to Anna.B@gmail.com or bob@example.com!", {"e-mail": ["Anna.B@gmail.com"]}),
    ("call me at 347 123 4567 ok", {"telephone": ["347 123 4567"]}),
    ("ring +39 347 1234567 or (212) 234-5678", {"telephone": ["+39 347 1234567", "(212) 234-5678"]}),
    ("tel. 06 12 34 56 78", {"telephone": ["06 12 34 56 78"]}),
    ("my card is 4111 1111 1111 1111, ok?", {"card": ["4111 1111 1111 1111"]}),
    ("it is 5500-0055-5555-5559.", {"card": ["5500-0055-5555-5559"]}),
    ("IBAN IT60 X054 2811 1010 0000 0123 456 and more", {"iban": ["IT60 X054 2811 1010 0000 0123 456"]}),
    ("DE89370400440532013000.", {"iban": ["DE89370400440532013000"]}),
    ("cf RSSMRA85T10A562S, dni 12345678Z", {"tax or identity number": ["RSSMRA85T10A562S", "12345678Z"]}),
    ("ssn 536-90-4399", {"tax or identity number": ["536-90-4399"]}),
]


@pytest.mark.parametrize(("text", "kinds"), FOUND)
def test_it_is_found_by_shape_and_check_digits(text: str, kinds: dict[str, list[str]]) -> None:
    found: dict[str, list[str]] = {}
    for kind, start, end in personal.find(text):
        found.setdefault(kind, []).append(text[start:end])
    assert found == kinds


@pytest.mark.parametrize(
    "text",
    [
        "on 2024-05-12 at 10:30, version 1.2.3.4, 3.14159265358979, $1,234,567.89",
        "isbn 978-3-16-148410-0, order 123456789, 20 000 000 people in 1939-1945",
        "card 4111 1111 1111 1112, iban DE89370400440532013001, dni 12345678A",
        "https://maps.example.org/@37.3362725,-121.8244 192.168.100.101 @someone",
        "at bob@example.com, 212 555 0134, me@localhost",
        "",
    ],
)
def test_other_numbers_are_none(text: str) -> None:
    assert personal.find(text) == []
    assert personal.mask(text) == text


@pytest.mark.parametrize("text", [text for text, _ in FOUND])
def test_masks_look_alike_and_are_nobodys(text: str) -> None:
    masked = personal.mask(text)
    assert personal.find(masked) == []
    assert personal.mask(masked) == masked
    for kind, start, end in personal.find(text):
        assert text[start:end] not in masked
        if kind != "e-mail":
            assert re.sub(r"[a-z]", "a", re.sub(r"[A-Z]", "A", re.sub(r"\d", "0", text))) == re.sub(
                r"[a-z]", "a", re.sub(r"[A-Z]", "A", re.sub(r"\d", "0", masked))
            )


def test_one_original_has_one_mask_however_it_is_written() -> None:
    first, again = personal.mask("mail ann@corp.com").split()[1], personal.mask("To: ANN@corp.com!").split()[1]
    assert first == again.rstrip("!")
    assert personal.mask("mail bob@corp.com").split()[1] != first
    masks = {personal.mask(f"{n:03}@corp.com") for n in range(300)}
    assert len(masks) > 200
