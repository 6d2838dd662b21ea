"""Regular expressions: the same answers as Python's, never its time."""

from __future__ import annotations

import re
import time
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.config.regex import check_regex, compile_regex


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        (r"v\d+\.\d+", ["v1.2", "v10.20"], ["1.2", "v1", "v1.2.3", "xv1.2"]),
        (r"^v[0-9]+$", ["v1"], ["v", "v1x"]),
        (r"^a|b$", ["a", "b"], ["ab", ""]),
        (r"pr-(?:[0-9]+|main)", ["pr-7", "pr-main"], ["pr-", "pr-x"]),
        (r"(?P<flavour>alpine|slim)?-?[a-c]{2,3}", ["ab", "alpine-abc", "slimab"], ["a", "abcd"]),
        (r"a{2}b{,2}c{1,}", ["aac", "aabbcc"], ["ac", "aabbb", "aabb"]),
        (r".*-rc\.?\d*", ["1.0-rc", "1.0-rc.1", "-rc1"], ["1.0-r"]),
        (r"(?i)latest", ["latest", "LaTeSt"], ["late"]),
        (r"(?i)[a-b]x", ["AX", "bx"], ["cx"]),
        (r"[^a-z]+", ["1.0", "_"], ["1a", ""]),
        (r"[]a-]+", ["]", "a-"], ["b"]),
        (r"[^]]", ["x"], ["]"]),
        (r"[\w.-]+", ["v1.0-x_y"], ["a b"]),
        (r"\W\D\S", ["-a."], ["aa.", "-1."]),
        (r"[a\-c]", ["a", "-", "c"], ["b"]),
        (r"\{\}\.\*", ["{}.*"], ["x"]),
        (r"a??b*?c+?", ["abbc", "c"], ["ab"]),
        (r"(a|)", ["", "a"], ["aa"]),
        (r"(a*)*b", ["b", "aab"], ["a"]),
        (r"x^y|a$b", [], ["xy", "ab", "x"]),
        (r"(^a|b)*", ["", "abb", "bb"], ["ba"]),
    ],
)
def test_expressions(pattern: str, matching: list[str], others: list[str]) -> None:
    regex = compile_regex(pattern)
    assert [text for text in matching if not regex.matches(text)] == []
    assert [text for text in others if regex.matches(text)] == []
    assert [text for text in (*matching, *others) if regex.matches(text) is not bool(re.fullmatch(pattern, text))] == []


@pytest.mark.parametrize(
    ("pattern", "complaint"),
    [
        ("", "1 to 512"),
        ("a" * 513, "1 to 512"),
        ("a\nb", "1 to 512"),
        ("(a", "a ( is not closed"),
        ("a)", "a ) is not opened"),
        ("[a", "a [ is not closed"),
        ("[]", "a [ is not closed"),
        ("[a-", "a [ is not closed"),
        ("[b-a]", "upside down"),
        (r"[\d-z]", "from one character to another"),
        ("*a", "nothing for * to repeat"),
        ("a|+", "nothing for + to repeat"),
        ("a{", "a brace itself"),
        ("a{}", "a brace itself"),
        ("a{x}", "a brace itself"),
        ("a{2,1}", "counts rise"),
        ("a{1001}", "counts rise"),
        ("^*a", "nothing to repeat about ^"),
        ("a++", "a quantifier follows"),
        ("a**", "a quantifier follows"),
        ("(?=a)", "no look-around"),
        ("(?!a)", "(?!a is not known here"),
        ("(?<!a)b", "no look-around"),
        ("(?s).", "(?s) is not known here"),
        ("(?P<1>a)", "a group's name"),
        ("(?P<a", "a group's name"),
        ("(?P=a)", "not known here"),
        (r"(a)\1", r"\1 is not known here"),
        (r"\bx", r"\b is not known here"),
        ("a\\", "ends in the middle"),
        ("(a{1000}){1000}", "repeats too much"),
        ("(((a{50}){50}){50}){50}", "repeats too much"),
        ("a{1000}b{1000}c{1000}", "too large"),
        ("(" * 50 + ")" * 50, "too many groups"),
    ],
)
def test_what_is_not_known_is_refused_with_words(pattern: str, complaint: str) -> None:
    assert complaint in check_regex(pattern)
    with pytest.raises(ValueError, match=re.escape(complaint)):
        compile_regex(pattern)


@pytest.mark.parametrize("pattern", ["(a|aa)+b", "(a+)+b", ".*.*.*.*.*x", "(a|a)*b", "(.*a){20}b", "(a?){128}a{128}b"])
def test_no_expression_hangs_on_a_tag(pattern: str) -> None:
    started = time.perf_counter()
    assert not compile_regex(pattern).matches("a" * 128)
    assert time.perf_counter() - started < 1


def test_moves_are_forgotten_in_time() -> None:
    regex = compile_regex(r"(.*[ab]){8}c")
    for number in range(300):
        assert regex.matches(f"{number:012b}".replace("0", "a").replace("1", "b") + "c")


ATOMS = st.sampled_from(["a", "b", "ab", ".", "[ab]", "[^a]", r"\d", r"\.", "1", "^", "$", "(?:a|b1)", "(b|)"])
EXPRESSIONS = st.recursive(
    st.tuples(ATOMS, st.sampled_from(["", "", "*", "+", "?", "{2}", "{1,2}", "{,2}"])).map(
        lambda pair: pair[0] + pair[1] if pair[0] not in {"^", "$"} else pair[0]
    ),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map("|".join),
        st.tuples(inner, st.sampled_from(["", "*", "+?", "?", "{2}"])).map(lambda pair: f"({pair[0]}){pair[1]}"),
    ),
    max_leaves=6,
)


@settings(deadline=None, max_examples=300)
@given(EXPRESSIONS, st.lists(st.text("ab1.", max_size=6), min_size=1, max_size=4))
def test_expressions_mean_what_python_says(pattern: str, texts: list[str]) -> None:
    regex = compile_regex(pattern)
    assert [regex.matches(text) for text in texts] == [re.fullmatch(pattern, text) is not None for text in texts]


@settings(deadline=None, max_examples=300)
@given(st.text(r"ab1.*+?{}()[]|^$\-,:<>P!=idwX", max_size=14))
def test_any_text_is_read_or_refused_as_python_reads_it(pattern: str) -> None:
    if check_regex(pattern) == "":
        with warnings.catch_warnings(category=FutureWarning, action="ignore"):  # sets of sets, which do not exist yet
            expected = re.fullmatch(pattern, "ab") is not None
        assert compile_regex(pattern).matches("ab") is expected
