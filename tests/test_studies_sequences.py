"""`experiment=modular_addition` and `experiment=attention`: their data, their networks, and each study in a small form."""

import itertools
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest

import lambda_hat
from lambda_hat import config as configs
from lambda_hat.studies import attention, modular_addition
from lambda_hat.system.errors import ConfigError
from lambda_hat.targets import data

MODULAR, SEQUENCE = (problems.config(f"experiment={name}") for name in ("modular_addition", "attention"))
FEW = (
    "sampler.draws=20",
    "sampler.warmup=20",
    "sampler.mcse_target=null",
    "runtime.devices=1",
    "runtime.figures=false",
)


# --- data -------------------------------------------------------------------------------------------------------------


def test_modular_pairs_and_those_held_out_are_all_there_are():
    source = data.source(MODULAR.data)
    drawn, rest = source.draw(None, 0), source.held_out(None, 0)
    assert drawn.x.dtype == drawn.y.dtype == np.int64 and len(drawn.x) == MODULAR.data.n_data
    together = [tuple(pair) for pair in np.concatenate([drawn.x, rest.x]).tolist()]
    assert sorted(together) == list(itertools.product(range(17), repeat=2))
    for part in (drawn, rest):
        assert part.y.tolist() == [(a + b) % 17 for a, b in part.x.tolist()]
    assert not np.array_equal(source.draw(None, 1).x, drawn.x)
    assert data.source(replace(MODULAR.data, n_data=289)).held_out(None, 0) is None


def test_the_second_half_of_a_sequence_repeats_the_first_but_for_noise():
    n, half, noise = 20_000, SEQUENCE.data.half, SEQUENCE.data.noise
    source = data.source(replace(SEQUENCE.data, n_data=n))
    drawn, more = source.draw(None, 0), source.held_out(None, 0)
    assert drawn.x.shape == drawn.y.shape == (n, 2 * half - 1)
    np.testing.assert_array_equal(drawn.x[:, half:], drawn.x[:, : half - 1])
    np.testing.assert_array_equal(drawn.y[:, : half - 1], drawn.x[:, 1:half])
    copied = np.mean(drawn.y[:, half - 1 :] == drawn.x[:, :half])
    right = 1 - noise * (1 - 1 / SEQUENCE.data.vocabulary)  # a random token is right by chance
    assert copied == pytest.approx(right, abs=4 * math.sqrt(right * (1 - right) / (n * half)))
    assert not np.array_equal(drawn.x[: len(more.x)], more.x)
    following = [_shares_of_next(part.x[:, :half]) for part in (drawn, more)]
    assert np.abs(following[0] - following[1]).max() < 0.05  # one chain is behind both
    assert np.abs(following[0].sum(1) - 1).max() < 1e-12 and following[0].max() > 0.5


def _shares_of_next(chains):
    counts = np.zeros((SEQUENCE.data.vocabulary, SEQUENCE.data.vocabulary))
    np.add.at(counts, (chains[:, :-1].ravel(), chains[:, 1:].ravel()), 1)
    return counts / counts.sum(1, keepdims=True)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ("experiment=modular_addition", "data.n_data=290"),
            "data.n_data must be ≤ 289, all pairs below data.modulus=17",
        ),
        (("data=modular",), "data=modular has numbers of tokens for inputs, which model=mlp would take for sizes"),
        (("data=sequence",), "data=sequence has numbers of tokens for inputs, which model=mlp would take for sizes"),
        (
            ("data=modular", "model=quadratic"),
            "model=quadratic is a function of w alone and has no use for data=modular",
        ),
        (
            ("experiment=attention", "posterior.loss=mse"),
            "posterior.loss must be nll (cross-entropy) for data=sequence",
        ),
    ],
)
def test_what_does_not_go_with_tokens_is_refused(overrides, sentence):
    with pytest.raises(ConfigError, match=r"^[^\n]+\.$") as refusal:
        configs.check(problems.config(*overrides))
    assert str(refusal.value).startswith(sentence)


# --- networks ---------------------------------------------------------------------------------------------------------


