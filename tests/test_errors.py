"""Errors: wording, exit codes, the standard exceptions they also are; secrets never shown."""

from __future__ import annotations

import logging

import pytest

from swift import errors
from swift.log import get_logger
from swift.redact import HIDDEN, redact, redact_text


def test_an_error_says_what_why_and_fix() -> None:
    error = errors.DataError(
        "DATA-03", 'a.jsonl:4: "content" is null', why="a reply needs a text", fix="remove the row"
    )
    assert str(error).splitlines() == [
        'error[DATA-03]: a.jsonl:4: "content" is null',
        "  why: a reply needs a text",
        "  fix: remove the row",
    ]


@pytest.mark.parametrize(
    ("kind", "code", "standard"),
    [
        (errors.UsageError, 2, ValueError),
        (errors.UnknownNameError, 2, KeyError),
        (errors.DataError, 65, ValueError),
        (errors.NotFoundError, 66, FileNotFoundError),
        (errors.MissingPackageError, 69, ImportError),
        (errors.InternalError, 70, RuntimeError),
        (errors.OutputError, 73, OSError),
        (errors.DiskError, 74, OSError),
        (errors.TemporaryError, 75, OSError),
        (errors.RefusedError, 77, PermissionError),
        (errors.ConfigError, 78, ValueError),
    ],
)
def test_exit_codes_and_standard_kinds(kind: type[errors.SwiftError], code: int, standard: type[Exception]) -> None:
    error = kind("USAGE-01", "what")
    assert error.exit_code == code
    assert isinstance(error, standard)
    assert str(error) == "error[USAGE-01]: what"


def test_all_errors_at_once() -> None:
    errors.raise_all([])
    one = errors.DataError("DATA-01", "first")
    with pytest.raises(errors.DataError, match="first"):
        errors.raise_all([one])
    with pytest.raises(errors.SeveralErrors, match=r"(?s)first.*second") as caught:
        errors.raise_all([one, errors.UsageError("USAGE-01", "second")])
    assert caught.value.exit_code == 65


def test_a_code_that_is_not_listed_is_our_bug() -> None:
    with pytest.raises(AssertionError):
        errors.DataError("DATA-99", "x")


SECRETS = ["hf_" + "a" * 34, "ms-" + "0" * 30, "sk-" + "b" * 40, "AKIA" + "A" * 16]


@pytest.mark.parametrize("secret", SECRETS)
def test_secrets_are_blacked_out(secret: str) -> None:
    assert secret not in redact_text(f"token {secret} used")
    assert redact({"note": [f"x {secret}"]}) == {"note": [f"x {HIDDEN}"]}


def test_secret_keys_are_blacked_out_and_others_are_not() -> None:
    said = {
        "hub_token": "abc",
        "api_key": "x",
        "max_new_tokens": 5,
        "pad_token_id": 0,
        "token": None,
        "nested": {"password": "p"},
    }
    shown = redact(said)
    assert shown == {
        "hub_token": HIDDEN,
        "api_key": HIDDEN,
        "max_new_tokens": 5,
        "pad_token_id": 0,
        "token": None,
        "nested": {"password": HIDDEN},
    }
    assert redact_text("https://me:pw@host/x") == f"https://{HIDDEN}@host/x"


def test_the_logger_blacks_out_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    logger = get_logger("swift.test")
    logger.handlers[0].stream = __import__("sys").stderr  # type: ignore[attr-defined]
    logger.info("with %s", SECRETS[0])
    assert HIDDEN in capsys.readouterr().err
    assert logger.level == logging.INFO
