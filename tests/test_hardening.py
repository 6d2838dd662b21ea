"""What no part of the package may do, read from its source: shells, foreign code, unchecked TLS, secrets on command lines, dead settings."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel

from sensor.cli.commands import app
from sensor.config.schema import Config

PACKAGE = Path(__file__).parents[1] / "sensor"
STARTS_PROGRAMS = {
    # our own interpreter with a constant program: the scanning process
    "inventory/reader.py",
    # what the operator's configuration names: credential helpers and plug-ins
    "registry/programs.py",
}
LOOKS_AT_BAD_CERTIFICATES = {"tls.py": 2}
"""`certificate_of` looks at a certificate that was refused, to name it; nothing is sent over that connection."""

FORBIDDEN = {
    # a shell, or a program that is started another way than by the two modules above
    "os.system", "os.popen", "os.fork", "os.forkpty", "os.execv", "os.execve", "os.execvp", "os.posix_spawn", "os.spawnv", "pty.spawn",
    "asyncio.create_subprocess_shell", "subprocess.getoutput", "subprocess.getstatusoutput", "subprocess.run", "subprocess.Popen",
    "subprocess.call", "subprocess.check_call", "subprocess.check_output",
    # text or bytes that become code or objects
    "eval", "exec", "compile", "__import__", "pickle.load", "pickle.loads", "marshal.load", "marshal.loads", "shelve.open",
    "yaml.load", "yaml.full_load", "yaml.unsafe_load", "yaml.load_all",
    # names out of an archive that become paths (and no method extract or extractall, below)
    "shutil.unpack_archive",
    # predictable names, a changed environment, unchecked TLS
    "tempfile.mktemp", "os.putenv", "os.unsetenv", "ssl._create_unverified_context",
}  # fmt: skip


@cache
def trees() -> dict[str, ast.Module]:
    return {str(path.relative_to(PACKAGE)): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}


def calls() -> Iterator[tuple[str, ast.Call, str]]:
    for name, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                yield name, node, ast.unparse(node.func)


def test_nothing_forbidden_is_called() -> None:
    found = {(name, called) for name, _, called in calls() if called in FORBIDDEN}
    assert found == {("cli/facts.py", "subprocess.run")}, "journalctl, for a support bundle: a list of arguments"
    assert [
        f"{name}:{node.lineno}" for name, node, called in calls() if called.endswith((".extractall", ".extract"))
    ] == []
    shells = [
        f"{name}:{node.lineno}"
        for name, node, _ in calls()
        if any(keyword.arg == "shell" and ast.unparse(keyword.value) != "False" for keyword in node.keywords)
    ]
    assert shells == []


def test_programs_are_started_in_two_places_and_without_a_shell() -> None:
    starting = {name for name, _, called in calls() if called.endswith("create_subprocess_exec")}
    assert starting == STARTS_PROGRAMS
    importing = {
        name
        for name, tree in trees().items()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Import) and any(alias.name in {"subprocess", "pty", "pickle"} for alias in node.names))
        or (isinstance(node, ast.ImportFrom) and node.module in {"subprocess", "pty", "pickle"})
    }
    assert importing == {"cli/facts.py"}


def test_the_environment_is_never_changed() -> None:
    changed = [
        f"{name}:{node.lineno}"
        for name, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, (ast.Assign, ast.AugAssign, ast.Delete))
        and any(
            ast.unparse(target).startswith("os.environ")
            for target in (node.targets if isinstance(node, (ast.Assign, ast.Delete)) else [node.target])
        )
    ]
    changed += [
        f"{name}:{node.lineno}"
        for name, node, called in calls()
        if called in {"os.environ.update", "os.environ.setdefault", "os.environ.pop", "os.environ.clear"}
    ]
    assert changed == []


def test_certificates_are_checked() -> None:
    unchecked: dict[str, int] = {}
    for name, tree in trees().items():
        for node in ast.walk(tree):
            text = ast.unparse(node) if isinstance(node, (ast.Assign, ast.keyword)) else ""
            if "CERT_NONE" in text or "check_hostname = False" in text or text in {"ssl=False", "verify=False"}:
                unchecked[name] = unchecked.get(name, 0) + 1
    assert unchecked == LOOKS_AT_BAD_CERTIFICATES


def options(command: Any, path: str, above: Any = None) -> Iterator[str]:
    """`scan --platform` and so on: what takes a value, of a command and those below it."""
    context = command.make_context(path, [], parent=above, resilient_parsing=True)
    for parameter in command.params:
        if not getattr(parameter, "is_flag", False):
            yield from (f"{path} {name}" for name in parameter.opts if name.startswith("-"))
    if hasattr(command, "list_commands"):
        for name in command.list_commands(context):
            yield from options(command.get_command(context, name), f"{path} {name}", context)


def test_no_secret_can_be_typed_on_a_command_line() -> None:
    found = set(options(typer.main.get_command(app), "sensor"))
    assert {"sensor scan --platform", "sensor secret list --config"} <= found
    words = ("key", "token", "secret", "password", "credential", "user")
    assert [option for option in found if any(word in option.rpartition(" ")[2] for word in words)] == []


def keys(section: type[BaseModel]) -> Iterator[tuple[str, str]]:
    for name, known in section.model_fields.items():
        yield section.__name__, name
        kinds = [known.annotation]
        while kinds:
            kind = kinds.pop()
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from keys(kind)
            kinds.extend(getattr(kind, "__args__", ()))


def test_every_key_of_the_configuration_is_read_somewhere() -> None:
    read: set[str] = set()
    for name, tree in trees().items():
        if name not in {"config/schema.py", "config/logins.py"} and not name.startswith("config/validate"):
            read |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
            read |= {word for node in ast.walk(tree) if isinstance(node, ast.MatchClass) for word in node.kwd_attrs}
    found = set(keys(Config))
    assert len(found) > 80
    assert sorted(f"{section}.{key}" for section, key in found if key not in read) == []
