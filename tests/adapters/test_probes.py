import dataclasses
import json
import math

import pytest

from adapters.errors import AdapterRejected
from adapters.probes import NOISE, TOLERANCE, Probes, Verdict, compare, material_differences

ADAPTER = ({7: math.log(0.9), 8: math.log(0.08), 9: math.log(0.001)}, {5: math.log(0.6), 6: math.log(0.4)})
BASE = ({7: math.log(0.2), 8: math.log(0.75), 9: math.log(0.002)}, {5: math.log(0.55), 6: math.log(0.45)})
PROBES = Probes(prefixes=((1, 2), (1, 3, 4)), adapter=ADAPTER, base=BASE, dtype="float32")


def shifted(answers, by):
    return [{token: value + by for token, value in item.items()} for item in answers]


def test_an_engine_that_serves_the_adapter_matches():
    result = compare(PROBES, shifted(ADAPTER, 0.05), shifted(BASE, -0.05))
    assert result.verdict is Verdict.MATCH
    assert result.ok
    assert result.max_difference == pytest.approx(0.05)
    assert result.mean_difference == pytest.approx(0.05)
    assert result.base_drift == pytest.approx(0.05)
    assert result.tolerance == TOLERANCE


def test_the_telling_token_and_its_numbers_are_reported():
    result = compare(PROBES, ADAPTER)
    assert (result.prefix, result.token) == (0, 8)
    assert result.gap == pytest.approx(math.log(0.75 / 0.08))
    assert result.recorded == result.observed == pytest.approx(math.log(0.08))
    assert result.base == pytest.approx(math.log(0.75))
    assert result.base_distance == pytest.approx(result.gap)


@pytest.mark.parametrize("observed_base", [None, BASE], ids=["recorded base", "observed base"])
def test_an_engine_that_answers_like_the_base_ignored_the_adapter(observed_base):
    result = compare(PROBES, shifted(BASE, 0.02), observed_base)
    assert result.verdict is Verdict.IGNORED
    assert not result.ok
    assert result.base_distance == pytest.approx(0.02)


def test_ignoring_is_seen_even_when_the_engine_runs_another_base():
    other = shifted(BASE, -0.5)
    result = compare(PROBES, other, other)
    assert result.verdict is Verdict.IGNORED
    assert result.base_drift == pytest.approx(0.5)


def test_anything_else_is_a_mismatch():
    between = [{7: math.log(0.5), 8: math.log(0.4)}, dict(ADAPTER[1])]
    assert compare(PROBES, between).verdict is Verdict.MISMATCH


def test_one_wrong_prefix_is_enough():
    answers = [dict(ADAPTER[0]), {5: math.log(0.45), 6: math.log(0.55)}]
    assert compare(PROBES, answers).verdict is Verdict.MISMATCH


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["adapter", "base"])
def test_a_non_finite_answer_is_named_before_anything_else(bad, where):
    broken = [dict(ADAPTER[0]), {5: bad}]
    args = (broken, None) if where == "adapter" else (ADAPTER, broken)
    assert compare(PROBES, *args).verdict is Verdict.NON_FINITE


@pytest.mark.parametrize(
    "observed", [[], [None, None], [dict(ADAPTER[0])], [dict(ADAPTER[0]), {}], [*ADAPTER, {1: -1.0}]]
)
def test_no_evidence_is_never_a_match(observed):
    result = compare(PROBES, observed)
    assert result.verdict is Verdict.MISSING
    assert not result.ok


def test_missing_base_answers_are_missing_too():
    assert compare(PROBES, ADAPTER, [None, None]).verdict is Verdict.MISSING


def test_unlikely_tokens_are_not_compared():
    answers = [dict(ADAPTER[0]), dict(ADAPTER[1])]
    answers[0][9] = -15.0
    assert compare(PROBES, answers).verdict is Verdict.MATCH


def test_a_likely_token_that_is_not_listed_counts_by_its_bound():
    # Recorded at p = 0.9, not among the engine's: it is at most as likely there as the least listed one.
    assert material_differences({7: math.log(0.9)}, {8: math.log(0.5)})[7] == pytest.approx(math.log(0.9 / 0.5))
    answers = [{8: math.log(0.08), 9: math.log(0.001)}, dict(ADAPTER[1])]
    assert compare(PROBES, answers).verdict is Verdict.MISMATCH


def test_a_flat_distribution_still_compares_its_most_likely_token():
    flat = {1: math.log(0.005), 2: math.log(0.004)}
    assert material_differences(flat, {1: math.log(0.002), 2: math.log(0.0019)})[1] == pytest.approx(math.log(2.5))


def test_a_weak_adapter_is_judged_by_half_its_gap():
    adapter = ({5: math.log(0.60), 6: math.log(0.40)},)
    base = ({5: math.log(0.49), 6: math.log(0.51)},)
    probes = Probes(((1,),), adapter, base, "float32")
    gap = math.log(0.51 / 0.40)
    assert compare(probes, adapter).tolerance == pytest.approx(gap / 2)
    assert compare(probes, adapter).verdict is Verdict.MATCH
    assert compare(probes, base).verdict is Verdict.IGNORED
    assert compare(probes, base, base).verdict is Verdict.IGNORED


def test_an_adapter_equal_to_its_base_matches_an_engine_that_serves_it():
    probes = dataclasses.replace(PROBES, adapter=BASE)
    result = compare(probes, BASE, BASE)
    assert result.verdict is Verdict.MATCH
    assert result.gap == 0
    assert result.tolerance == NOISE


def test_a_senseless_tolerance_is_refused():
    with pytest.raises(ValueError, match="positive"):
        compare(PROBES, ADAPTER, tolerance=0)


def test_probes_survive_their_json(tmp_path):
    PROBES.write(tmp_path)
    again = Probes.read(tmp_path)
    assert again == dataclasses.replace(
        PROBES,
        adapter=tuple({t: round(v, 6) for t, v in item.items()} for item in ADAPTER),
        base=tuple({t: round(v, 6) for t, v in item.items()} for item in BASE),
    )
    assert again.to_json() == PROBES.to_json()
    assert Probes.read(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format 2"),
        ({"prefixes": []}, "no prefixes"),
        ({"prefixes": [[1], []]}, "an empty one"),
        ({"adapter": [{"7": -0.1}]}, "differ in length"),
        ({"adapter": [{"7": math.nan}, {"5": -1.0}]}, "not finite"),
        ({"adapter": [{"7": 0.5}, {"5": -1.0}]}, "above 0"),
        ({"base": [{}, {"5": -1.0}]}, "missing"),
        ({"base": [{"x": -1.0}, {"5": -1.0}]}, "invalid literal"),
        ({"base": [None, {"5": -1.0}]}, "items"),
        ({"dtype": None}, None),
    ],
)
def test_a_damaged_file_is_one_clear_error(change, message):
    data = json.loads(PROBES.to_json()) | change
    if message is None:
        del data["dtype"]
        message = "'dtype' is missing"
    with pytest.raises(AdapterRejected, match=message):
        Probes.from_json(json.dumps(data))


def test_text_that_is_no_json_is_one_clear_error():
    with pytest.raises(AdapterRejected, match=r"^probes\.json: "):
        Probes.from_json("{")
    with pytest.raises(AdapterRejected, match=r"^probes\.json: "):
        Probes.from_json("[]")
