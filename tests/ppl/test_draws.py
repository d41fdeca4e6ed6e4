"""Draws: values, summaries, resampling, ArviZ and files."""

import errno
import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import xarray

import ppl
from made_draws import make, of_values, positions, target
from ppl import datatree
from ppl.draws import Draws, outputs

pytestmark = pytest.mark.usefixtures("unoptimized")

DEAD = -math.inf


# Values ---------------------------------------------------------------------------------------


def test_values_are_constrained_and_in_the_order_of_the_model():
    draws = make()
    assert draws.names == ["mu", "tau"]
    assert list(draws) == draws.names
    assert draws["mu"].shape == (4, 100, 3)
    np.testing.assert_array_equal(draws["mu"], draws.positions["mu"])
    np.testing.assert_allclose(draws["tau"], np.exp(draws.positions["tau"]), rtol=1e-6)
    assert "tau" in draws
    assert "sigma" not in draws


def test_names_keep_the_order_of_the_outputs_not_of_the_alphabet():
    class Model:
        template = {"a": jax.ShapeDtypeStruct((), jnp.float32)}

        def outputs(self, position):
            return {"z": position["a"], "b": 2 * position["a"]}

    draws = make({"a": np.zeros((2, 3), np.float32)}, target=Model())
    assert draws.names == ["z", "b"]
    assert list(draws.values) == ["z", "b"]


def test_an_unknown_name_lists_the_names_nearest_first():
    with pytest.raises(KeyError, match="no values called 'taw'; there are tau, mu"):
        make()["taw"]
    with pytest.raises(KeyError, match="no values called 'nu'; there are mu, tau"):
        make().summary(["mu", "nu"])


@pytest.mark.parametrize("draws", [1, 3, 1500])
def test_values_do_not_depend_on_the_batch(draws, monkeypatch):
    where = positions(draws=draws)
    whole = outputs(target(), where)
    monkeypatch.setattr("ppl.draws._BATCH_BYTES", 16 * 64)
    for name, value in outputs(target(), where).items():
        np.testing.assert_array_equal(value, whole[name])


def test_values_for_new_data_neither_trace_nor_compile(compilations):
    where = positions(draws=37)
    outputs(target(1.0), where)
    with compilations() as count:
        outputs(target(2.0), where)
        here = count.traces
    with compilations() as count:
        target(2.0)  # checking the density of a new target is all that is traced
    assert here == count.traces
    assert count.compilations == 0


def test_draws_that_grow_compile_seldom(compilations):
    goal = target()
    with compilations() as count:
        for size in range(70, 256, 25):
            outputs(goal, positions(draws=size))
    assert count.compilations <= 1


def test_no_draws_at_all_are_draws():
    draws = make(positions(draws=0), stopped="interrupted")
    assert draws["mu"].shape == (4, 0, 3)
    assert "stopped: interrupted" in repr(draws)
    assert np.isnan(draws.summary()["mean"]).all()
    with pytest.raises(ValueError, match="there are no draws to resample"):
        draws.resample(0, 5)


def test_leading_axes_that_differ_are_refused():
    with pytest.raises(ValueError, match="common leading axes .chain, draw.; got"):
        make(log_weights=np.zeros((4, 99)))


def test_repr_says_what_was_run_and_what_came_out():
    text = repr(make(log_evidence=ppl.Estimate(-3.25, 0.1), notes=["2 chains were moved"]))
    assert text.splitlines() == [
        "Draws: NUTS on a log density, 4 chains x 100 draws",
        "  mu   float32[3]",
        "  tau  float32[]",
        "  log evidence -3.25 +- 0.10",
        "  30 log-density and 30 gradient evaluations in 3.50 s",
        "  note: 2 chains were moved",
    ]


