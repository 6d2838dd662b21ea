import asyncio
import gc
import io
import json
import logging
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict

from sensor.log import clean_text, configure_logging, settle_repeats
from sensor.secret import FromFile, Secret, read_secret

HIDDEN = "hunter2-Zm9vYmFy"


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leaves the process's logging as it was."""
    root = logging.getLogger()
    handlers, level, config = list(root.handlers), root.level, structlog.get_config()
    levels = {
        name: logger.level
        for name, logger in logging.Logger.manager.loggerDict.items()
        if isinstance(logger, logging.Logger)
    }
    yield
    settle_repeats(everything=True)  # into this test's stream, not into the next one's
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, old in levels.items():
        logging.getLogger(name).setLevel(old)
    structlog.configure(**config)


class Lines(io.StringIO):
    def __init__(self, *, terminal: bool = False) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]


def logged(style: Literal["json", "console", "journald"] = "json", **fields: Any) -> str:
    stream = Lines()
    configure_logging("debug", style, stream)
    structlog.get_logger().info("image scanned", **fields)
    return stream.getvalue()


@dataclass
class Wrapped:
    password: str
    inner: object


def test_one_json_object_a_line_with_utc_time() -> None:
    row = json.loads(logged(digest="sha256:0", layers=3, ratio=0.5, done=True, nothing=None))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", row.pop("timestamp"))
    assert row == {
        "level": "info", "event": "image scanned", "digest": "sha256:0", "layers": 3, "ratio": 0.5, "done": True, "nothing": None,
    }  # fmt: skip


def test_console_lines_are_for_people() -> None:
    line = logged("console", digest="sha256:0", words="two words", more={"a": 1})
    assert line.rstrip("\n").endswith('info    image scanned  digest=sha256:0 words="two words" more={"a": 1}')


@pytest.mark.parametrize(("terminal", "is_json"), [(True, False), (False, True)])
def test_auto_looks_at_the_stream(terminal: bool, is_json: bool) -> None:
    stream = Lines(terminal=terminal)
    configure_logging("info", "auto", stream)
    structlog.get_logger().info("started")
    assert stream.getvalue().startswith("{") is is_json


def test_the_level_is_a_threshold_and_may_change() -> None:
    stream = Lines()
    configure_logging("warning", "json", stream)
    logger = structlog.get_logger()
    logger.info("quiet")
    logger.warning("loud")
    configure_logging("debug", "json", stream)
    logger.debug("now heard")
    assert [row["event"] for row in stream.rows()] == ["loud", "now heard"]


LEAKS: dict[str, Any] = {
    "secret": Secret(HIDDEN),
    "in a list": {"x": [1, (Secret(HIDDEN),)]},
    "in a dataclass": Wrapped(password=HIDDEN, inner=Secret(HIDDEN)),
    "headers": {"Authorization": f"Basic {HIDDEN}"},
    "headers of another scheme": {"authorization": f"Whatever {HIDDEN}", "Proxy-Authorization": HIDDEN, "X-API-Key": HIDDEN},
    "multidict": CIMultiDict({"Authorization": HIDDEN, "Set-Cookie": HIDDEN}),
    "pairs": [("Authorization", f"Digest {HIDDEN}"), (b"Cookie", HIDDEN.encode())],
    "header line": f"GET / HTTP/1.1\r\nAuthorization: Digest {HIDDEN}, x={HIDDEN}\r\n\r\n",
    "header value": f"Bearer {HIDDEN}",
    "basic value": f"sent Basic {HIDDEN} to the host",
    "bytes": f"Bearer {HIDDEN}".encode(),
    "repr of headers": repr({"Authorization": f"Negotiate {HIDDEN}"}),
    "repr of multidict": repr(CIMultiDict({"Authorization": f"Foo {HIDDEN}"})),
    "url": f"https://user:{HIDDEN}@registry.example.net/v2/",
    "proxy": f"http://{HIDDEN}@proxy.example.net:3128",
    "signed url": f"https://cdn.example.net/blob?X-Amz-Credential={HIDDEN}&X-Amz-Signature={HIDDEN}&sig={HIDDEN}&n=1",
    "token url": f"https://auth.example.net/token?scope=a&access_token={HIDDEN}",
    "key": f"the key hg_ak_{HIDDEN} was refused",
    "jwt": f"token eyJhbGciOiJub25lIn0.{HIDDEN.replace('-', '')}.{HIDDEN}",
    "json text": json.dumps({"client_secret": HIDDEN, "refresh_token": HIDDEN, "password": HIDDEN}),
    "form": f"grant_type=password&password={HIDDEN}",
    "private key": f"-----BEGIN RSA PRIVATE KEY-----\n{HIDDEN}\n-----END RSA PRIVATE KEY-----",
    "exception": ValueError(f"Authorization: Bearer {HIDDEN}"),
}  # fmt: skip


