"""What all demos do at the terminal: one sentence where something is wrong, and how to go on after Ctrl-C."""

from __future__ import annotations

from collections.abc import Callable

from curation.errors import InputError
from curation.progress import Terminal
from curation.session import interrupts_raise


def demonstrate(command: str, body: Callable[[Terminal], object]) -> int:
    """Run a demo, the target `command` of make; its exit code: 0, 1 with one sentence, 130 after Ctrl-C."""
    terminal = Terminal()
    interrupts_raise()
    try:
        body(terminal)
    except InputError as error:
        terminal.line(f"{command}: {error}")
        return 1
    except KeyboardInterrupt:
        terminal.line(f"\nstopped; what was finished is kept: `make {command}` again goes on from there")
        return 130
    return 0
