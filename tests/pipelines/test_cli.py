"""Command lines from configs, exit codes, and the closing table."""

from dataclasses import dataclass

import pytest

from llava_core.errors import CheckpointReason, CheckpointRefused, ConfigError
from pipelines.cli import Accounts, own_cause, parse, render_accounts, run
from pipelines.errors import AccountingError


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """A job."""

    input: tuple[str, ...]
    """What goes in."""
    limit: int | None = None
    """Most rows."""
    plan: bool = False
    """Only say."""

    def __post_init__(self) -> None:
        if self.limit == 0:
            raise ConfigError("limit is 0; expected at least 1")


def test_flags_come_from_the_fields() -> None:
    assert parse(Settings, ["--input", "a", "b", "--limit", "3", "--plan"]) == Settings(
        input=("a", "b"), limit=3, plan=True
    )
    assert parse(Settings, ["--input", "a"]) == Settings(input=("a",))


def test_help_is_the_docstrings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        parse(Settings, ["--help"])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    assert "A job." in shown
    assert "Most rows." in shown
    assert "--no-plan" not in shown


@pytest.mark.parametrize("words", [["--input", "a", "--limit", "0"], ["--input", "a", "--limit", "x"], ["--plan"]])
def test_a_value_that_the_config_refuses_is_exit_code_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        parse(Settings, words)
    assert left.value.code == 2
    if "0" in words:
        assert "limit is 0; expected at least 1" in capsys.readouterr().err


def _raising(error: Exception) -> int:
    def job() -> None:
        raise error

    return run(job)


def test_exit_codes_say_whose_fault_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(lambda: None) == 0
    assert _raising(AccountingError("4 rows in, 3 rows out")) == 1
    assert "stopped: 4 rows in, 3 rows out" in capsys.readouterr().err
    assert _raising(ConfigError("no such folder")) == 2
    assert _raising(CheckpointRefused(CheckpointReason.NOT_FOUND, "nowhere")) == 2
    assert "wrong setting: NOT_FOUND: nowhere" in capsys.readouterr().err


def test_a_foreign_error_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        _raising(ZeroDivisionError())


def test_our_error_is_found_inside_those_that_carry_it() -> None:
    inner = AccountingError("x")
    middle, outer = RuntimeError(), ValueError()
    middle.cause = inner  # type: ignore[attr-defined]
    outer.__cause__ = middle
    assert own_cause(outer) is inner
    outer.__cause__ = None
    assert own_cause(outer) is None
    loop = RuntimeError()
    loop.__cause__ = loop
    assert own_cause(loop) is None


def test_rows_that_are_missing_stand_in_the_table() -> None:
    shown = render_accounts(Accounts(rows_in=10, ok=6, rejected={"EMPTY": 1}), {"table": "t"}).splitlines()
    assert shown == [
        "rows in    10",
        "ok          6",
        "rejected    1",
        "  EMPTY     1",
        "MISSING     3",
        "this call  nothing was missing, so no row was made",
        "table      t",
    ]
