"""What README prints is what its code prints."""

import pathlib
import re

import jax
import numpy as np
import pytest

ROUNDING = 1e-8  # what is smaller differs from machine to machine
README = (pathlib.Path(__file__).parents[1] / "README.md").read_text()
PRINTING = re.findall(r"```python\n([^`]*?)```\n\n```text\n([^`]*?)```", README)
NUMBER = r"-?\d+(?:\.\d+)?(?:e[-+]\d+)?"


def words_and_numbers(printed):
    """Texts, where white space and rules are as wide as they may be, and the numbers between them."""
    texts = [re.sub("─+", "─", re.sub(r"\s+", " ", text)) for text in re.split(NUMBER, printed)]
    return texts, re.findall(NUMBER, printed)


def last_place(number):
    """What one more in the last digit adds; nothing to a whole number."""
    digits, _, exponent = number.partition("e")
    decimals = len(digits.partition(".")[2])
    return 10.0 ** (int(exponent or 0) - decimals) if decimals or exponent else 0.0


@pytest.mark.parametrize(("block", "printed"), PRINTING, ids=[block.splitlines()[-1] for block, _ in PRINTING])
def test_what_is_printed_is_what_the_code_prints(block, printed, capsys, tmp_path, monkeypatch, registered):
    monkeypatch.chdir(tmp_path)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        exec(block, {})
    (texts, numbers), (said, expected) = map(words_and_numbers, (capsys.readouterr().out, printed))
    assert texts == said
    allowed = ROUNDING + np.array([*map(last_place, expected)])
    assert np.all(np.abs(np.array(numbers, float) - np.array(expected, float)) <= allowed), (numbers, expected)