def test_the_quadratic_network_can_add_by_cosines():
    """Σ over four phases φ of ((u + v)² − (u − v)²) cos(kc + 2φ), u = cos(ka + φ), v = cos(kb + φ), is 4 cos k(a + b − c)."""
    modulus = 7
    init, apply = modular_addition.make(modulus, 24)
    pairs = np.array(list(itertools.product(range(modulus), repeat=2)))
    tokens = np.arange(modulus)
    columns = []  # of each unit: its weight on every a, on every b, and on every class
    for k in (1, 2, 3):
        wave = lambda phase, k=k: np.cos(2 * np.pi * k * tokens / modulus + phase)
        for phase in np.arange(4) * np.pi / 4:
            for sign in (1, -1):  # (u + v)² − (u − v)² = 4uv
                columns.append((wave(phase), sign * wave(phase), sign * wave(2 * phase)))
    first, second, out = (np.array(part) for part in zip(*columns, strict=True))
    built = {"first": jnp.asarray(first.T), "second": jnp.asarray(second.T), "out": jnp.asarray(out)}
    logits = np.asarray(apply(built, jnp.asarray(pairs)))
    assert logits.argmax(1).tolist() == (pairs.sum(1) % modulus).tolist()
    waves = np.cos(2 * np.pi * np.multiply.outer(pairs.sum(1)[:, None] - tokens, [1, 2, 3]) / modulus)
    np.testing.assert_allclose(logits, 4 * waves.sum(-1), atol=1e-12)
    drawn = init(jax.random.key(0))
    assert {name: leaf.shape for name, leaf in drawn.items()} == {"first": (7, 24), "second": (7, 24), "out": (24, 7)}


def test_attention_does_not_see_what_follows_and_is_softmax_attention():
    init, apply = attention.make(6, 9, 8)
    params = init(jax.random.key(0))
    assert sum(leaf.size for leaf in params.values()) == 424
    x = np.random.default_rng(0).integers(6, size=(3, 9))
    logits = np.asarray(apply(params, jnp.asarray(x)))
    assert logits.shape == (3, 9, 6)
    changed = x.copy()
    changed[:, 5:] = (changed[:, 5:] + 1) % 6
    after = np.asarray(apply(params, jnp.asarray(changed)))
    np.testing.assert_allclose(after[:, :5], logits[:, :5], rtol=1e-12)
    assert np.abs(after[:, 5:] - logits[:, 5:]).max() > 0.01

    w = {name: np.asarray(leaf) for name, leaf in params.items()}
    h = w["token"][x[1]] + w["place"]
    place = 6
    scores = np.array([(h[place] @ w["query"]) @ (h[j] @ w["key"]) for j in range(place + 1)]) / math.sqrt(8)
    weights = np.exp(scores) / np.exp(scores).sum()
    head = sum(weight * (h[j] @ w["value"]) for j, weight in enumerate(weights)) @ w["out"]
    np.testing.assert_allclose(logits[1, place], (h[place] + head) @ w["unembed"], rtol=1e-10)


# --- the studies ------------------------------------------------------------------------------------------------------


def test_modular_addition_fits_before_it_generalises_and_lambda_falls(script, tool, tmp_path):
    steps = (100, 2000)
    words = ("training.checkpoint=" + ",".join(map(str, steps)), "training.steps=2000", *FEW)
    outcome = script("sample", "-m", "experiment=modular_addition", *words)
    assert outcome.code == 0, outcome.text
    early, late = _along(tmp_path, steps)
    chance = math.log(17)
    assert early["train_loss"] < 0.2 * chance and early["test_loss"] > chance
    assert late["train_loss"] < 0.01 * chance and late["test_loss"] < 0.25 * chance
    assert early["llc_mean"] > late["llc_mean"] > 0
    assert (early["n_data"], early["loss"]) == (230, "cross-entropy")
    _assert_the_report_draws(tool, tmp_path, 2)


def test_attention_learns_which_token_follows_and_then_to_copy_and_lambda_grows(script, tool, tmp_path):
    steps = (100, 700)
    words = ("training.checkpoint=" + ",".join(map(str, steps)), "training.steps=700", *FEW)
    outcome = script("sample", "-m", "experiment=attention", *words)
    assert outcome.code == 0, outcome.text
    early, late = _along(tmp_path, steps)
    copying = 5 * -math.log(1 - 0.1 * 5 / 6)  # what five labels cost at least, noise being what it is
    assert early["test_loss"] > late["test_loss"] + copying  # the second half was no better than the first
    assert late["llc_from_minimum"] > early["llc_from_minimum"] + 5
    _assert_the_report_draws(tool, tmp_path, 2)


def _along(at, steps):
    table = lambda_hat.load_results(at / "runs").sort_values("training_step")
    assert table["training_step"].tolist() == list(steps)
    return [row for _, row in table.iterrows()]


def _assert_the_report_draws(tool, at, steps):
    assert tool("report").code == 0
    page = (at / "runs" / "report.html").read_text()
    section = page[page.index("Along training") :].split("</section>")[0]
    assert f"{steps} runs at {steps} steps" in section
    assert section.count("<figure>") == 3 and "dashed" in section
