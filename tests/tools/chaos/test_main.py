"""The command line says what there is, and refuses what there is not."""

from __future__ import annotations

import pytest

from tools.chaos.__main__ import main
from tools.chaos.faults import KINDS


def test_help_lists_all_kinds(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    for name, kind in KINDS.items():
        assert f"{name} " in said
        assert kind.text in said
