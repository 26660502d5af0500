"""The power law: the known one is found, and the intervals cover it as often as they say."""

import math

import pytest
import torch

from genrec_lite.scaling import power_law
from genrec_lite.scaling.power_law import fit_power_law

COMPUTE = 10 ** torch.linspace(12, 14.5, 10, dtype=torch.float64)


def scattered(seed, compute=COMPUTE, scatter=0.05):
    """Runs about 50 * compute^-0.07."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(compute), dtype=torch.float64, generator=generator)
    return 50 * compute**-0.07 * (scatter * noise).exp()


@pytest.mark.parametrize("exponent", [0.07, 0.5, -0.2])
def test_runs_on_a_law_give_it_back_with_no_interval_left(exponent):
    law = fit_power_law(COMPUTE, 3 * COMPUTE**-exponent)
    assert law.exponent == pytest.approx(exponent, rel=1e-9)
    assert law.scale == pytest.approx(3, rel=1e-9)
    assert law.exponent_interval == pytest.approx((exponent, exponent), rel=1e-6)
    found = law.predict([1e10, 1e16])
    for band in found:
        assert band.tolist() == pytest.approx([3 * 1e10**-exponent, 3 * 1e16**-exponent], rel=1e-6)


def test_the_line_is_that_of_least_squares():
    compute, quality = [1.0, math.e, math.e**2], [1.0, math.e, 1.0]
    law = fit_power_law(compute, quality)
    assert law.exponent == pytest.approx(0, abs=1e-12)
    assert law.scale == pytest.approx(math.exp(1 / 3))
    assert law.scatter == pytest.approx(math.sqrt(6 / 9))  # one degree of freedom
    assert law.runs == 3 and law.confidence == 0.95


def test_the_intervals_cover_the_truth_as_often_as_they_say(monkeypatch):
    monkeypatch.setattr(power_law, "RESAMPLES", 500)
    compute, beyond, trials = 10 ** torch.linspace(12, 14.5, 6, dtype=torch.float64), 1e15, 300
    truth = 50 * beyond**-0.07
    covered = {"exponent": 0, "law": 0, "run": 0}
    for seed in range(trials):
        quality = scattered(seed, torch.cat([compute, compute.new_tensor([beyond])]))
        law = fit_power_law(compute, quality[:-1], confidence=0.9, seed=seed)
        low, high = law.exponent_interval
        covered["exponent"] += low <= 0.07 <= high
        found = law.predict([beyond])
        covered["law"] += bool(found.low <= truth <= found.high)
        covered["run"] += bool(found.run_low <= quality[-1] <= found.run_high)
    for count in covered.values():  # 0.9, three standard errors of 0.017
        assert count / trials == pytest.approx(0.9, abs=0.052)


def test_bands_widen_away_from_the_runs_and_a_run_scatters_more_than_the_law():
    found = fit_power_law(COMPUTE, scattered(1)).predict([1e13, 1e16, 1e19])
    assert bool((found.low < found.value).all() and (found.value < found.high).all())
    assert bool((found.run_low < found.low).all() and (found.high < found.run_high).all())
    width = (found.high / found.low).log()
    assert bool((width.diff() > 0).all())


def test_more_confidence_is_a_wider_interval_and_a_seed_gives_it_again():
    def ends(**settings):
        return fit_power_law(COMPUTE, scattered(2), **settings).exponent_interval

    (low, high), (lower, higher) = ends(confidence=0.8), ends(confidence=0.99)
    assert lower < low < 0.07 < high < higher
    assert ends(seed=3) == ends(seed=3) != ends(seed=4)
    assert ends(seed=3) == pytest.approx(ends(seed=4), abs=0.1 * (high - low))


def test_the_unit_of_compute_changes_the_scale_only():
    law, in_peta = (fit_power_law(c, scattered(3)) for c in (COMPUTE, COMPUTE / 1e15))
    assert in_peta.exponent == pytest.approx(law.exponent)
    assert in_peta.exponent_interval == pytest.approx(law.exponent_interval)
    assert in_peta.scale == pytest.approx(law.scale * 1e15**-law.exponent)


@pytest.mark.parametrize(
    ("compute", "quality", "told"),
    [
        ([1.0, 2.0], [1.0, 2.0], "2 runs: a line with an interval takes at least 3"),
        ([1.0, 2.0, 0.0], [1.0] * 3, "compute of run 2 is 0: .* finite numbers above 0"),
        ([1.0, 2.0, 3.0], [1.0, -0.5, 1.0], "quality of run 1 is -0.5"),
        ([1.0, 2.0, 3.0], [1.0, 1.0, math.nan], "quality of run 2 is nan"),
        ([1.0, 2.0, 3.0], [1.0] * 4, "3 runs have a compute and 4 a quality"),
        ([5.0] * 3, [1.0, 2.0, 3.0], "all 3 runs have a compute of 5: vary it"),
        ([[1.0]], [1.0], r"compute has shape \(1, 1\): expected \(n,\)"),
    ],
)
def test_what_no_line_goes_through_is_refused(compute, quality, told):
    with pytest.raises(ValueError, match=told):
        fit_power_law(compute, quality)


def test_a_confidence_or_a_new_compute_outside_its_range_is_refused():
    with pytest.raises(ValueError, match="confidence is 95: between 0 and 1"):
        fit_power_law(COMPUTE, scattered(0), confidence=95)
    with pytest.raises(ValueError, match="compute of run 0 is -1"):
        fit_power_law(COMPUTE, scattered(0)).predict([-1.0])