def test_importing_ppl_leaves_plots_and_tables_alone():
    code = (
        "import sys, ppl, ppl.draws, ppl.weights, ppl.stopping, ppl.diagnostics.convergence; "
        "print([m for m in ('arviz', 'arviz_stats', 'xarray', 'pandas', 'matplotlib', "
        "'scipy.stats', 'h5netcdf') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Summaries ------------------------------------------------------------------------------------


def test_summary_of_chains_is_that_of_arviz():
    import arviz

    draws = of_values({"mu": np.random.default_rng(0).normal(size=(4, 100, 3))})
    with arviz.rc_context({"stats.ci_prob": 0.95}):  # ArviZ takes this for the tails of the ESS
        theirs = arviz.summary(draws.to_arviz(), ci_prob=0.9, ci_kind="eti", round_to="none")
    ours = draws.summary()
    assert list(ours.index) == list(theirs.index)
    for name in ("mean", "sd", "mcse_mean", "ess_bulk", "ess_tail", "r_hat"):
        np.testing.assert_allclose(ours[name], theirs[name].astype(float), rtol=1e-5)
    np.testing.assert_allclose(ours["q5"], theirs["eti90_lb"].astype(float), rtol=1e-5)


def test_summary_shows_chosen_names_quantiles_and_decimals():
    frame = make().summary("tau", quantiles=(0.025, 0.5), round_to=1)
    assert list(frame.index) == ["tau"]
    assert list(frame.columns)[2:4] == ["q2.5", "median"]
    assert frame.loc["tau", "mean"] == round(frame.loc["tau", "mean"], 1)
    with pytest.raises(ValueError, match="quantiles lie between 0 and 1; got .5.0"):
        make().summary(quantiles=(0.5, 5.0))


def test_summary_of_independent_draws_takes_its_error_from_independence():
    frame = make(kind="direct").summary()
    assert "r_hat" not in frame
    np.testing.assert_allclose(frame["mcse_mean"], frame["sd"] / 20)


def test_summary_of_weighted_draws_is_weighted():
    x = np.random.default_rng(0).normal(size=(1, 4000))
    tilted = of_values({"x": x}, kind="direct", log_weights=x.copy())  # N(0, 1) exp(x) = N(1, 1)
    row = tilted.summary().loc["x"]
    assert abs(row["mean"] - 1) < 4.9 * row["mcse_mean"]
    assert row["sd"] == pytest.approx(1, abs=0.1)
    assert row["median"] == pytest.approx(1, abs=0.15)
    assert row["ess"] == pytest.approx(4000 / math.e, rel=0.2)  # E[w]^2 / E[w^2] = 1 / e
    assert row["khat"] < 0.7
    assert "r_hat" not in row


def test_summary_of_particles_takes_its_error_from_independent_runs():
    rng = np.random.default_rng(1)
    x = np.repeat(rng.normal(size=(4, 1)), 50, axis=1) + 0.01 * rng.normal(size=(4, 50))
    frame = of_values({"x": x}, kind="particle", log_weights=np.zeros((4, 50))).summary()
    means = x.mean(axis=1)
    assert frame.loc["x", "mcse_mean"] == pytest.approx(means.std(ddof=1) / 2)


def test_summary_without_any_weight_claims_nothing():
    frame = make(kind="direct", log_weights=np.full((4, 100), DEAD)).summary()
    assert np.isnan(frame["mean"]).all()
    assert (frame["ess"] == 0).all()
    assert (frame["khat"] == math.inf).all()


# Weights --------------------------------------------------------------------------------------


def test_runs_with_unknown_constants_count_the_same():
    log_weights = np.random.default_rng(2).normal(size=(4, 100))
    draws = make(kind="particle", log_weights=log_weights)
    shifted = make(kind="particle", log_weights=log_weights + np.array([[0], [50], [-9], [3]]))
    np.testing.assert_allclose(draws.pooled_log_weights(), shifted.pooled_log_weights())
    np.testing.assert_allclose(np.exp(draws.pooled_log_weights()).sum(axis=1), 0.25)


def test_a_run_that_died_counts_nothing():
    log_weights = np.zeros((4, 100))
    log_weights[1] = DEAD
    pooled = np.exp(make(kind="particle", log_weights=log_weights).pooled_log_weights())
    np.testing.assert_allclose(pooled.sum(axis=1), [1 / 3, 0, 1 / 3, 1 / 3])


def test_weights_that_estimate_the_evidence_are_pooled_as_they_are():
    log_weights = np.zeros((4, 100)) + np.log(np.array([[1.0], [2.0], [3.0], [4.0]]))
    draws = make(kind="direct", log_weights=log_weights, log_evidence=ppl.Estimate(0.0, 0.1))
    pooled = np.exp(draws.pooled_log_weights())
    np.testing.assert_allclose(pooled.sum(axis=1), [0.1, 0.2, 0.3, 0.4])


def test_resampled_draws_are_equally_weighted_draws_of_the_target():
    x = np.random.default_rng(3).normal(size=(2, 4000))
    draws = of_values(
        {"x": x}, kind="direct", log_weights=x.copy(), stats={"lp": x, "loose": np.zeros(3)}
    )
    equal = draws.resample(0, 3000)
    assert equal.log_weights is None
    assert (equal.num_chains, equal.num_samples) == (1, 3000)
    assert equal["x"].mean() == pytest.approx(1, abs=0.1)
    np.testing.assert_array_equal(equal["x"], x.ravel()[equal.stats["ancestor"]])
    np.testing.assert_array_equal(equal.stats["lp"], equal["x"])
    assert "loose" not in equal.stats
    assert equal.run.kind == "resampled"
    assert "unique ancestors of 8000" in equal.run.notes[-1]
    assert draws.run.notes == []


def test_resampling_is_reproducible_and_takes_every_form_of_key():
    draws = make()
    one = draws.resample(3, 40).stats["ancestor"]
    np.testing.assert_array_equal(draws.resample(jax.random.key(3), 40).stats["ancestor"], one)
    np.testing.assert_array_equal(draws.resample(jax.random.PRNGKey(3), 40).stats["ancestor"], one)
    assert (draws.resample(4, 40).stats["ancestor"] != one).any()


def test_draws_without_weights_are_taken_without_replacement():
    ancestors = make().resample(0, 1000).stats["ancestor"]
    assert set(np.bincount(ancestors.ravel(), minlength=400)) == {2, 3}
    assert len(np.unique(make().resample(0, 400).stats["ancestor"])) == 400


def test_dead_weights_are_never_resampled():
    log_weights = np.random.default_rng(4).normal(size=(4, 100))
    log_weights[:, 50:] = DEAD
    log_weights[0, 0] = math.nan
    ancestors = make(kind="direct", log_weights=log_weights).resample(0, 5000).stats["ancestor"]
    assert (ancestors % 100 < 50).all()
    assert (ancestors != 0).all()
    with pytest.raises(ValueError, match="none of 400 draws has weight"):
        make(kind="direct", log_weights=np.full((4, 100), DEAD)).resample(0, 5)
    with pytest.raises(ValueError, match="n must be at least 1; got 0"):
        make().resample(0, 0)


# ArviZ ----------------------------------------------------------------------------------------


def schools(sigma, y=None):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    with numpyro.plate("school", 3):
        theta = numpyro.sample("theta", dist.Normal(mu, 1))
        numpyro.deterministic("shifted/theta", theta + 1)
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def flat_prior(y):
    mu = numpyro.sample("mu", dist.ImproperUniform(dist.constraints.real, (), ()))
    numpyro.sample("y", dist.Normal(mu, 1), obs=y)


@pytest.fixture(scope="module")
def school_draws():
    data = np.array([1.0, 2.0, 3.0], np.float32)
    model = ppl.from_numpyro(schools, np.float32(1.0), y=data)
    model = model.with_coords({"school": ["A", "B", "C"]})
    rng = np.random.default_rng(5)
    where = {name: rng.normal(size=(2, 20, *leaf.shape)) for name, leaf in model.template.items()}
    where = {name: x.astype(np.float32) for name, x in where.items()}
    return make(where, target=model, stats={"lp": np.zeros((2, 20), np.float32)})


def test_a_numpyro_target_gives_every_group_that_arviz_knows(school_draws):
    tree = school_draws.to_arviz()
    assert set(tree.children) == {
        "posterior",
        "sample_stats",
        "prior",
        "prior_predictive",
        "log_likelihood",
        "posterior_predictive",
        "observed_data",
    }
    assert dict(tree["posterior_predictive"]["y"].sizes) == {"chain": 2, "draw": 20, "school": 3}
    assert dict(tree["log_likelihood"]["y"].sizes) == {"chain": 2, "draw": 20, "school": 3}
    assert list(tree["posterior"]["school"].to_numpy()) == ["A", "B", "C"]
    np.testing.assert_array_equal(tree["observed_data"]["y"], [1, 2, 3])
    theta, y = school_draws["theta"], np.array([1.0, 2.0, 3.0])
    expected = -0.5 * (y - theta) ** 2 - 0.5 * math.log(2 * math.pi)
    np.testing.assert_allclose(tree["log_likelihood"]["y"], expected, rtol=1e-5)
    prior = tree["prior"]
    assert dict(prior.sizes) == {"chain": 1, "draw": 1000, "school": 3}
    assert set(tree["prior_predictive"].data_vars) == {"y"}


def test_names_that_xarray_refuses_are_changed_in_the_tree_only(school_draws):
    tree = school_draws.to_arviz()
    assert set(tree["posterior"].data_vars) == {"mu", "theta", "shifted.theta"}
    assert set(tree["prior"].data_vars) == {"mu", "theta", "shifted.theta"}
    assert school_draws.names == ["mu", "theta", "shifted/theta"]


def test_a_value_called_like_an_axis_is_changed_in_the_tree_only():
    draws = of_values({"city": np.ones((2, 3, 4)), "draw": np.zeros((2, 3))})
    draws.with_labels({"city": ["city"]}, {"city": np.arange(4)})
    posterior = draws.to_arviz()["posterior"]
    assert set(posterior.data_vars) == {"city_", "draw_"}
    assert posterior["city_"].dims == ("chain", "draw", "city")


def test_rows_of_the_summary_carry_the_labels_of_the_model(school_draws):
    assert list(school_draws.summary("theta").index) == ["theta[A]", "theta[B]", "theta[C]"]


def test_arviz_computes_loo_from_the_tree(school_draws):
    import arviz

    with pytest.warns(UserWarning, match="Pareto"):
        assert np.isfinite(arviz.loo(school_draws.to_arviz()).elpd)


def test_large_groups_hold_evenly_spaced_draws(school_draws):
    tree = school_draws.to_arviz(max_bytes=4 * 3 * 2 * 10)
    group = tree["posterior_predictive"]
    np.testing.assert_array_equal(group["draw"], np.arange(0, 20, 2))
    assert group.attrs["thinned_by"] == 2
    assert tree["posterior"].sizes["draw"] == 20


def test_a_group_that_the_model_cannot_compute_is_left_out_with_a_warning(school_draws):
    class Broken:
        offers = frozenset({"posterior_predictive"})
        observed_data = {"y": np.zeros(3)}
        dims: dict = {}
        coords: dict = {}
        template = school_draws.target.template
        outputs = school_draws.target.outputs

        def posterior_predictive(self, rng_key, values):
            raise RuntimeError("no such luck")

    draws = make(school_draws.positions, target=Broken())
    with pytest.warns(UserWarning, match="no posterior_predictive: .* no such luck"):
        tree = draws.to_arviz()
    assert "posterior_predictive" not in tree.children
    assert "observed_data" in tree.children


def test_an_improper_prior_lacks_the_prior_groups_only():
    model = ppl.from_numpyro(flat_prior, np.zeros(2, np.float32))
    tree = make({"mu": np.zeros((1, 5), np.float32)}, target=model).to_arviz()
    assert "prior" not in tree.children
    assert "prior_predictive" not in tree.children
    assert {"log_likelihood", "posterior_predictive"} <= set(tree.children)


def test_a_target_without_data_gives_posterior_and_statistics():
    tree = make(stats={"diverging": np.zeros((4, 100), bool)}).to_arviz()
    assert set(tree.children) == {"posterior", "sample_stats"}


def test_weighted_draws_are_resampled_for_arviz_and_kept_as_they_are():
    rng = np.random.default_rng(6)
    draws = make(kind="direct", log_weights=3 * rng.normal(size=(4, 100)))
    tree = draws.to_arviz()
    unique = tree["posterior"].attrs["unique_ancestors"]
    assert unique == len(np.unique(tree["posterior"]["tau"].to_numpy()))
    assert f"{unique} unique ancestors" in tree["posterior"].attrs["weighting"]
    np.testing.assert_array_equal(tree["weighted_posterior"]["tau"], draws["tau"])
    np.testing.assert_array_equal(tree["sample_stats"]["log_weight"], draws.log_weights)
    dead = make(kind="direct", log_weights=np.full((4, 100), DEAD)).to_arviz()
    assert dead["posterior"].attrs["weighting"].startswith("none: no draw has weight")


# Files ----------------------------------------------------------------------------------------


def _nested():
    leaf = np.arange(24, dtype=np.float32).reshape(2, 4, 3)
    return {"a": {"b": leaf, "c": [leaf[..., 0], (leaf[..., 1],)]}, "d": None, "z": leaf[..., 2]}


KINDS = {
    "chains": lambda: make(
        stats={"diverging": np.eye(4, 100, dtype=bool), "n_steps": np.ones((4, 100), np.int32)}
    ),
    "no draws": lambda: make(positions(draws=0), stopped="interrupted"),
    "weighted": lambda: make(
        kind="particle",
        log_weights=np.where(np.eye(4, 100), DEAD, 0.5).astype(np.float32),
        log_evidence=ppl.Estimate(1.5, 0.25, -2.0, None),
        history={"ess": np.ones((4, 7)), "loss": np.array([[math.nan, 1.0]])},
        stats={"loose": np.arange(5)},
    ),
    "nested": lambda: make(_nested(), values={"a.b": np.ones((2, 4)), "x0": np.zeros((2, 4, 0))}),
    "bare": lambda: make(np.zeros((2, 3, 4)), values={"x": np.full((2, 3), DEAD)}),
    "numbers": lambda: make(
        [np.zeros((2, 3), np.int8), np.ones((2, 3), bool)],
        values={
            "flag": np.ones((2, 3), bool),
            "complex": np.full((2, 3), 1 + 2j, np.complex64),
            "half": np.ones((2, 3), np.float16),
            "chain": np.arange(6).reshape(2, 3),
            "with/slash": np.zeros((2, 3)),
        },
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_draws_come_back_from_a_file_as_they_were(kind, tmp_path):
    draws = KINDS[kind]()
    draws.save(tmp_path / "draws.nc")
    back = ppl.load(tmp_path / "draws.nc")
    assert isinstance(back, Draws)
    assert jax.tree.structure(back.positions) == jax.tree.structure(draws.positions)
    for one, other in zip(
        jax.tree.leaves(draws.positions), jax.tree.leaves(back.positions), strict=True
    ):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype
    for mine, theirs in (
        (draws.values, back.values),
        (draws.stats, back.stats),
        (draws.history, back.history),
    ):
        assert set(mine) == set(theirs)
        for name, value in mine.items():
            np.testing.assert_array_equal(value, theirs[name])
            assert value.dtype == theirs[name].dtype
    assert back.names == draws.names
    assert (back.log_weights is None) == (draws.log_weights is None)
    np.testing.assert_array_equal(back.log_weights, draws.log_weights)
    assert back.log_evidence == draws.log_evidence
    assert back.num_evaluations == draws.num_evaluations
    assert back.run == draws.run
    assert back.target is None


def test_a_file_keeps_the_groups_and_labels_of_the_model(school_draws, tmp_path):
    school_draws.save(tmp_path / "draws.nc")
    back = ppl.load(tmp_path / "draws.nc")
    tree, again = school_draws.to_arviz(), back.to_arviz()
    assert set(again.children) == set(tree.children)
    for name in tree.children:
        assert again[name].dataset.equals(tree[name].dataset)
    assert list(back.summary().index) == list(school_draws.summary().index)
    back.save(tmp_path / "again.nc")
    assert set(ppl.load(tmp_path / "again.nc").to_arviz().children) == set(tree.children)


def test_arviz_opens_the_file_itself(tmp_path):
    import arviz

    make().save(tmp_path / "draws.nc")
    tree = arviz.from_netcdf(tmp_path / "draws.nc")
    assert tree["posterior"]["mu"].shape == (4, 100, 3)
    tree.close()


def test_a_full_disk_leaves_nothing_half_written(monkeypatch, tmp_path):
    path = tmp_path / "draws.nc"
    make(sampler_name="first").save(path)

    def full(tree, temporary):
        temporary.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(datatree, "write_netcdf", full)
    with pytest.raises(OSError, match="could not save draws to .*No space left") as caught:
        make(sampler_name="second").save(path)
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(OSError, match="Nothing was written under that name"):
        make().save(tmp_path / "other.nc")
    assert [p.name for p in tmp_path.iterdir()] == ["draws.nc"]
    assert ppl.load(path).run.sampler_name == "first"


def test_ctrl_c_while_saving_leaves_nothing_half_written(monkeypatch, tmp_path):
    def stopped(tree, temporary):
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(datatree, "write_netcdf", stopped)
    with pytest.raises(KeyboardInterrupt):
        make().save(tmp_path / "draws.nc")
    assert list(tmp_path.iterdir()) == []


def test_saving_refuses_a_folder_and_a_missing_folder(tmp_path):
    with pytest.raises(IsADirectoryError, match="it is a directory; name a file"):
        make().save(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere"):
        make().save(tmp_path / "nowhere" / "draws.nc")


def test_loading_says_what_is_wrong_with_a_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no draws at .*: it does not exist"):
        ppl.load(tmp_path / "none.nc")
    (tmp_path / "text.nc").write_text("not a file of draws")
    with pytest.raises(ValueError, match="is no NetCDF file"):
        ppl.load(tmp_path / "text.nc")
    xarray.DataTree.from_dict({"/posterior": xarray.Dataset()}).to_netcdf(
        tmp_path / "other.nc", engine="h5netcdf"
    )
    with pytest.raises(ValueError, match="was not written by draws.save"):
        ppl.load(tmp_path / "other.nc")


def test_loading_a_newer_format_asks_for_an_upgrade(monkeypatch, tmp_path):
    make().save(tmp_path / "draws.nc")
    monkeypatch.setattr(datatree, "FORMAT", 0)
    with pytest.raises(ValueError, match="has format 1, this version reads up to 0"):
        ppl.load(tmp_path / "draws.nc")


def test_loading_a_folder_reads_a_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        ppl.load(tmp_path)


# Targets of loaded draws ----------------------------------------------------------------------


def test_loaded_draws_take_their_target_back(tmp_path):
    draws = make()
    draws.save(tmp_path / "draws.nc")
    goal = target()
    back = ppl.load(tmp_path / "draws.nc").attach(goal)
    assert back.target is goal
    np.testing.assert_array_equal(back["tau"], draws["tau"])


def test_attaching_restores_positions_that_are_no_dicts(tmp_path):
    class Point(tuple):
        pass

    jax.tree_util.register_pytree_node(Point, lambda p: (list(p), None), lambda _, c: Point(c))
    zeros = np.zeros((2, 3), np.float32)
    make(Point([zeros, zeros + 1]), values={"x": zeros}, target=None).save(tmp_path / "draws.nc")
    back = ppl.load(tmp_path / "draws.nc")
    assert isinstance(back.positions, list)

    class Model:
        template = Point([jax.ShapeDtypeStruct((), jnp.float32)] * 2)

    assert isinstance(back.attach(Model()).positions, Point)


def test_attaching_another_target_is_refused():
    one = ppl.from_log_density(lambda x: -jnp.sum(x**2), jnp.zeros(3))
    two = ppl.from_log_density(
        lambda p: -jnp.sum(p["mu"] ** 2), {"mu": jnp.zeros(4), "tau": jnp.zeros(())}
    )
    with pytest.raises(ppl.TargetError, match="2 arrays a position, the target has 1"):
        make().attach(one)
    with pytest.raises(ppl.TargetError, match="'mu' should have shape .4,., got .3,."):
        make().attach(two)


def test_draws_without_values_and_target_say_how_to_get_them():
    with pytest.raises(ValueError, match=r"write draws.attach\(target\)"):
        make(target=None)["mu"]