@pytest.mark.parametrize("style", ["json", "console"])
@pytest.mark.parametrize("name", LEAKS)
def test_secrets_never_appear(name: str, style: Literal["json", "console"]) -> None:
    line = logged(style, value=LEAKS[name], nested={"deep": [LEAKS[name]]})
    assert HIDDEN not in line
    assert HIDDEN.replace("-", "") not in line
    assert "***" in line


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "api_key",
        "token",
        "Authorization",
        "refresh_token",
        "x-api-key",
        "client_secret",
        "cookie",
        "credentials",
    ],
)
def test_fields_with_telling_names_are_masked(name: str) -> None:
    assert json.loads(logged(**{name: HIDDEN}))[name] == "***"


@pytest.mark.parametrize(
    "fields",
    [
        {"tokens_left": 5},
        {"passwords": "x"},
        {"repository": "acme/basic-app"},
        {"text": "Basic authentication"},
        {"text": 'Bearer realm="https://a.example/token"'},
    ],
)
def test_ordinary_fields_are_left_alone(fields: dict[str, Any]) -> None:
    row = json.loads(logged(**fields))
    assert {name: row[name] for name in fields} == fields


@pytest.mark.parametrize("style", ["json", "console"])
def test_secrets_in_tracebacks_and_events_never_appear(style: Literal["json", "console"]) -> None:
    stream = Lines()
    configure_logging("info", style, stream)
    try:
        raise ValueError(f"Authorization: Bearer {HIDDEN}\nhttps://u:{HIDDEN}@h/")
    except ValueError:
        structlog.get_logger().exception("it failed")
        logging.getLogger("aiohttp.client").exception("request with Bearer %s failed", HIDDEN)
    structlog.get_logger().info(f"Bearer {HIDDEN}")
    assert HIDDEN not in stream.getvalue()
    assert stream.getvalue().count("Traceback (most recent call last)") == 2


@pytest.mark.parametrize("style", ["json", "console"])
@pytest.mark.parametrize(
    "hostile",
    [
        "\x1b[2J\x1b]0;title\x07",
        "line\nlevel=error forged",
        "\r overwrite",
        "\u202edesrever",
        "a\u2028b",
        "\x9b31m",
        "zero\u200bwidth",
        "nul\x00",
        "\ud800",
    ],
)
def test_active_characters_are_written_out(hostile: str, style: Literal["json", "console"]) -> None:
    line = logged(style, image=hostile, **{"key" + hostile: 1})
    assert line.count("\n") == 1
    text = json.dumps(json.loads(line), ensure_ascii=False) if style == "json" else line
    assert all(character.isprintable() for character in text.rstrip("\n"))
    line.encode()  # no lone surrogate is left


def test_a_value_cannot_pass_for_another_field_or_for_markup() -> None:
    line = logged("console", image='x" level=error', label="[red]x[/red]")
    assert 'image="x\\" level=error"' in line
    assert 'label="[red]x[/red]"' in line


def test_a_traceback_keeps_its_lines_but_not_at_the_margin() -> None:
    stream = Lines()
    configure_logging("info", "console", stream)
    try:
        raise ValueError("first\n2026-01-01T00:00:00Z error   forged")
    except ValueError:
        structlog.get_logger().exception("it failed")
    rows = stream.getvalue().splitlines()
    assert len(rows) > 3
    assert all(row.startswith("    ") for row in rows[1:])


def test_a_long_traceback_keeps_its_end() -> None:
    stream = Lines()
    configure_logging("info", "json", stream)
    try:
        raise ValueError("x" * 20_000 + "the end")
    except ValueError:
        structlog.get_logger().exception("it failed")
    (row,) = stream.rows()
    assert row["exception"].endswith("the end")
    assert len(row["exception"]) < 10_000


def test_size_and_nesting_are_bounded() -> None:
    nested: Any = "core"
    for _ in range(50):
        nested = [nested]
    line = logged(
        text="x" * 100_000,
        many=list(range(10_000)),
        nested=nested,
        mapping={n: n for n in range(1000)},
        raw=b"y" * 100_000,
    )
    assert len(line) < 40_000
    assert "(100000 characters)" in line


def test_what_is_no_json_is_shown_as_text() -> None:
    row = json.loads(logged(nan=float("nan"), path=object, numbers={1}))
    assert row["nan"] == "nan"
    assert row["numbers"] == [1]
    assert "object" in row["path"]


def test_the_standard_librarys_logging_takes_the_same_way() -> None:
    stream = Lines()
    configure_logging("info", "json", stream)
    root = logging.getLogger()
    root.handlers[:] = [
        handler for handler in root.handlers if type(handler).__module__ == "sensor.log"
    ]  # not pytest's own
    logging.getLogger("sqlalchemy.engine").info("SELECT ?")
    logging.getLogger("apscheduler.scheduler").warning("missed %s by %d", "job\n", 5)
    logging.getLogger("somewhere").warning("%d", "no number")
    assert [(row["event"], row["level"], row["logger"], row["message"]) for row in stream.rows()] == [
        ("library logged", "warning", "apscheduler.scheduler", "missed job\\n by 5"),
        ("library logged", "warning", "somewhere", "%d"),
    ]


def test_configuring_twice_does_not_double_lines() -> None:
    stream = Lines()
    configure_logging("info", "json", Lines())
    configure_logging("info", "json", stream)
    logging.getLogger("x").warning("once")
    assert len(stream.rows()) == 1


