"""`betr completion` and `bare completion`: what the shell completes, and what is said without the extra."""

import subprocess
import sys
from collections.abc import Callable

import pytest

import bare.cli
import betr.cli
from betr.config import RunConfig
from curation.command import options

PROGRAMS = {"betr": betr.cli.main, "bare": bare.cli.main}


def completed(script: str, program: str, *words: str) -> set[str]:
    """What bash offers behind these words."""
    typed = " ".join(f"'{word}'" for word in (program, *words))
    asked = f"COMP_WORDS=({typed}); COMP_CWORD={len(words)}; _shtab_{program}; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    result = subprocess.run(["bash"], input=f"{script}\n{asked}\n", capture_output=True, text=True, check=True)
    return set(result.stdout.split())


@pytest.mark.parametrize("program", PROGRAMS)
def test_bash_completes_commands_and_the_options_of_each(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab", reason="the extra completion isn't installed")
    main = PROGRAMS[program]
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert completed(script, program, "") > {"run", "estimate", "show", "report", "completion"}
    assert completed(script, program, "show", "") > {"summary"}
    assert completed(script, program, "run", "--tab") == {"--tables"}
    if program == "betr":
        flags = {"--" + each.name.replace("_", "-") for each in options(RunConfig, "select")}
        assert completed(script, program, "select", "--") > flags
        assert "--documents" not in completed(script, program, "select", "--")
    else:
        assert completed(script, program, "review", "") >= {"export", "import"}


@pytest.mark.parametrize("program", PROGRAMS)
def test_zsh_gets_the_same_words(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab", reason="the extra completion isn't installed")
    assert PROGRAMS[program](["completion", "zsh"]) == 0
    script = capsys.readouterr().out
    assert script.startswith(f"#compdef {program}") and "--tables" in script and "_describe" in script


@pytest.mark.parametrize("main", PROGRAMS.values(), ids=PROGRAMS)
def test_without_the_extra_the_command_that_installs_it_is_said(
    main: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 1
    captured = capsys.readouterr()
    assert not captured.out
    assert (
        "completion: shell completion needs the extra 'completion', which isn't installed: "
        "pip install 'betr-bare[completion]'"
    ) in captured.err


def test_another_shell_is_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        betr.cli.main(["completion", "fish"])
    assert exit_.value.code == 2 and "'bash', 'zsh'" in capsys.readouterr().err
