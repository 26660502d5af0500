"""The race over a stream: each arm is what its name says, learns once, and can be interrupted."""

import json

import pytest

from genrec_lite.bench import stream, trainings
from genrec_lite.bench.stream import ARMS, LEARNING_RATES, Sizes, encoder_of, pass_over
from genrec_lite.datasets.dirichlet_stream import dirichlet_stream
from genrec_lite.encoders.hstu import HSTU
from genrec_lite.encoders.sasrec import SASRec

SMALL = Sizes(records=40, items=500, batch_size=8)


def test_each_arm_is_what_its_name_says():
    sasrec, softmax, silu = (encoder_of(arm, 30, 9, seed=1) for arm in ARMS)
    assert isinstance(sasrec, SASRec)
    for encoder, activation in ((softmax, "softmax"), (silu, "silu")):
        assert isinstance(encoder, HSTU) and not encoder.needs_times
        assert {block.activation for block in encoder.blocks} == {activation}
        assert all(block.bias.position_weights is None for block in encoder.blocks)
    assert {len(e.blocks) for e in (sasrec, softmax, silu)} == {2}
    assert {e.max_length for e in (sasrec, softmax, silu)} == {9}
    with pytest.raises(ValueError, match="no arm is called 'GRU': choose from SASRec; HSTU"):
        encoder_of("GRU", 30, 9, seed=1)


def test_the_rate_is_searched_for_each_arm_alike_and_the_seeds_use_it(monkeypatch):
    trained = []

    def measured(arm, rate, sizes, data, seed):
        trained.append((arm, rate, seed))
        best = LEARNING_RATES[ARMS.index(arm)]
        hit = 0.1 + 0.1 * ARMS.index(arm) - abs(rate - best) + 0.01 * (seed % 7)
        return {"hr@10": hit, "hr@50": 0.5, "cpu_s": 2.0}

    monkeypatch.setattr(stream, "_measured", measured)
    found = pass_over(SMALL, 2, progress=False)
    for arm, best in zip(ARMS, LEARNING_RATES, strict=False):
        assert found[f"{arm} learning rate"] == best
        own = [(rate, seed) for name, rate, seed in trained if name == arm]
        search = [(rate, stream.SEARCH_SEED) for rate in LEARNING_RATES]
        assert own == [*search, (best, 0), (best, 1)]
    assert found["SASRec hr@10 by seed"] == pytest.approx([0.1, 0.11])
    assert found["HSTU, no bias over SASRec"] == pytest.approx(0.2)
    assert found["HSTU, no bias over SASRec interval"] == pytest.approx(0, abs=1e-9)
    assert "SASRec over SASRec" not in found
    assert found["HSTU, softmax, no bias cpu_s"] == 2.0


def test_an_interrupted_race_goes_on_where_it_was(tmp_path, monkeypatch):
    finished, trained = tmp_path / "race.json", []

    def measured(arm, rate, sizes, data, seed):
        trained.append((arm, rate, seed))
        if len(trained) == 5:
            raise KeyboardInterrupt
        return {"hr@10": 0.1, "hr@50": 0.5, "cpu_s": 2.0}

    monkeypatch.setattr(stream, "_measured", measured)
    with pytest.raises(KeyboardInterrupt):
        pass_over(SMALL, 2, finished=finished, progress=False)
    assert len(json.loads(finished.read_text())) == 4
    pass_over(SMALL, 2, finished=finished, progress=False)
    assert trained[5] == trained[4] and len(trained) == 5 + 18 - 4
    pass_over(Sizes(50, 500, 8), 2, finished=finished, progress=False)  # other sizes: all anew
    assert len(trained) == 19 + 18


def test_what_cannot_be_raced_is_refused_before_any_training(tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "_measured", lambda *_: pytest.fail("trained"))
    for seeds in (1, 11):
        with pytest.raises(ValueError, match=f"{seeds} seeds: an interval is given for 2 to 10"):
            pass_over(SMALL, seeds)
    blocked = tmp_path / "a file"
    blocked.write_text("")
    with pytest.raises(OSError):
        pass_over(SMALL, 2, finished=blocked / "race.json")


def test_a_pass_learns_what_chance_does_not_know(monkeypatch):
    monkeypatch.setattr(stream, "DIM", 16)
    data = dirichlet_stream(
        200, length=24, num_items=60, num_categories=6, max_categories=1, at_start=1.0, seed=0
    )
    for arm in ARMS:
        found = stream._measured(arm, 1e-2, Sizes(records=200, batch_size=4), data, 0)
        assert found["hr@10"] > 0.5 and found["cpu_s"] > 0  # by chance 10 of 60


def test_the_command_line_writes_the_record_with_its_command(tmp_path, monkeypatch, capsys):
    raced, written = [], {}

    def pass_over_none(sizes, seeds, *, finished):
        raced.append((sizes, seeds, finished))
        return {"seeds": seeds}

    monkeypatch.setattr(stream, "pass_over", pass_over_none)
    monkeypatch.setattr(
        trainings, "write_record", lambda name, values, **k: written.update(k, **values) or name
    )
    out = tmp_path / "race.json"
    stream.main(["--seeds", "3", "--records", "900", "--out", str(out), "--record", "race"])
    assert raced == [(Sizes(records=900), 3, out)]
    assert written["command"] == (
        "python -m genrec_lite.bench.stream --records 900 --items 8000 --seeds 3 --record race"
    )
    assert '"seeds": 3' in capsys.readouterr().out
