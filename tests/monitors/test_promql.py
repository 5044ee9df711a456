"""What may become a part of another query."""

from __future__ import annotations

import pytest

from adapters.errors import ConfigError
from monitors.promql import check_piece, quoted


@pytest.mark.parametrize("query", [
    "up",
    'sum(rate(a_total{path="/(x}", b=\'#1\', c=`"`}[{{.window}}])) by (x) / 2',
    r'a{b="\""}',
    "avg_over_time((up)[{{.window}}:])",
])  # fmt: skip
def test_whole_queries_pass(query):
    assert check_piece(query) == query


@pytest.mark.parametrize(("query", "message"), [
    ("rate(x[{{.window}}]", r"a \( that is never closed"),
    ("x) or vector(1", r"a \) too many"),
    ("rate(x[5m)]", r"a \) too many"),
    ('a{b="c}', "a quote without its end"),
    ("a{b='c\"}", "a quote without its end"),
    ("up # the best metric", r"a comment \(#\)"),
    ("{", "never closed"),
])  # fmt: skip
def test_pieces_are_refused_in_one_line(query, message):
    with pytest.raises(ConfigError, match=message) as refused:
        check_piece(query)
    assert "\n" not in str(refused.value)


def test_quoted_values_end_where_they_should():
    assert quoted('a"b\\c\n') == r'"a\"b\\c\n"'
