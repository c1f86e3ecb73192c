"""A sweep's shortcut through Hydra composes what Hydra itself does."""

import omegaconf
import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf

from lambda_hat.commands import main as cli
from lambda_hat.config import hydra_glue, hydra_private
from lambda_hat.launch.compose import Composer

ALIKE = [
    (),
    ("seed=3",),
    ("sampler=mclmc", "sampler.draws=7", "seed=1"),
    ("sampler=mclmc", "sampler.draws=8", "posterior.beta=0.5"),
    ("sampler.draws=8", "sampler=sgld", "posterior.gamma=1", "model.widths=[3,4]"),
    ("model=base", "data.n_data=50", "store.root='a b'"),
    ("truth=quadratic", "posterior.beta=5", "sampler=sgld"),
    ("experiment=truth_smoke", "model.depth=1", "runtime.devices=1"),
    ("+sampler.step_size=0.1", "sampler.step_size=0.2"),
]

REFUSED = [("sampler.drows=7",), ("sampler=hcm",), ("seed=x",), ("~nothing", "seed=1"), ("+seed=1",)]


@pytest.fixture
def composers():
    """The shortcut, and Hydra's own way."""
    hydra_glue.register()
    with initialize_config_dir(str(cli.CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        master = loader.load_configuration("config", [], RunMode.MULTIRUN)
        yield Composer(loader, master), lambda words: loader.load_sweep_config(master, list(words))


def test_the_same_configuration(composers):
    """In turn, so that what one combination sets would show in the next."""
    short, long = composers
    for words in ALIKE + ALIKE[::-1]:
        expected = long(words)
        hydra_glue.name_choices(expected, expected.hydra.runtime.choices)
        assert expected.names.model and expected.names.data
        expected = OmegaConf.masked_copy(expected, [key for key in expected if key != "hydra"])
        assert OmegaConf.to_container(short(words), resolve=True) == OmegaConf.to_container(expected, resolve=True)


@pytest.mark.parametrize("words", REFUSED)
def test_the_same_error(composers, words):
    errors = []
    for compose in composers:
        with pytest.raises(HydraException) as caught:
            compose(words)
        errors.append(str(caught.value))
    assert errors[0] == errors[1]


def test_a_text_is_parsed_once_and_only_where_asked(composers):
    """As often as it likes outside: the function that is private to OmegaConf is still where it was, and put back."""
    short, _ = composers
    plain = omegaconf.base.parse
    expected = OmegaConf.to_container(short(("seed=3",)), resolve=True)
    with hydra_private.parsed_once():
        assert OmegaConf.to_container(short(("seed=3",)), resolve=True) == expected
        texts = omegaconf.base.parse.cache_info().misses
        assert OmegaConf.to_container(short(("seed=3",)), resolve=True) == expected
        assert omegaconf.base.parse.cache_info().misses == texts > 0
        assert short(("seed=4",)).store.target_id != expected["store"]["target_id"]
    assert omegaconf.base.parse is plain
