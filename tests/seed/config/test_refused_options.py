"""What is said of options that the parser refuses; its own words are in test_config_loading.py."""

from __future__ import annotations

import pytest

from seed.config.refused_options import refusal
from seed.config.schema import Config


@pytest.mark.parametrize(
    ("said", "words", "expected"),
    [
        ("Error parsing --seed: why", "--seed x", "--seed = 'x': expected an integer"),
        ("Error parsing --seed: why", "--seed=x=y --resume auto",
         "--seed = 'x=y': expected an integer"),
        ("Missing value for argument '--resume'.", "--resume", "--resume: expected a string"),
        # Of an option that is not known here, what the parser says stays.
        ("Error parsing --nosuch: why", "--nosuch x", "Error parsing --nosuch: why"),
        ("Something else", "--seed 1", "Something else"),
        ("Unrecognized options: --lr, 1", "--lr 1",
         "Unrecognized options: --lr, 1; did you mean --optimizer.learning-rate?"),
        ("Unrecognized options: 0", "--replay.in-checkpoint 0",
         "--replay.in-checkpoint = '0': it takes no value; expected --replay.in-checkpoint or "
         "--replay.no-in-checkpoint"),
        ("Unrecognized options: extra", "--resume extra extra", "Unrecognized options: extra"),
        # A few of the parser's proposals are passed on, a crowd of them is not.
        ("Unrecognized options: --inter; Perhaps you meant: --log-interval-s S --resume STR Help.",
         "--inter", "Unrecognized options: --inter; did you mean --log-interval-s?"),
        ("Unrecognized options: --zz; Perhaps you meant: --seed --resume --run-dir --note "
         "--watchdog-s", "--zz", "Unrecognized options: --zz"),
        # Letters in the middle of another word mean nothing.
        ("Unrecognized options: --ort; Perhaps you meant: --replay.importance-exponent",
         "--ort", "Unrecognized options: --ort"),
        ("Unrecognized options: --num-envs, 3; Perhaps you meant: --inference.max-envs INT",
         "--num-envs 3", "Unrecognized options: --num-envs, 3; did you mean "
         "--local.envs-per-server?"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_option_its_value_and_what_it_takes(
    said: str, words: str, expected: str
) -> None:
    assert refusal(said, words.split(), Config) == expected
