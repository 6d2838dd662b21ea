"""The log: one line an event on one stream, as JSON, for journald or for people, with secrets masked and hostile text made inert.

Events are constant strings; what varies stands in fields. Records of the standard library's logging (aiohttp, APScheduler, SQLAlchemy, asyncio's
unhandled exceptions) take the same way. A line that comes again and again within a minute is counted instead of shown. Leaves what to log to
its callers, and results and tables to the command line.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import re
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Literal, TextIO, TypeAlias

import structlog

from sensor.repeats import Repeats
from sensor.secret import Secret, without_secrets

MASK = "***"
"""What stands in the place of a secret."""
_MOST_TEXT = 8 * 1024
"""Characters of one value; a traceback may be long, an answer of a server may be endless."""
_OVERLAP = 4 * 1024
"""Characters behind the cut that are looked at too: half a secret is no longer recognised."""
_MOST_ITEMS = 200
_MOST_NESTED = 6
_TRACES = ("exception", "stack")

CORRELATION = ("sweep_id", "image_id", "job_id", "rematch_id")
"""Fields that say which piece of work a line belongs to. They do not make two lines different."""

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_CHATTY = ("aiosqlite", "sqlalchemy", "aiohttp.access", "apscheduler", "asyncio", "botocore", "urllib3", "keyring")
"""Libraries whose debug lines nobody needs, and some of which would show bound values."""

_SENSITIVE_NAME = re.compile(
    r"(?i)(?:^|[_\-. ])(?:authorization|passw(?:or)?d|passphrase|secret|token|credentials?|cookie|set-cookie|signature|"
    r"api[_-]?key|apikey|sensorapikey|private[_-]?key|x-registry-auth|identitytoken)$"
)
_SENSITIVE_TEXT = (
    # an Authorization header, as a header line, as a mapping's repr, or its value alone
    (
        re.compile(
            r"(?i)\b((?:proxy-)?authorization|x-api-key|(?:set-)?cookie)(['\"]?\s*[:=,]\s*)(b?['\"])?[^\r\n'\"]+"
        ),
        r"\1\2\3***",
    ),
    # but not the words that follow in "Basic authentication" or a challenge's "Bearer realm="
    (
        re.compile(
            r"(?i)\b(bearer|basic|negotiate|jwt)\s+(?!(?:tokens?|auth|authentication|authorization|realm|scheme|challenge|login)\b)"
            r"[A-Za-z0-9._~+/=:\-]{4,}"
        ),
        r"\1 ***",
    ),
    (re.compile(r"\b(hg_(?:ak|live|pat|admin)_)[A-Za-z0-9_\-]+"), r"\1***"),
    (re.compile(r"\beyJ[A-Za-z0-9_\-]{8,}(?:\.[A-Za-z0-9_\-]*){1,4}"), MASK),
    (re.compile(r"(://)[^/\s@'\"]+@"), r"\1***@"),
    (
        re.compile(r"(?i)([?&](?:[a-z0-9-]*(?:token|signature|credential)|sig|password|api_?key|code)=)[^&\s'\"]+"),
        r"\1***",
    ),
    (
        re.compile(
            r"(?i)(['\"]?\b(?:password|passwd|client_secret|refresh_token|access_token|identitytoken|api_?key)['\"]?\s*[:=]\s*)"
            r"(['\"][^'\"]*['\"]|[^\s,;&}'\"]+)"
        ),
        r"\1***",
    ),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)", re.DOTALL), MASK),
)
_ACTIVE = re.compile(
    # control characters, bidirectional overrides, line separators, lone surrogates, invisible joiners and the byte-order mark
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)

Fields: TypeAlias = MutableMapping[str, Any]


def configure_logging(
    level: Literal["debug", "info", "warning", "error"],
    format: Literal["auto", "json", "console", "journald"],  # noqa: A002 - the key's own name
    stream: TextIO,
) -> None:
    """Send all log lines of this process to a stream; may be called again after a reload.

    `auto` means console on a terminal and JSON elsewhere. `journald` puts the priority in front (sd-daemon(3)) and leaves the time to the
    journal. Times are UTC.
    """
    global _folding  # noqa: PLW0603 - logging is one for the process, as structlog's own configuration is
    style = format if format != "auto" else "console" if stream.isatty() else "json"
    threshold = _LEVELS[level]
    settle_repeats(everything=True)
    _folding = _Folding(_RENDERERS[style], stream)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            _clean_fields,
            _folding,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, Routed)]:
        root.removeHandler(handler)
    root.addHandler(Routed())
    root.setLevel(threshold)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(threshold, logging.WARNING))
    logging.captureWarnings(capture=True)


def settle_repeats(*, everything: bool = False) -> None:
    """Show the counts of lines that were not shown and whose minute is over; with `everything`, all counts, because the process ends."""
    if _folding is not None:
        _folding.settle(everything=everything)


class _Folding:
    """The last processor: renders a line, or counts it; and with it the counts that are due."""

    def __init__(self, render: Callable[[Fields], str], stream: TextIO) -> None:
        self._render = render
        self._stream = structlog.WriteLogger(stream)
        self._repeats = Repeats()

    def __call__(self, _logger: object, _method: str, fields: Fields) -> str:
        lines = self._counts()
        same = {name: value for name, value in fields.items() if name != "timestamp" and name not in CORRELATION}
        if self._repeats.admit(repr(sorted(same.items())), fields):
            lines.append(self._render(fields))
        if not lines:
            raise structlog.DropEvent
        return "\n".join(lines)

    def settle(self, *, everything: bool) -> None:
        for line in self._counts(everything=everything):
            self._stream.msg(line)

    def _counts(self, *, everything: bool = False) -> list[str]:
        ended = self._repeats.ended(everything=everything)
        return [self._render({**fields, "repeated": count}) for count, fields in ended]


_folding: _Folding | None = None


class Routed(logging.Handler):
    """Hands records of the standard library's logging to structlog, so that there is one format and one mask."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log one record."""
        try:
            text = record.getMessage()
        except (TypeError, ValueError, KeyError):
            text = str(record.msg)
        fields: dict[str, Any] = {"logger": record.name, "message": text}
        if record.exc_info:
            fields["exc_info"] = record.exc_info
        structlog.get_logger().log(record.levelno, "library logged", **fields)


