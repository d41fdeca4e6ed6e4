"""Published sampling methods, one file each, and the table that finds them by name.

``samplers.MALA`` imports `samplers.langevin.mala` when it is first used. `table` lists what there
is; a new method gets its module, its test, its row here, and an example.
"""

import difflib
import importlib
from typing import Any, NamedTuple


class Method(NamedTuple):
    """One row of the table.

    ``cost`` is what a draw costs in evaluations of the target. ``tier`` says what to expect:
    ``core`` methods serve any target with good defaults, ``method`` is a published method for
    those who want it, ``research`` may change or go.
    """

    name: str
    title: str
    module: str
    paper: str
    exactness: str
    needs: tuple[str, ...]
    cost: str
    tier: str


class Solver(NamedTuple):
    """One row of the table of solvers, which go into `DiffusionSampler`.

    ``order`` is that of the error in the step size, weak where the solver adds noise; ``cost`` is
    in calls of the denoiser. The test of the order is named after the row.
    """

    name: str
    title: str
    module: str
    paper: str
    order: str
    cost: str
    noise: str
    example: str


_DENSITY = ("log_density",)
_GRADIENT = ("gradient", "log_density")
_INVERSE = ("denoise", "log_likelihood")
_PROXIMAL = ("gradient", "log_density", "proximal_map")