def test_python_warnings_are_log_lines() -> None:
    stream = Lines()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        configure_logging("info", "json", stream)
        warnings.warn("careful", UserWarning, stacklevel=1)
        logging.captureWarnings(capture=False)
    (row,) = stream.rows()
    assert row["logger"] == "py.warnings"
    assert "careful" in row["message"]


async def test_exceptions_that_nobody_awaits_are_log_lines() -> None:
    stream = Lines()
    configure_logging("info", "json", stream)

    async def fail() -> None:
        raise ValueError(f"Bearer {HIDDEN}")

    task = asyncio.get_running_loop().create_task(fail())
    await asyncio.wait([task])
    del task
    gc.collect()
    asyncio.get_running_loop().call_exception_handler({"message": "callback failed", "exception": ValueError("second")})
    rows = stream.rows()
    assert [row["logger"] for row in rows] == ["asyncio", "asyncio"]
    assert "ValueError: Bearer ***" in rows[0]["exception"]
    assert "second" in rows[1]["exception"]


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=200))
def test_any_text_becomes_inert(text: str) -> None:
    cleaned = clean_text(text)
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", cleaned)
    cleaned.encode()


VALUES = st.recursive(
    st.one_of(st.none(), st.integers(), st.floats(), st.text(), st.binary()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
    max_leaves=20,
)


@settings(deadline=None, max_examples=100)
@given(VALUES)
def test_any_value_becomes_one_line_of_json(value: Any) -> None:
    line = logged(value=value)
    assert line.count("\n") == 1
    assert json.loads(line)["event"] == "image scanned"


# --- journald ---------------------------------------------------------------------------------------------------------------------


def test_the_journal_gets_priorities_and_no_time() -> None:
    stream = Lines()
    configure_logging("debug", "journald", stream)
    logger = structlog.get_logger()
    for level in ("debug", "info", "warning", "error", "critical"):
        getattr(logger, level)("image scanned", digest="sha256:0", words="two words")
    assert stream.getvalue().splitlines() == [
        f'<{priority}>image scanned  digest=sha256:0 words="two words"' for priority in (7, 6, 4, 3, 2)
    ]


def test_each_line_of_a_traceback_has_the_priority() -> None:
    stream = Lines()
    configure_logging("info", "journald", stream)
    try:
        raise ValueError("first\n<0>forged")
    except ValueError:
        structlog.get_logger().exception("it failed")
    rows = stream.getvalue().splitlines()
    assert rows[0] == "<3>it failed"
    assert len(rows) > 3
    assert all(row.startswith("<3>    ") for row in rows[1:])


# --- secrets that were read -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["json", "console", "journald"])
def test_a_secret_that_was_read_is_masked_without_a_telling_name(
    tmp_path: Path, style: Literal["json", "console", "journald"]
) -> None:
    file = tmp_path / "s"
    file.write_text('pa"ss/word-of-4711')
    secret = read_secret(FromFile(str(file))).reveal()
    line = logged(style, greeting=f"login {secret} failed", nested=[{"x": secret}], raw=secret.encode())
    assert secret not in line
    assert json.dumps(secret)[1:-1] not in line
    assert line.count("***") == 3


def test_a_secret_on_the_edge_of_what_is_shown_is_masked_too(tmp_path: Path) -> None:
    file = tmp_path / "s"
    file.write_text("edge-of-the-world-secret")
    secret = read_secret(FromFile(str(file))).reveal()
    for before in range(8 * 1024 - len(secret), 8 * 1024 + 1):
        shown = clean_text("x" * before + secret + "y" * 100_000)
        assert "edge" not in shown
        assert shown.endswith(" characters)")


# --- repeats ----------------------------------------------------------------------------------------------------------------------


def test_a_line_that_repeats_is_counted() -> None:
    stream = Lines()
    configure_logging("info", "json", stream)
    logger = structlog.get_logger()
    for _ in range(40):
        logger.warning("work waits", error="disk full")
    logger.warning("work waits", error="another reason")
    assert [row["error"] for row in stream.rows()] == ["disk full"] * 5 + ["another reason"]
    settle_repeats(everything=True)
    row = stream.rows()[-1]
    assert (row["event"], row["error"], row["level"], row["repeated"]) == ("work waits", "disk full", "warning", 35)
    settle_repeats(everything=True)
    assert len(stream.rows()) == 7


def test_which_work_a_line_belongs_to_makes_no_other_line() -> None:
    stream = Lines()
    configure_logging("info", "json", stream)
    for number in range(10):
        structlog.get_logger().warning("host is slow", host="a.example", image_id=str(number))
        structlog.get_logger().warning("image is odd", digest=str(number))
    events = [row["event"] for row in stream.rows()]
    assert (events.count("host is slow"), events.count("image is odd")) == (5, 10)


def test_a_change_of_the_configuration_loses_no_count() -> None:
    stream = Lines()
    configure_logging("info", "json", stream)
    for _ in range(8):
        structlog.get_logger().warning("work waits")
    configure_logging("info", "json", Lines())
    assert stream.rows()[-1]["repeated"] == 3