# --- masking ----------------------------------------------------------------------------------------------------------------------


def _clean_fields(_logger: object, _method: str, fields: Fields) -> Fields:
    return {
        clean_text(str(name)): _clean_trace(value) if name in _TRACES else _value_of(str(name), value, 0)
        for name, value in fields.items()
    }


def _clean_trace(value: object) -> str:
    """A traceback keeps its lines, and when it is long its end: the message stands there."""
    return "\n".join(_inert(row) for row in _masked(str(value))[-_MOST_TEXT:].split("\n"))


def _value_of(name: str, value: object, depth: int) -> Any:
    if is_secret_name(name) and value not in (None, "", False, True):
        return MASK
    return _clean(value, depth)


def is_secret_name(name: str) -> bool:
    """Whether what stands under a name is a secret, to judge by the name."""
    return _SENSITIVE_NAME.search(name) is not None


def _clean(value: object, depth: int) -> Any:
    """A value of plain types, without secrets and without active text, of bounded size."""
    if value is None or isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, Secret):
        return MASK
    if isinstance(value, (bytes, bytearray, memoryview)):
        return clean_text(bytes(value[: _MOST_TEXT + _OVERLAP]).decode("latin-1"))
    if depth < _MOST_NESTED:
        if isinstance(value, Mapping):
            items = list(value.items())[:_MOST_ITEMS]
            return {clean_text(_plain(key)): _value_of(_plain(key), item, depth + 1) for key, item in items}
        if isinstance(value, (list, tuple, set, frozenset)):
            return _clean_items(list(value)[:_MOST_ITEMS], depth)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            names = [field.name for field in dataclasses.fields(value)]
            return {name: _value_of(name, getattr(value, name), depth + 1) for name in names}
    return clean_text(str(value))


def _clean_items(items: list[Any], depth: int) -> list[Any]:
    # ("Authorization", "...") is how header lists show their pairs
    if len(items) == 2 and isinstance(items[0], (str, bytes)) and _SENSITIVE_NAME.search(_plain(items[0])):
        return [clean_text(_plain(items[0])), MASK]
    return [_clean(item, depth + 1) for item in items]


def _plain(key: object) -> str:
    return key.decode("latin-1") if isinstance(key, bytes) else str(key)


def clean_text(text: str) -> str:
    """A text that may be shown on a terminal: bounded, secrets masked, control characters written out (as Python does)."""
    shown = _masked(text[: _MOST_TEXT + _OVERLAP])
    return _inert(shown if len(text) <= _MOST_TEXT else f"{shown[:_MOST_TEXT]}... ({len(text)} characters)")


def _masked(text: str) -> str:
    text = without_secrets(text)
    for pattern, replacement in _SENSITIVE_TEXT:
        text = pattern.sub(replacement, text)
    return text


def _inert(text: str) -> str:
    return _ACTIVE.sub(_written_out, text)


def _written_out(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape", "surrogatepass").decode("ascii")


# --- rendering --------------------------------------------------------------------------------------------------------------------


_FIXED = {"timestamp", "level", "event", *_TRACES}
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
"""Of syslog(3), which the journal has too."""


def _render_json(fields: Fields) -> str:
    first = {name: fields[name] for name in ("timestamp", "level", "event") if name in fields}
    return json.dumps({**first, **fields}, ensure_ascii=True, default=str)


def _render_line(fields: Fields) -> str:
    return f"{fields.get('timestamp', '')} {fields.get('level', ''):<8}{_render_text(fields)}"


def _render_journald(fields: Fields) -> str:
    # each line of a traceback is an entry of its own there
    priority = _PRIORITIES.get(str(fields.get("level", "")), 6)
    return "\n".join(f"<{priority}>{row}" for row in _render_text(fields).split("\n"))


def _render_text(fields: Fields) -> str:
    rest = {name: value for name, value in fields.items() if name not in _FIXED}
    shown = " ".join(f"{name}={_quoted(value)}" for name, value in rest.items())
    line = str(fields.get("event", "")) + (f"  {shown}" if shown else "")
    trace = "\n".join(str(fields[name]) for name in _TRACES if name in fields)
    # a traceback is the one value that is worth several lines; they are indented, so none can pass for an event
    return line + "".join(f"\n    {row}" for row in trace.split("\n")) if trace else line


_RENDERERS = {"json": _render_json, "console": _render_line, "journald": _render_journald}


def _quoted(value: object) -> str:
    """A value that cannot be mistaken for two fields, and in which no markup begins."""
    if isinstance(value, str) and re.fullmatch(r"[^\s=\"'\[\]{}<>\\]+", value):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)
