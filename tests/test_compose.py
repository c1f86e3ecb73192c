"""A sweep's shortcut through Hydra composes what Hydra itself does."""

import numpy as np
import omegaconf
import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode

from lambda_hat.commands import main as cli
from lambda_hat.config import hydra_glue, hydra_private, messages
from lambda_hat.launch.compose import Composer
from lambda_hat.system.errors import ConfigError

OWN = ("model=custom", "model.source=net.py:make", "data=file", "data.path=xy.npz")

ALIKE = [
    (),
    ("seed=3",),
    ("sampler=mclmc", "sampler.draws=7", "seed=1"),
    ("sampler=mclmc", "sampler.draws=8", "posterior.beta=0.5"),
    ("sampler.draws=8", "sampler=sgld", "posterior.gamma=1", "model.widths=[3,4]"),
    ("model=base", "data.n_data=50", "store.root='a b'"),
    ("truth=quadratic", "posterior.beta=5", "sampler=sgld"),
    ("experiment=truth_smoke", "model.depth=1", "runtime.devices=1"),
    # an interpolation of the command line, of an experiment, of a logger; what it names set in the same and in another combination
    ("sampler.seed=${seed}", "seed=5"),
    ("sampler.seed=${seed}", "seed=6"),
    ("sampler.seed=6", "seed=6"),
    ("model.widths=['${seed}',4]", "seed=7", "sampler.draws=${model.widths[1]}"),
    ("experiment=scale", "model.in_dim=8"),
    ("experiment=scale", "model.in_dim=9"),
    ("experiment=modular_addition", "training.checkpoint=100", "data.modulus=11"),
    ("experiment=modular_addition", "training.checkpoint=100", "data.modulus=13"),
    ("logger=tensorboard", "store.root=a"),
    ("logger=tensorboard", "store.root=b", "logger.directory=c"),
    ("store.root='a/${seed}'", "seed=8"),
    ("store.root='a/${seed}'", "seed=9"),
    # lists, settings by name, null, groups within groups
    ("model.widths=[2]", "model.depth=null", "posterior.beta=null", "posterior.nbeta=10"),
    ("resources.run.mem_gb=7", "resources.run.timeout_min=null", "names.model=mine"),
    ("resources.run={cpus: 3}", "resources.target.cpus=1"),
    (*OWN, "model.options={width: 3}"),
    (*OWN, "model.options={width: 4}"),
    ("target=tgt_0ba2ae26b480", "sampler=laplace"),
    # what is added and taken away, alone and beside settings of the same key and of others
    ("+sampler.step_size=0.1", "seed=4"),
    ("+sampler={draws: 9}", "sampler.chains=3"),
    ("++sampler.draws=11", "seed=4", "posterior.gamma=3"),
    ("~truth", "seed=4", "sampler.draws=12"),
    ("~truth", "~logger", "sampler.draws=13", "sampler.seed=${seed}", "seed=2"),
    (*OWN, "model.options={width: 5, depth: 1}", "~model.options.depth", "seed=2"),
    (*OWN, "model.options={width: 5}", "+model.options.depth=1", "model.options.width=6", "seed=2"),
]
"""Combinations of which many share what is composed once."""

REFUSED = [
    ("+experiment=base", "sampler.draws=15"),
    ("sampler.drows=7",),
    ("sampler=hcm",),
    ("seed=x",),
    ("~nothing", "seed=1"),
    ("+seed=1",),
    ("+sampler.drows=7", "seed=1"),
    ("~sampler.draws", "seed=1"),
    ("~sampler.draws", "sampler.draws=4"),
    ("~sampler.draws=17", "seed=1"),
    ("sampler.draws=-1", "seed=1"),
    ("sampler.draws=${nothing}", "seed=1"),
    ("posterior.gamma=nan", "sampler.draws=0"),
    ("store=null",),
    ("~store",),
    ("store.root=null",),
    ("store.target_id=${store.run_dir}",),
]


@pytest.fixture
def composers():
    """The shortcut, and Hydra's own way."""
    hydra_glue.register()
    with initialize_config_dir(str(cli.CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        master = loader.load_configuration("config", [], RunMode.MULTIRUN)

        def long(words):
            config = loader.load_sweep_config(master, list(words))
            hydra_glue.name_choices(config, config.hydra.runtime.choices)
            return hydra_glue.to_config(config)

        yield Composer(loader, master), long


def test_the_same_configuration(composers, tmp_path, monkeypatch):
    """In turn, so that what one combination sets would show in the next."""
    monkeypatch.chdir(tmp_path)  # where the named files lie
    (tmp_path / "net.py").write_text("def make(width, depth=0):\n    return width\n")
    np.savez("xy.npz", X=np.zeros((4, 2)), Y=np.zeros(4))
    short, long = composers
    expected = {words: long(words) for words in ALIKE}
    assert all(config.names.model and config.names.data for config in expected.values())
    assert len({config.store.run_dir + repr(config) for config in expected.values()}) > len(ALIKE) - 6
    for words in ALIKE + ALIKE[::-1]:
        assert short(words) == expected[words], words


@pytest.mark.parametrize("words", REFUSED)
def test_the_same_error(composers, words):
    """Also where the combination before it is sound and says the same of most settings."""
    short, long = composers
    short(("seed=1", "posterior.gamma=3"))
    errors = []
    for compose in (long, short, short):
        with pytest.raises((HydraException, ConfigError)) as caught:
            compose(words)
        errors.append(messages.of(caught.value))
    assert errors[0] == errors[1] == errors[2]


def test_a_text_is_parsed_once_and_only_where_asked(composers):
    """As often as it likes outside: the function that is private to OmegaConf is still where it was, and put back."""
    short, _ = composers
    plain = omegaconf.base.parse
    expected = short(("seed=3",))
    with hydra_private.parsed_once():
        assert short(("seed=3",)) == expected
        texts = omegaconf.base.parse.cache_info().misses
        assert short(("seed=3",)) == expected
        assert omegaconf.base.parse.cache_info().misses == texts > 0
        assert short(("seed=4",)).store.target_id != expected.store.target_id
    assert omegaconf.base.parse is plain
