"""The section about an image seen through an operator: its pictures, and words about the misfit."""

import base64
import re
import zlib

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import ppl
from ppl.report.page import report
from ppl.report.pictures import png
from report_pages import Page, make_draws


def made(scale, **changes):
    template = jnp.zeros((12, 16))
    prior = dist.Normal(template, 1.0).to_event(2)
    likelihood = ppl.LinearGaussian(lambda x: x, template, 1.0, template=template)
    x = scale * np.random.default_rng(0).normal(size=(1, 99, 12, 16)).astype(np.float32)
    return make_draws({"x": x}, target=ppl.posterior(prior, likelihood), **changes)


@pytest.fixture
def page(tmp_path, unoptimized):
    def write(draws, **options):
        text = report(draws, tmp_path / "page.html", **options).read_text(encoding="utf-8")
        return text, Page(text)

    return write


def test_an_image_has_its_section(page):
    text, read = page(made(1.0))
    assert "The image" in read.titles
    assert read.elements["image"] == 4
    assert all(reference.startswith("data:") for reference in read.references)
    assert read.unclosed == []
    assert any("Posterior mean: 12 x 16 pixels, from" in label for label in read.labels)
    assert any("90% interval along row" in label for label in read.labels)
    assert "Misfit of the draws" in read.text
    assert "): the draws" not in read.text
    assert "PSNR" not in read.text


@pytest.mark.parametrize(
    ("scale", "words"),
    [(0.3, "): the draws follow the noise"), (3.0, "): the draws miss the data")],
)
def test_draws_that_do_not_fit_the_data_are_told(page, scale, words):
    assert words in page(made(scale))[1].text


def test_a_known_truth_is_shown_and_compared(page):
    truth = np.random.default_rng(3).normal(size=(12, 16))
    read = page(made(1.0), truth=truth)[1]
    assert read.elements["image"] == 5
    for words in ("PSNR of the mean", "SSIM", "CRPS", "Truths in the intervals"):
        assert words in read.text


def test_draws_of_anything_else_have_no_such_section(page):
    draws = make_draws({"mu": np.random.default_rng(0).normal(size=(2, 50))})
    assert "The image" not in page(draws)[1].titles


def test_pictures_hold_the_pixels():
    values = np.array([[0.0, 0.5, 1.0], [2.0, np.nan, -1.0]])
    data = base64.b64decode(re.sub(r"^data:image/png;base64,", "", png(values, 0.0, 1.0)))
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at = data.index(b"IDAT")
    lines = zlib.decompress(data[at + 4 : at + 4 + int.from_bytes(data[at - 4 : at], "big")])
    assert list(lines) == [0, 0, 128, 255, 0, 255, 0, 0]