_METHODS = (
    Method("NUTS", "No-U-Turn sampler", "samplers.mcmc.nuts", "arXiv:1111.4246",
           "exact", _GRADIENT, "2^depth - 1 gradients a draw", "core"),
    Method("HMC", "Hamiltonian Monte Carlo", "samplers.mcmc.hmc",
           "doi:10.1016/0370-2693(87)91197-X",
           "exact", _GRADIENT, "trajectory_length / step_size gradients a draw", "core"),
    Method("MCLMC", "Microcanonical Langevin Monte Carlo", "samplers.mcmc.mclmc",
           "arXiv:2303.18221",
           "biased", _GRADIENT, "2 gradients a draw", "core"),
    Method("AdjustedMCLMC", "Metropolis-adjusted microcanonical sampling",
           "samplers.mcmc.adjusted_mclmc", "arXiv:2503.01707",
           "exact", _GRADIENT, "2 gradients a step of the trajectory", "core"),
    Method("ChEES", "ChEES-HMC", "samplers.mcmc.chees", "PMLR 130",
           "exact", _GRADIENT, "trajectory_length / (2 step_size) gradients a draw, in 64 chains",
           "method"),
    Method("MEADS", "Maximum-eigenvalue adaptation of damping and step size",
           "samplers.mcmc.meads", "PMLR 151",
           "exact", _GRADIENT, "1 gradient a draw, in 128 chains", "method"),
    Method("MALA", "Metropolis-adjusted Langevin algorithm", "samplers.langevin.mala",
           "doi:10.2307/3318418",
           "exact", _GRADIENT, "1 gradient a draw", "core"),
    Method("Barker", "Barker's proposal", "samplers.langevin.barker", "arXiv:1908.11812",
           "exact", _GRADIENT, "1 gradient a draw", "core"),
    Method("ULA", "Unadjusted Langevin algorithm", "samplers.langevin.ula", "doi:10.2307/3318418",
           "biased", _GRADIENT, "1 gradient a draw", "method"),
    Method("SGLD", "Stochastic gradient Langevin dynamics", "samplers.langevin.sgld",
           "arXiv:1501.00438",
           "biased", ("log_likelihood_at", "log_prior"), "batch_size / num_data gradients a draw",
           "core"),
    Method("SGHMC", "Stochastic gradient Hamiltonian Monte Carlo", "samplers.langevin.sghmc",
           "arXiv:1402.4102",
           "biased", ("log_likelihood_at", "log_prior"), "batch_size / num_data gradients a draw",
           "core"),
    Method("LogConcaveChain", "Once-at-a-time smoothing", "samplers.langevin.log_concave_chain",
           "arXiv:2305.19473",
           "biased", _DENSITY, "num_measurements (num_steps + 1) denoisers a draw", "method"),
    Method("UnderdampedLangevin", "Underdamped Langevin dynamics", "samplers.langevin.underdamped",
           "arXiv:1203.5428",
           "exact", _GRADIENT, "1 gradient a draw", "core"),
    Method("ProximalMALA", "Proximal Metropolis-adjusted Langevin algorithm",
           "samplers.langevin.proximal_mala", "doi:10.1007/s11222-015-9567-4",
           "exact", _PROXIMAL, "1 gradient and 1 proximal map a draw", "core"),
    Method("MYULA", "Moreau-Yosida unadjusted Langevin algorithm", "samplers.langevin.myula",
           "arXiv:1612.07471",
           "biased", _PROXIMAL, "1 gradient and 1 proximal map a draw", "core"),
    Method("SKROCK", "Stochastic orthogonal Runge-Kutta-Chebyshev method",
           "samplers.langevin.skrock", "arXiv:1908.08845",
           "biased", _GRADIENT, "num_stages + 1 gradients (and proximal maps) a draw", "core"),
    Method("MirrorLangevin", "Mirror Langevin algorithm", "samplers.langevin.mirror",
           "arXiv:2002.04363",
           "biased", _GRADIENT, "1 gradient a draw", "method"),
    Method("BregmanLangevin", "Bregman-Moreau unadjusted mirror-Langevin algorithm",
           "samplers.langevin.bregman", "arXiv:2207.04387",
           "exact", _PROXIMAL, "1 gradient and 1 proximal map a draw", "method"),
    Method("AdamLMC", "Adam Langevin Monte Carlo", "samplers.langevin.adam_lmc",
           "arXiv:2305.18246",
           "biased", _GRADIENT, "1 gradient a draw", "method"),
    Method("DataLangevin", "Langevin from the data", "samplers.langevin.data_langevin",
           "arXiv:2310.01762",
           "biased", ("data",), "num_steps scores a draw", "method"),
    Method("WalkJump", "Discrete walk-jump sampling", "samplers.langevin.walk_jump",
           "arXiv:2306.12360",
           "biased", ("data",), "num_steps gradients of a learned energy a draw, after training",
           "method"),
    Method("WalkJumpGibbs", "Walk-jump sampling as a Gibbs sweep",
           "samplers.langevin.walk_jump_gibbs", "arXiv:2306.12360",
           "exact", _DENSITY,
           "num_steps sums over all sequences a draw, after 1 log-density for each", "method"),
    Method("RandomWalk", "Random-walk Metropolis", "samplers.mcmc.random_walk",
           "doi:10.1063/1.1699114",
           "exact", _DENSITY, "1 log-density a draw", "method"),
    Method("IndependenceMetropolis", "Independence Metropolis-Hastings",
           "samplers.mcmc.independence", "doi:10.1214/aos/1176325750",
           "exact", _DENSITY, "1 draw of its proposal a draw", "method"),
    Method("GibbsianPolarSlice", "Gibbsian polar slice sampling",
           "samplers.mcmc.gibbsian_polar_slice", "arXiv:2302.03945",
           "exact", _DENSITY, "about 6 log-densities a draw", "core"),
    Method("EllipticalSlice", "Elliptical slice sampling", "samplers.mcmc.elliptical_slice",
           "arXiv:1001.0175",
           "exact", ("log_density", "log_parts"), "about 3 log-likelihoods a draw", "core"),
    Method("SequenceMetropolis", "Metropolis-Hastings over sequences",
           "samplers.mcmc.sequence_metropolis", "arXiv:2406.00049",
           "exact", _DENSITY, "1 log-density and length passes of the model a draw", "core"),
    Method("SiteMetropolis", "Metropolis, one discrete value at a time",
           "samplers.mcmc.site_metropolis", "doi:10.1063/1.1699114",
           "exact", _DENSITY, "1 log-density a draw", "core"),
    Method("BackAndForth", "Metropolis-Hastings over objects built move by move",
           "samplers.gflownet.back_and_forth", "arXiv:2310.02710",
           "exact", _DENSITY, "1 log-density and passes along two paths a draw", "method"),
    Method("Gibbs", "Gibbs sampling", "samplers.mcmc.gibbs", "doi:10.1109/TPAMI.1984.4767596",
           "exact", _DENSITY,
           "a draw of each block's kernel, and 1 log-density for each value of a discrete site",
           "core"),
    Method("ParallelTempering", "Parallel tempering", "samplers.mcmc.parallel_tempering",
           "arXiv:1905.02939",
           "exact", _DENSITY, "a move at each temperature a draw", "core"),
    Method("ImportanceSampling", "Importance sampling from the prior", "samplers.smc.importance",
           "doi:10.1007/978-1-4757-4145-2",
           "asymptotically exact", ("log_likelihood",), "1 log-likelihood a particle", "method"),
    Method("TemperedSMC", "Tempered sequential Monte Carlo", "samplers.smc.tempered",
           "doi:10.1111/j.1467-9868.2006.00553.x",
           "asymptotically exact", _DENSITY, "some tens of gradients a particle and temperature",
           "core"),
    Method("WasteFreeSMC", "Waste-free SMC", "samplers.smc.waste_free", "arXiv:2011.02328",
           "asymptotically exact", _DENSITY, "a few gradients a particle and temperature",
           "method"),
    Method("PersistentSMC", "Persistent sampling", "samplers.smc.persistent", "arXiv:2407.20722",
           "asymptotically exact", _DENSITY, "some tens of gradients a particle and temperature",
           "method"),
    Method("AIS", "Annealed importance sampling", "samplers.smc.annealed", "arXiv:physics/9803008",
           "asymptotically exact", _DENSITY, "num_temperatures trajectories a particle", "core"),
    Method("TwistedSMC", "Twisted sequential Monte Carlo", "samplers.smc.twisted",
           "arXiv:2404.17546",
           "asymptotically exact", ("log_likelihood",),
           "length passes of the model, 1 reward (length if sequences end early), after training",
           "core"),
    Method("NestedSampling", "Nested slice sampling", "samplers.smc.nested", "arXiv:2601.23252",
           "asymptotically exact", _DENSITY, "some tens of log-densities a draw", "core"),
    Method("RejectionSampling", "Rejection sampling", "samplers.smc.rejection",
           "doi:10.1007/978-1-4613-8643-8",
           "exact", ("log_likelihood",), "B / Z log-likelihoods a draw", "method"),
    Method("ParticleFilter", "Particle filter", "samplers.smc.particle_filter",
           "doi:10.1049/ip-f-2.1993.0015",
           "asymptotically exact", ("state_space",),
           "1 transition and observation a particle and time", "core"),
    Method("ConditionalSMC", "Conditional sequential Monte Carlo", "samplers.smc.conditional",
           "arXiv:1401.0604",
           "exact", ("state_space",), "num_particles log-densities of a path a draw", "core"),
    Method("ParticleMetropolis", "Particle marginal Metropolis-Hastings",
           "samplers.smc.particle_metropolis", "doi:10.1111/j.1467-9868.2009.00736.x",
           "exact", ("state_space",), "num_particles log-densities of a path a draw", "core"),
    Method("ReverseDiffusionMC", "Reverse diffusion Monte Carlo",
           "samplers.diffusion.reverse_diffusion_mc", "arXiv:2307.02037",
           "biased", _DENSITY, "num_steps estimates a draw, of some hundred log-densities each",
           "method"),
    Method("SchrodingerFollmer", "Schrödinger-Föllmer sampler",
           "samplers.diffusion.schrodinger_follmer", "arXiv:2106.10880",
           "biased", _DENSITY,
           "num_steps estimates a draw, of some hundred log-densities each; or an ensemble for all",
           "method"),
    Method("GaussianVI", "Gaussian variational inference", "samplers.variational.gaussian",
           "arXiv:1603.00788",
           "asymptotically exact", _GRADIENT,
           "num_draws gradients an update, then 1 log-density a draw", "method"),
    Method("Pathfinder", "Multi-path Pathfinder", "samplers.variational.pathfinder",
           "arXiv:2108.03782",
           "asymptotically exact", _GRADIENT,
           "some hundred gradients a run, then 1 log-density a draw", "core"),
    Method("Laplace", "Laplace approximation", "samplers.variational.laplace",
           "doi:10.1080/01621459.1986.10478240",
           "asymptotically exact", _GRADIENT,
           "some hundred gradients and a Hessian a run, then 1 log-density a draw", "core"),
    Method("MAP", "Maximum a posteriori", "samplers.variational.map", "doi:10.1007/BF01589116",
           "biased", _GRADIENT, "some hundred gradients a run", "method"),
    Method("DiffusionSampler", "Sampling a diffusion prior", "samplers.diffusion.sampler",
           "arXiv:2011.13456",
           "biased", ("denoise",),
           "num_steps denoisers a draw, twice or three times as many for some solvers", "core"),
    Method("FKSteering", "Feynman-Kac steering", "samplers.diffusion.steering.fk_steering",
           "arXiv:2501.06848",
           "asymptotically exact", ("denoise", "log_likelihood"),
           "num_steps denoisers and rewards a particle", "core"),
    Method("FKCorrector", "Feynman-Kac correctors", "samplers.diffusion.steering.fk_corrector",
           "arXiv:2503.02819",
           "asymptotically exact", ("denoise",), "num_steps denoisers of each prior a particle",
           "core"),
    Method("TDS", "Twisted diffusion sampler", "samplers.diffusion.steering.tds",
           "arXiv:2306.17775",
           "asymptotically exact", ("denoise", "log_likelihood"),
           "num_steps denoisers with gradient a particle", "core"),
    Method("SVDD", "Soft value-based decoding", "samplers.diffusion.steering.svdd",
           "arXiv:2408.08252",
           "biased", ("denoise", "log_likelihood"),
           "num_candidates num_steps denoisers and rewards a draw", "method"),
    Method("NestedSVDD", "Nested soft value-based decoding",
           "samplers.diffusion.steering.nested_svdd", "arXiv:2408.08252",
           "asymptotically exact", ("denoise", "log_likelihood"),
           "num_candidates num_steps denoisers and rewards a particle", "method"),
    Method("Guidance", "Energy guidance", "samplers.diffusion.steering.guidance",
           "arXiv:2209.14687",
           "biased", ("denoise", "log_likelihood"), "num_steps denoisers with gradient a draw",
           "method"),
    Method("DenoisingDiffusion", "Denoising diffusion training", "samplers.diffusion.training",
           "arXiv:2006.11239",
           "biased", ("data",), "num_rows denoisers an update, then those of its solver a draw",
           "core"),
    Method("MaskedDiffusion", "Masked diffusion training", "samplers.diffusion.masked.training",
           "arXiv:2406.03736",
           "biased", ("data",), "num_rows networks an update, then those of its solver a draw",
           "core"),
    Method("FirstHitting", "First-hitting sampler", "samplers.diffusion.masked.first_hitting",
           "arXiv:2409.02908",
           "exact", ("unmask",), "a network for each token of a draw", "core"),
    Method("MaskedAncestral", "Ancestral sampling of masked diffusion",
           "samplers.diffusion.masked.ancestral", "arXiv:2406.03736",
           "biased", ("unmask",), "a network for each step of a draw that reveals a token",
           "method"),
    Method("MaskedFKSteering", "Feynman-Kac steering of masked diffusion",
           "samplers.diffusion.masked.fk_steering", "arXiv:2501.06848",
           "asymptotically exact", ("unmask", "log_likelihood"),
           "a network and a reward for each token of a particle", "method"),
    Method("MaskedSVDD", "Soft value-based decoding of masked diffusion",
           "samplers.diffusion.masked.svdd", "arXiv:2408.08252",
           "biased", ("unmask", "log_likelihood"),
           "num_candidates networks and rewards for each token of a draw", "method"),
    Method("MaskedNestedSVDD", "Nested soft value-based decoding of masked diffusion",
           "samplers.diffusion.masked.nested_svdd", "arXiv:2408.08252",
           "asymptotically exact", ("unmask", "log_likelihood"),
           "num_candidates networks and rewards for each token of a particle", "method"),
    Method("StochasticInterpolant", "Stochastic interpolants", "samplers.diffusion.interpolants",
           "arXiv:2303.08797",
           "biased", ("data",), "num_rows pairs of networks an update, then 2 num_steps a draw",
           "method"),
    Method("PIS", "Path integral sampler", "samplers.trajectory.pis", "arXiv:2111.15141",
           "asymptotically exact", _GRADIENT,
           "num_paths (num_steps + 1) gradients an update, then num_steps + 1 a draw", "core"),
    Method("DDS", "Denoising diffusion sampler", "samplers.trajectory.dds", "arXiv:2302.13834",
           "asymptotically exact", _GRADIENT,
           "num_paths (num_steps + 1) gradients an update, then num_steps + 1 a draw", "core"),
    Method("DIS", "Time-reversed diffusion sampler", "samplers.trajectory.dis", "arXiv:2211.01364",
           "asymptotically exact", _GRADIENT,
           "num_paths (num_steps + 1) gradients an update, then num_steps + 1 a draw", "method"),
    Method("CMCD", "Controlled Monte Carlo diffusions", "samplers.trajectory.cmcd",
           "arXiv:2307.01050",
           "asymptotically exact", _GRADIENT,
           "num_paths (num_steps + 1) gradients an update, then num_steps + 1 a draw", "core"),
    Method("DGFS", "Diffusion generative flow samplers", "samplers.trajectory.dgfs",
           "arXiv:2310.02679",
           "asymptotically exact", _GRADIENT,
           "num_paths (num_steps + 1) gradients an update, then num_steps + 1 a draw", "method"),
    Method("SCLD", "Sequential controlled Langevin diffusions", "samplers.trajectory.scld",
           "arXiv:2412.07081",
           "asymptotically exact", _GRADIENT,
           "num_segments (steps_per_segment + 4) gradients a particle, in updates and draws",
           "method"),
    Method("ASBS", "Adjoint Schroedinger bridge sampler", "samplers.trajectory.asbs",
           "arXiv:2506.22565",
           "asymptotically exact", _GRADIENT,
           "num_paths / every gradients an update, then 1 log-density a draw", "method"),
    Method("AdjointSampling", "Adjoint sampling", "samplers.trajectory.adjoint",
           "arXiv:2504.11713",
           "asymptotically exact", _GRADIENT,
           "num_paths / every gradients an update, then 1 log-density a draw", "method"),
    Method("GFlowNet", "Generative flow networks", "samplers.gflownet.gflownet",
           "arXiv:2106.04399",
           "asymptotically exact", ("environment",),
           "1 log-density a draw, after num_paths of them an update", "core"),
    Method("PiGDM", "Pseudoinverse-guided diffusion", "samplers.diffusion.inverse.pigdm",
           "ICLR 2023",
           "biased", _INVERSE, "1 denoiser, 1 transposed derivative and 1 linear equation a step",
           "core"),
    Method("TMPD", "Tweedie moment projected diffusion", "samplers.diffusion.inverse.tmpd",
           "arXiv:2310.06721",
           "biased", _INVERSE,
           "1 denoiser and 3 + max_cg_steps transposed derivatives at most a step", "core"),
    Method("DPS", "Diffusion posterior sampling", "samplers.diffusion.inverse.dps",
           "arXiv:2209.14687",
           "biased", _INVERSE, "1 denoiser and 1 transposed derivative a step", "core"),
    Method("DiffPIR", "Plug-and-play restoration by a diffusion prior",
           "samplers.diffusion.inverse.diffpir", "arXiv:2305.08995",
           "biased", _INVERSE, "1 denoiser and 1 linear equation a step", "core"),
    Method("DecomposedDiffusion", "Decomposed diffusion sampling",
           "samplers.diffusion.inverse.decomposed", "arXiv:2303.05754",
           "biased", _INVERSE, "1 denoiser a step", "core"),
    Method("DDRM", "Denoising diffusion restoration models", "samplers.diffusion.inverse.ddrm",
           "arXiv:2201.11793",
           "biased", _INVERSE, "1 denoiser a step", "core"),
    Method("DAPS", "Decoupled annealing posterior sampling", "samplers.diffusion.inverse.daps",
           "arXiv:2407.01521",
           "biased", _INVERSE, "num_ode_steps denoisers a step", "core"),
    Method("PnPDM", "Plug-and-play diffusion models", "samplers.diffusion.inverse.pnpdm",
           "arXiv:2405.18782",
           "biased", _INVERSE, "num_inner_steps denoisers a step", "core"),
    Method("REDDiff", "Regularization by denoising diffusion",
           "samplers.diffusion.inverse.reddiff", "arXiv:2305.04391",
           "biased", _INVERSE, "1 denoiser a step", "method"),
    Method("STSL", "Second-order Tweedie sampler from surrogate loss",
           "samplers.diffusion.inverse.stsl", "arXiv:2312.00852",
           "biased", _INVERSE, "some denoisers and derivatives of them a step", "method"),
    Method("MCGDiff", "Monte Carlo guided diffusion", "samplers.diffusion.inverse.mcgdiff",
           "arXiv:2308.07983",
           "asymptotically exact", _INVERSE, "num_particles denoisers a step", "core"),
    Method("FPSSMC", "Filtering posterior sampling", "samplers.diffusion.inverse.fpssmc",
           "ICLR 2024",
           "biased", _INVERSE, "num_particles denoisers a step", "method"),
    Method("ExactDraws", "Exact draws", "samplers.direct", "",
           "exact", ("sample",), "none", "core"),
)  # fmt: skip

