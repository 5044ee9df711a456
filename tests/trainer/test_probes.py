import dataclasses
import math

import pytest

from adapters.errors import ConfigError, TrainingError
from adapters.probes import TOLERANCE, Probes, Verdict, compare
from trainer.demo import tokenizer as tk
from trainer.demo import world
from trainer.probes import COUNT, load_adapter, record_probes


@pytest.fixture(scope="module")
def sft_probes(made):
    return record_probes("demo", made["sft"])


@pytest.mark.slow
def test_probes_are_few_telling_and_normalised(sft_probes):
    assert len(sft_probes.prefixes) == COUNT
    assert len(set(sft_probes.prefixes)) == COUNT
    assert all(prefix[0] == tk.BOS_ID for prefix in sft_probes.prefixes)
    assert sft_probes.dtype == "float32"
    for item in (*sft_probes.adapter, *sft_probes.base):
        assert len(item) == 20
        assert 0.9 < sum(map(math.exp, item.values())) <= 1.0001
    assert compare(sft_probes, sft_probes.adapter).gap > 4 * TOLERANCE


@pytest.mark.slow
def test_recording_again_gives_the_same(sft_probes, made):
    assert record_probes("demo", made["sft"]).to_json() == sft_probes.to_json()


@pytest.mark.slow
def test_given_prefixes_are_recorded_as_they_are(made):
    prefixes = [(tk.BOS_ID, tk.USER_ID, *tk.encode("upper ab"), tk.ASSISTANT_ID), (tk.BOS_ID,)]
    probes = record_probes("demo", made["A:"], prefixes, top=5)
    assert probes.prefixes == tuple(prefixes)
    assert {len(item) for item in probes.adapter} == {5}
    ((likeliest, _), *_) = probes.adapter[0].items()
    assert tk.decode([likeliest]) == "A"
    with pytest.raises(TrainingError, match="no prefix to record"):
        record_probes("demo", made["A:"], [])


@pytest.mark.slow
def test_shipped_probes_tell_one_adapter_from_another(made):
    probes = Probes.read(made["A:"])
    other = record_probes("demo", made["B:"], probes.prefixes)
    assert compare(probes, other.adapter).verdict is Verdict.MISMATCH
    assert compare(probes, other.base).verdict is Verdict.IGNORED


def test_what_is_no_adapter_or_base_is_one_clear_error(tmp_path):
    with pytest.raises(TrainingError, match="is not an adapter directory"):
        load_adapter("demo", tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(TrainingError, match="the adapter cannot be loaded"):
        load_adapter("demo", tmp_path)
    with pytest.raises(ConfigError):
        load_adapter(tmp_path / "nowhere", tmp_path)


@pytest.mark.slow
def test_a_non_finite_adapter_is_not_recorded(tmp_path, made):
    from safetensors.torch import load_file, save_file

    tensors = load_file(made["sft"] / "adapter_model.safetensors")
    name = next(name for name in tensors if name.endswith("lora_B.weight"))
    tensors[name][0, 0] = math.nan
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text((made["sft"] / "adapter_config.json").read_text())
    with pytest.raises(TrainingError, match="non-finite"):
        record_probes("demo", tmp_path, [(tk.BOS_ID, tk.USER_ID)])


@pytest.mark.slow
@pytest.mark.engine
class TestRealEngine:
    """The trainer's logprobs against those of a real vLLM with the packed base."""

    def test_every_adapter_is_recognised_and_none_for_another(self, engine, made):
        for name, folder in made.items():
            engine.load(f"probe-{name}", folder)
        for name, folder in made.items():
            probes = Probes.read(folder)
            observed_base = engine.logprobs(engine.base, probes.prefixes)
            for served in made:
                result = compare(probes, engine.logprobs(f"probe-{served}", probes.prefixes), observed_base)
                print(name, served, result)
                # Another adapter may answer like the base where this one does not: refused either way.
                assert (result.verdict is Verdict.MATCH) is (served == name), (name, served)
                assert result.base_drift < TOLERANCE
            ignored = compare(probes, observed_base, observed_base)
            assert ignored.verdict is Verdict.IGNORED
            assert ignored.gap > 4 * TOLERANCE

    def test_the_tolerance_has_headroom(self, engine, made):
        """Over many prefixes, the engine stays well within the tolerance that `compare` applies to six."""
        engine.load("headroom", made["sft"])
        prefixes = []
        for example in world.examples(60, 9, "held_out"):
            asked = (tk.BOS_ID, tk.USER_ID, *tk.encode(example.prompt), tk.ASSISTANT_ID)
            prefixes += [asked, (*asked, *tk.encode(example.answer)[:1])]
        probes = record_probes("demo", made["sft"], prefixes)
        observed, base = engine.logprobs("headroom", prefixes), engine.logprobs(engine.base, prefixes)
        result = compare(probes, observed, base)
        print(result)
        assert result.mean_difference < 0.02
        assert result.max_difference < 0.8 * TOLERANCE
        assert compare(dataclasses.replace(probes, adapter=probes.base), base, base).max_difference < 0.8 * TOLERANCE
