import argparse

import pytest

from dm.shim import keys
from dm.shim.script import AppendExpect, AppendKeys, AppendSend, Expect, Send, TypeKeys


@pytest.fixture
def parser():
    parser = argparse.ArgumentParser()
    parser.add_argument("--expect", action=AppendExpect)
    parser.add_argument("--keys", action=AppendKeys)
    parser.add_argument("--send", action=AppendSend)
    parser.set_defaults(script=[])
    return parser


def test_steps_keep_their_order(parser):
    args = parser.parse_args(["--expect", "A", "--keys", r"x\n", "--send", r"y\n", "--expect", "B"])
    assert args.script == [Expect("A"), TypeKeys(tuple(keys.parse("x\n"))), Send(b"y\r"), Expect("B")]


def test_parsing_twice_starts_anew(parser):
    parser.parse_args(["--expect", "A"])
    assert parser.parse_args(["--expect", "B"]).script == [Expect("B")]
    assert parser.parse_args([]).script == []


@pytest.mark.parametrize(
    ("words", "complaint"), [(["--expect", ""], "needs a text"), (["--keys", "<nokey>"], "no key is called <nokey>")]
)
def test_bad_steps_are_refused(parser, words, complaint, capsys):
    with pytest.raises(SystemExit):
        parser.parse_args(words)
    assert complaint in capsys.readouterr().err