_IN = "samplers.diffusion.solvers."
_SOLVERS = (
    Solver("DDIM", "Denoising diffusion implicit models", _IN + "ddim", "arXiv:2010.02502",
           "1", "1 a step", "none, or by eta and variance", "DDIM()"),
    Solver("DDPM", "Denoising diffusion probabilistic models", _IN + "ddim", "arXiv:2006.11239",
           "1", "1 a step", "that of the reverse diffusion", "DDPM()"),
    Solver("DPMSolver", "DPM-Solver", _IN + "dpm", "arXiv:2206.00927",
           "2 or 3", "order a step", "none", "DPMSolver(order=2)"),
    Solver("DPMSolverPP", "DPM-Solver++", _IN + "dpm_pp", "arXiv:2211.01095",
           "2 or 3", "1 a step", "none, or by tau", "DPMSolverPP(order=2)"),
    Solver("DPMSolverPPSingle", "DPM-Solver++", _IN + "dpm_pp", "arXiv:2211.01095",
           "2 or 3", "order a step", "none", "DPMSolverPPSingle(order=2)"),
    Solver("DEIS", "Diffusion exponential integrator sampler", _IN + "deis", "arXiv:2204.13902",
           "1 to 4", "1 a step", "none", "DEIS(order=4)"),
    Solver("IPNDM", "iPNDM", _IN + "deis", "arXiv:2204.13902",
           "2 at most", "1 a step", "none", "IPNDM()"),
    Solver("UniPC", "UniPC", _IN + "unipc", "arXiv:2302.04867",
           "2 to 5", "1 a step", "none", "UniPC(order=3)"),
    Solver("SASolver", "SA-Solver", _IN + "sa", "arXiv:2309.05019",
           "2 with noise", "1 a step", "by tau, in a window", "SASolver()"),
    Solver("ERSDE", "ER-SDE", _IN + "er_sde", "arXiv:2309.06169",
           "1 to 3 without noise", "1 a step", "by phi", "ERSDE()"),
    Solver("Heun", "Heun's method", _IN + "edm", "arXiv:2206.00364",
           "2", "2 a step", "none, or churn", "Heun()"),
    Solver("DPM2", "Midpoint rule", _IN + "edm", "arXiv:2206.00364",
           "2", "2 a step", "none", "DPM2()"),
    Solver("Restart", "Restart sampling", _IN + "restart", "arXiv:2306.14878",
           "2", "2 a step, and the intervals", "at restarts", "Restart()"),
    Solver("GradientEstimation", "Gradient estimation", _IN + "gradient_estimation",
           "arXiv:2306.04848", "1", "1 a step", "none", "GradientEstimation()"),
    Solver("HB", "Heavy-ball momentum", _IN + "momentum", "arXiv:2307.11118",
           "1", "1 a step", "none", "HB()"),
    Solver("GHVB", "Generalized heavy-ball velocity", _IN + "momentum", "arXiv:2307.11118",
           "2 at most", "1 a step", "none", "GHVB()"),
    Solver("AcceleratedDDIM", "Accelerated DDIM", _IN + "accelerated", "arXiv:2403.03852",
           "2", "2 a step, but for the first", "none", "AcceleratedDDIM()"),
    Solver("EDICT", "Exact diffusion inversion via coupled transformations", _IN + "edict",
           "arXiv:2211.12446", "1", "2 a step", "none", "EDICT()"),
    Solver("BDIA", "Bi-directional integration approximation", _IN + "bdia", "arXiv:2307.10829",
           "2", "1 a step", "none", "BDIA()"),
)  # fmt: skip

