"""The real process: how it ends when nobody listens, nothing fits, or somebody is impatient."""

import contextlib
import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

PROGRAM = (sys.executable, "-m", "sensor")


def test_help_comes_from_the_module_too() -> None:
    done = subprocess.run([*PROGRAM, "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: harborguard-sensor ")
    assert done.stderr == ""


@pytest.mark.parametrize("output", ["text", "json"])
def test_a_reader_that_leaves_is_no_error(machine_layout: Path, output: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.Popen(
        [*PROGRAM, "plan", f"oci:{machine_layout}", "-o", output], stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert process.communicate()[1] == ""
    assert process.returncode == 0


@pytest.mark.parametrize("arguments", [("--version",), ("plan", "{}"), ("plan", "{}", "-o", "json"), ("--help",)])
def test_output_that_does_not_fit_is_a_failure(machine_layout: Path, arguments: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*PROGRAM, *(word.format(f"oci:{machine_layout}") for word in arguments)],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 3
    assert done.stderr == "error: the output cannot be written: No space left on device\n"


def test_other_errors_of_the_system_are_not_hidden(tmp_path: Path) -> None:
    closed = "import os, sys; os.close(1); sys.argv[1:] = ['--version']; from sensor.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", closed], stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode != 0
    assert "Bad file descriptor" in done.stderr


def test_ctrl_c_while_a_command_works_is_quiet(tmp_path: Path) -> None:
    """The command hangs in reading its configuration: a pipe that nobody writes to."""
    pipe = tmp_path / "config.yaml"
    os.mkfifo(pipe)
    process = subprocess.Popen(
        [*PROGRAM, "check", "--config", str(pipe)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    # opening the writing end waits for the reader
    with pipe.open("w"):
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == 130


def test_ctrl_c_while_everything_is_still_being_loaded_is_quiet() -> None:
    interrupted = (
        "import importlib, signal, os\n"
        "import sensor.cli.main as program\n"
        "class Stop:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'sensor.cli.commands': os.kill(os.getpid(), signal.SIGINT)\n"
        "import sys; sys.meta_path.insert(0, Stop()); program.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", interrupted], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_narrow_terminal_gets_whole_identifiers_and_colours(machine_layout: Path, state: Path) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        [*PROGRAM, "scan", f"oci:{machine_layout}:demo/machine:1.0", "--state", str(state)],
        stdout=theirs, stderr=theirs, stdin=theirs, env={**os.environ, "TERM": "xterm-256color"},
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # the other end was closed
        while chunk := os.read(ours, 1 << 16):
            shown += chunk
    os.close(ours)
    assert process.wait(60) == 0
    assert b"CVE-2023-43804" in shown
    assert b"\x1b[31mHIGH\x1b[0m" in shown
    assert "…".encode() not in shown
