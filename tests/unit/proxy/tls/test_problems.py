"""Problems as text."""

from __future__ import annotations

from proxy.tls.problems import CertificateProblem, CertificateProblems, OptionProblem


def test_one_line_for_each_problem() -> None:
    error = CertificateProblems([CertificateProblem("/a.pem", "a.test", "expired"), OptionProblem("tls.groups", "odd")])
    assert str(error) == "/a.pem: site a.test: expired\ntls.groups: odd"
    assert len(error.problems) == 2
