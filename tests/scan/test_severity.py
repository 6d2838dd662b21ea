from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.model.advisory import Advisory
from sensor.model.finding import Severity
from sensor.scan.severity import base_score, rate, severity_of_score, severity_of_word

CRITICAL_V3 = "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"
LOW_V3 = "CVSS:3.1/AV:P/AC:H/PR:H/UI:R/S:U/C:L/I:N/A:N"
HIGH_V4 = "CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:P/VC:H/VI:H/VA:H/SC:N/SI:N/SA:N"
MEDIUM_V2 = "AV:N/AC:M/Au:N/C:P/I:N/A:N"


@pytest.mark.parametrize(
    ("kind", "vector", "score"),
    [
        ("CVSS_V3", CRITICAL_V3, 9.8),
        ("CVSS_V3", CRITICAL_V3.replace("3.1", "3.0"), 9.8),
        ("CVSS_V3", LOW_V3, 1.6),
        ("CVSS_V3", "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:N/I:N/A:N", 0.0),
        ("CVSS_V2", MEDIUM_V2, 4.3),
        ("CVSS_V2", f"({MEDIUM_V2})", 4.3),
        ("CVSS_V4", HIGH_V4.replace("UI:P", "UI:N"), 9.3),
        ("CVSS_V3", "CVSS:3.1/AV:N", None),
        ("CVSS_V3", "7.5", None),
        ("CVSS_V3", "", None),
        ("CVSS_V4", CRITICAL_V3, None),
        ("CVSS_V3", CRITICAL_V3 + "/" * 600, None),
        ("Ubuntu", "medium", None),
    ],
)
def test_scores_of_vectors(kind: str, vector: str, score: float | None) -> None:
    assert base_score(kind, vector) == score


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from(["CVSS_V2", "CVSS_V3", "CVSS_V4"]),
    st.one_of(
        st.text(max_size=40),
        st.builds(
            lambda prefix, parts: prefix + "/".join(parts),
            st.sampled_from(["", "CVSS:3.1/", "CVSS:3.0/", "CVSS:4.0/", "CVSS:"]),
            st.lists(
                st.sampled_from([*MEDIUM_V2.split("/"), *HIGH_V4.split("/"), *LOW_V3.split("/"), "AV:", ":", "E:X"]),
                max_size=12,
            ),
        ),
    ),
)
def test_no_vector_is_an_error(kind: str, vector: str) -> None:
    score = base_score(kind, vector)
    assert score is None or 0.0 <= score <= 10.0


@pytest.mark.parametrize(
    ("score", "severity"),
    [
        (10, "CRITICAL"),
        (9.0, "CRITICAL"),
        (8.9, "HIGH"),
        (7.0, "HIGH"),
        (6.9, "MEDIUM"),
        (4.0, "MEDIUM"),
        (3.9, "LOW"),
        (0.1, "LOW"),
        (0.0, "INFO"),
    ],
)
def test_bands(score: float, severity: str) -> None:
    assert severity_of_score(score) == severity


def test_bands_of_version_2_end_at_high_and_begin_at_low() -> None:
    assert severity_of_score(10.0, is_v2=True) is Severity.HIGH
    assert severity_of_score(0.0, is_v2=True) is Severity.LOW


@pytest.mark.parametrize(
    ("word", "severity"),
    [
        ("Important", "HIGH"),
        ("Moderate", "MEDIUM"),
        ("MODERATE", "MEDIUM"),
        ("negligible", "INFO"),
        ("unimportant", "INFO"),
        ("low**", "LOW"),
        ("critical", "CRITICAL"),
        ("not yet assigned", None),
        ("end-of-life", None),
        ("untriaged", None),
        ("", None),
    ],
)
def test_words_of_the_sources(word: str, severity: str | None) -> None:
    assert severity_of_word(word) == severity


def record(advisory_id: str, *severity: tuple[str, str], rating: str = "") -> Advisory:
    return Advisory(id=advisory_id, severity=severity, rating=rating)


def test_a_distribution_s_word_comes_before_any_score_which_is_still_told() -> None:
    nvd = record("CVE-2023-0001", ("CVSS_V3", CRITICAL_V3))
    rating = rate(record("DEBIAN-CVE-2023-0001"), [nvd], distro="Debian", urgency="low", vulnerability="CVE-2023-0001")
    assert (rating.severity, rating.source) == (Severity.LOW, "Debian")
    assert (rating.score, rating.vector) == (9.8, CRITICAL_V3)


