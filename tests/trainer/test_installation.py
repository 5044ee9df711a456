import pytest

from adapters.errors import ConfigError
from trainer.installation import load_installation, open_registry


def test_only_what_training_needs_is_read_and_the_rest_is_left_to_the_gateway(tmp_path):
    path = tmp_path / "understudy.toml"
    path.write_text(
        'data_dir = "d"\n[engine]\nbase_model = "demo"\nmax_lora_rank = 8\nmax_loras = 4\n[gateway]\nworkers = 3\n'
        "[rollout]\nanything = 1\n"
    )
    found = load_installation(path)
    assert (found.data_dir, found.engine.max_lora_rank, found.engine.base_model) == (tmp_path / "d", 8, "demo")


def test_the_file_in_this_folder_is_the_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_installation().data_dir == tmp_path / ".understudy"
    (tmp_path / "understudy.toml").write_text('data_dir = "here"\n')
    assert load_installation().data_dir == tmp_path / "here"


def test_a_registry_opens_on_it(tmp_path):
    (path := tmp_path / "u.toml").write_text('data_dir = "d"\n')
    with open_registry(load_installation(path)) as registry:
        assert registry.list() == []


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        load_installation(tmp_path / "none.toml")
