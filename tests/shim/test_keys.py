import pytest

from dm.shim import keys


def test_every_printable_character_can_be_typed():
    for code in range(32, 127):
        data = keys.type_character(chr(code))
        assert data[-1] & 0x80, "ends with a release"
        assert sum(byte & 0x80 == 0 for byte in data) == len(data) // 2, "every press is released"


def test_shift_is_held_around_the_key():
    assert keys.type_character("$") == bytes((0x2A, 0x05, 0x85, 0xAA))
    assert keys.type_character("\x03") == bytes((0x1D, 0x2E, 0xAE, 0x9D))


def test_untypable_character_is_named():
    with pytest.raises(ValueError, match="'é'"):
        keys.type_character("é")


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("ab", [0x1E, 0x30]),
        (r"a\n", [0x1E, 0x1C]),
        (r"\\", [0x2B]),
        ("<enter><ESC>", [0x1C, 0x01]),
        ("<f10>", [0x44]),
        ("<ctrl-c>", [0x1D]),
        ("<<", [0x2A]),
        ("<alt-f4>", [0x38]),
        ("<->", [0x0C]),
    ],
)
def test_parse(text, codes):
    assert [data[0] for data in keys.parse(text)] == codes


def test_grey_keys_carry_their_prefix():
    assert keys.parse("<up>") == [bytes((0xE0, 0x48, 0xE0, 0xC8))]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (r"\q", r"unknown escape \\q"),
        ("\\", r"unknown escape \\"),
        ("<up", "no '>' closes"),
        ("<nosuch>", "no key is called <nosuch>"),
        ("<hyper-a>", "none of ctrl, alt, shift"),
        ("ü", "no key of a US keyboard"),
    ],
)
def test_bad_texts_are_explained(text, complaint):
    with pytest.raises(ValueError, match=complaint):
        keys.parse(text)


def test_control_and_alt_meanings():
    state = {"shift": False, "control": False, "alt": False, "caps": False, "num": False}
    assert keys.meaning(0x1E, **state | {"control": True}) == 0x1E01
    assert keys.meaning(0x1E, **state | {"alt": True}) == 0x1E00
    assert keys.meaning(0x02, **state | {"alt": True}) == 0x7800
    assert keys.meaning(0x02, **state | {"control": True}) is None
    assert keys.meaning(0x1E, **state | {"shift": True, "caps": True}) == 0x1E61
    assert keys.meaning(0x7F, **state) is None


def test_unescape():
    assert keys.unescape(r"a\n\t\\<x>") == "a\r\t\\<x>"
    with pytest.raises(ValueError, match=r"unknown escape \\z"):
        keys.unescape(r"\z")