@pytest.mark.parametrize("urgency", ["not yet assigned", "end-of-life", ""])
def test_a_word_that_judges_nothing_leaves_it_to_the_score(urgency: str) -> None:
    nvd = record("CVE-2023-0001", ("CVSS_V3", CRITICAL_V3))
    rating = rate(record("DEBIAN-CVE-2023-0001"), [nvd], distro="Debian", urgency=urgency)
    assert (rating.severity, rating.source) == (Severity.CRITICAL, "CVSS_V3 of CVE-2023-0001")


def test_ubuntu_s_priority_is_a_severity_type() -> None:
    rating = rate(record("UBUNTU-CVE-2023-0001", ("CVSS_V3", CRITICAL_V3), ("Ubuntu", "medium")), distro="Ubuntu")
    assert (rating.severity, rating.source, rating.score) == (Severity.MEDIUM, "Ubuntu", 9.8)


def test_an_erratum_s_rating_is_the_distribution_s_word() -> None:
    rating = rate(record("ALSA-2023:1", rating="Important"), distro="AlmaLinux")
    assert (rating.severity, rating.source, rating.score) == (Severity.HIGH, "AlmaLinux", None)


def test_for_languages_the_score_comes_before_the_word() -> None:
    rating = rate(record("GHSA-1", ("CVSS_V3", LOW_V3), rating="CRITICAL"))
    assert (rating.severity, rating.source, rating.score) == (Severity.LOW, "CVSS_V3 of GHSA-1", 1.6)


def test_the_newest_scale_of_a_record_counts() -> None:
    rating = rate(record("GHSA-1", ("CVSS_V2", MEDIUM_V2), ("CVSS_V3", LOW_V3), ("CVSS_V4", HIGH_V4)))
    assert (rating.severity, rating.vector) == (Severity.HIGH, HIGH_V4)


def test_of_two_vectors_on_one_scale_the_first_counts() -> None:
    assert rate(record("GHSA-1", ("CVSS_V3", LOW_V3), ("CVSS_V3", CRITICAL_V3))).vector == LOW_V3


def test_a_record_s_own_word_comes_before_other_records_scores_for_languages() -> None:
    other = record("CVE-2023-0001", ("CVSS_V3", CRITICAL_V3))
    rating = rate(record("GHSA-1", rating="MODERATE"), [other])
    assert (rating.severity, rating.source, rating.score) == (Severity.MEDIUM, "GHSA-1", 9.8)


def test_an_invalid_vector_is_passed_over() -> None:
    rating = rate(record("GHSA-1", ("CVSS_V3", "CVSS:3.1/garbage"), rating="HIGH"))
    assert (rating.severity, rating.score, rating.vector) == (Severity.HIGH, None, "")


def test_other_records_are_asked_last_that_of_the_cve_first() -> None:
    others = [record("AAAA-1", ("CVSS_V3", LOW_V3)), record("CVE-2023-0001", ("CVSS_V3", CRITICAL_V3))]
    assert rate(record("PYSEC-1"), others, vulnerability="CVE-2023-0001").score == 9.8
    assert rate(record("PYSEC-1"), others).score == 1.6
    words = [record("GHSA-2"), record("GHSA-3", rating="LOW")]
    assert rate(record("PYSEC-1"), words).source == "GHSA-3"


def test_without_any_judgement_it_is_unknown() -> None:
    rating = rate(record("DSA-1-1"), [record("DSA-1-1", ("CVSS_V3", CRITICAL_V3))], distro="Debian")
    assert (rating.severity, rating.source, rating.score) == (Severity.INFO, "", None)


def test_malware_is_critical() -> None:
    rating = rate(Advisory(id="MAL-2024-1", is_malware=True, rating="LOW"))
    assert (rating.severity, rating.source) == (Severity.CRITICAL, "MAL-2024-1")


def test_of_errata_that_cover_a_vulnerability_the_one_that_covers_least_is_believed() -> None:
    many = Advisory(id="ALSA-1", rating="Critical", upstream=("CVE-2024-0001", "CVE-2024-0002", "CVE-2024-0003"))
    few = Advisory(id="ALSA-2", rating="Moderate", upstream=("CVE-2024-0001",))
    rating = rate(Advisory(id="DEBIAN-CVE-2024-0001"), (many, few), distro="Debian", vulnerability="CVE-2024-0001")
    assert (rating.severity, rating.source) == (Severity.MEDIUM, "ALSA-2")
