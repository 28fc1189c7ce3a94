"""Settings of a call: a config, or one by one."""

import pytest

from obsdiff import PruningConfig, UserError
from obsdiff.config.given import config_of


def test_settings_one_by_one_are_those_of_a_config():
    assert config_of(None, {"sparsity": "30%", "method": "wanda"}) == PruningConfig(
        sparsity=0.3, method="wanda"
    )
    assert config_of(None, {}) == PruningConfig()
    config = PruningConfig(sparsity=0.4)
    assert config_of(config, {}) is config


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (None, {"sparsty": 0.5}, "sparsty: expected a setting of PruningConfig; did you mean spa"),
        (PruningConfig(), {"seed": 1}, "found both: put seed into the config"),
        (None, {"sparsity": 2}, "sparsity"),
    ],
)
def test_wrong_settings_are_one_line(config, settings, message):
    with pytest.raises(UserError, match=message):
        config_of(config, settings)
