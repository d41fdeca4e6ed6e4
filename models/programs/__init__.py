"""NumPyro models with their data, one model a file.

Each module has ``model``, a plain NumPyro function; ``data()``, its arguments by name; ``dims`` and
``coords``, the names of the axes of its sites and of their entries (those of ``data()``; an axis
made by a plate carries the plate's name and is not repeated in ``dims``). ``POSTERIORDB`` maps the
cases of posteriordb, whose posteriors are known from long reference runs, to their modules.
"""

POSTERIORDB = {
    "arK-arK": "ark",
    "arma-arma11": "arma11",
    "earnings-logearn_height": "logearn_height",
    "eight_schools-eight_schools_noncentered": "eight_schools",
    "garch-garch11": "garch11",
    "gp_pois_regr-gp_pois_regr": "gp_pois_regr",
    "hudson_lynx_hare-lotka_volterra": "lotka_volterra",
    "kidiq-kidscore_momiq": "kidscore_momiq",
    "low_dim_gauss_mix-low_dim_gauss_mix": "low_dim_gauss_mix",
    "mesquite-logmesquite": "logmesquite",
    "nes1980-nes": "nes",
    "sblrc-blr": "blr",
}