_ALIASES = {
    "AdjustedMCHMC": "AdjustedMCLMC",
    "ADVI": "GaussianVI",
    "BootstrapFilter": "ParticleFilter",
    "GHMC": "MEADS",
    "GuidedFilter": "ParticleFilter",
    "LangevinMonteCarlo": "ULA",
    "LMC": "ULA",
    "MAMS": "AdjustedMCLMC",
    "ParticleGibbs": "ConditionalSMC",
    "PGAS": "ConditionalSMC",
    "PMMH": "ParticleMetropolis",
    "PMALA": "ProximalMALA",
    "ReplicaExchange": "ParallelTempering",
    "RWM": "RandomWalk",
    "VAS": "TwistedSMC",
}

# What goes into the fields of samplers and into `init=`.
_PARTS = {
    name: module
    for module, names in {
        "samplers.mcmc.metrics": "Identity Diagonal Dense LowRank",
        "samplers.mcmc.pathfinder_start": "PathfinderStart",
        "samplers.equivariant": "EGNN",
        "samplers.networks": "MLP UNet",
        "samplers.langevin.mirror_maps": "BoxBarrier Euclidean Hyperbolic LogBarrier",
        "samplers.gflownet.policies":
            "DeepSetsPolicy LearnedBackward MaxEntBackward MLPPolicy TabularPolicy "
            "TransformerPolicy UniformBackward",
        "samplers.gflownet.mixture_policy": "MixturePolicy",
        "samplers.gflownet.revisit": "Revisit",
        "samplers.gflownet.paths": "built",
        "samplers.trajectory.objectives":
            "DetailedBalance ForwardKL ReverseKL SubTrajectoryBalance TrajectoryBalance VarGrad",
        "samplers.trajectory.additive": "AdditiveMLP",
        "samplers.trajectory.replay": "ByRank ByReward LocalSearch Replay",
        "samplers.diffusion.schrodinger_follmer": "FollmerEnsemble FollmerGradient FollmerStein",
        "samplers.diffusion.posterior_means": "InnerImportance InnerLangevin InnerRecursive",
        "samplers.diffusion.prior": "DiffusionPrior",
        "samplers.diffusion.masked.prior": "MaskedPrior",
        "samplers.diffusion.masked.network": "MaskedTransformer",
        "samplers.diffusion.interpolants":
            "InterpolantPrior LinearInterpolant TrigonometricInterpolant",
        "samplers.diffusion.pretrained": "crops_prior digits_prior",
        "samplers.diffusion.steering.mixture": "ExactReverse MixtureDenoiser",
        "samplers.diffusion.steering.composed": "compose",
        "samplers.diffusion.steering.potentials": "Potential",
        "samplers.diffusion.inversion": "Inversion",
        "samplers.diffusion.density": "ProbabilityFlow",
        "samplers.diffusion.paths":
            "EDM MeanReverting PFGM StraightFlow SubVP VE VPCosine VPLinear",
        "samplers.diffusion.conversions":
            "PredictsDenoised PredictsNoise PredictsScore PredictsV PredictsVelocity",
        "samplers.diffusion.losses":
            "EDMWeight LogNormalNoise LogitNormalTime MinSNR Preconditioned UniformTime",
        "samplers.diffusion.rules": "DualFast NoiseScaling Thresholding TimeShift",
        "samplers.diffusion.fitted_schedules": "AlignYourSteps GITS",
        "samplers.diffusion.error_curve": "ErrorCurve",
        "samplers.diffusion.schedules":
            "Arctan BetaSchedule EDMSchedule InformationUniform LogSNRUniform TimeQuadratic "
            "TimeUniform",
        "samplers.langevin.proximal_maps":
            "Box GroupL2 L1 NuclearNorm Quadratic Simplex TotalVariation1D TotalVariation2D",
    }.items()
    for name in names.split()
}  # fmt: skip

_MODULES = {row.name: row.module for row in (*_METHODS, *_SOLVERS)} | _PARTS

__all__ = ["Method", "Solver", "solvers", "table", *_MODULES]  # pyright: ignore[reportUnsupportedDunderAll]


def table() -> tuple[Method, ...]:
    """Every method of the library, in the order of the documentation."""
    return _METHODS


def solvers() -> tuple[Solver, ...]:
    """Every solver of the reverse equation of a diffusion prior."""
    return _SOLVERS


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    message = f"module 'samplers' has no attribute {name!r}"
    if name in _ALIASES:
        message += f"; that method is samplers.{_ALIASES[name]}"
    elif not name.startswith("__"):
        known = {known.lower(): known for known in (*_MODULES, *_ALIASES)}
        near = difflib.get_close_matches(name.lower(), known, n=1)
        if near:
            nearest = known[near[0]]
            message += f"; did you mean samplers.{_ALIASES.get(nearest, nearest)}?"
    raise AttributeError(message)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
