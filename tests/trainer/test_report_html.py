"""Pieces of HTML: everything from a run is escaped, and odd values are shown as they are."""

from __future__ import annotations

from trainer.report_html import badge, legend, mapping, pretty, table, words


def test_tables():
    made = table(["a<b"], [[None], [True], [0.123456], ["<i>x</i>"], [3]])
    assert "<th>a&lt;b</th>" in made and "&lt;i&gt;x&lt;/i&gt;" in made
    assert all(cell in made for cell in ("<td>-</td>", "<td>true</td>", "<td>0.1235</td>", ">3</td>"))


def test_small_pieces():
    assert badge("<", "bad") == "<span class='badge bad'>&lt;</span>"
    assert legend([(1, "a&b")]) == "<div class='legend'><span class='s1'><i></i>a&amp;b</span></div>"
    assert words("gold_start") == "gold start" and mapping([1]) == {} and mapping({"a": 1}) == {"a": 1}
    assert pretty({"ä": 1}) == '{\n  "ä": 1\n}'
