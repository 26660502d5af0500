"""The ladder: each rung is the encoder that its name says, and is measured as such."""

import json
from dataclasses import replace

import polars as pl
import pytest
import torch
from torch.nn import functional as F

from genrec_lite.bench import hstu_ladder, trainings
from genrec_lite.bench.hstu_ladder import RUNGS, UngatedBlock, climb, encoder_of
from genrec_lite.datasets import Interactions
from genrec_lite.encoders.hstu import HSTU, HSTUBlock
from genrec_lite.encoders.sasrec import SASRec
from genrec_lite.jagged import JaggedTensor
from genrec_lite.recipes import RECIPES, Mixture

TINY = replace(
    RECIPES["movielens-small-hstu"], dim=8, head_dim=4, num_blocks=2, max_length=6, epochs=2,
    batch_size=16,
)  # fmt: skip


def log():
    events = [(u, (7 * u + step) % 30, 100 * step) for u in range(40) for step in range(3 + u % 9)]
    frame = pl.DataFrame(events, schema=["user_id", "item_id", "timestamp"], orient="row")
    return Interactions.from_frame(frame, name="toy").sequences()


def test_each_rung_is_what_its_name_says():
    sasrec, *others = (encoder_of(rung, TINY, 30, seed=1) for rung in RUNGS)
    assert isinstance(sasrec, SASRec) and len(sasrec.blocks) == 2
    blocks = [encoder.blocks[1] for encoder in others]
    assert [type(block) for block in blocks] == [UngatedBlock] * 2 + [HSTUBlock] * 4
    assert [block.activation for block in blocks] == ["softmax"] + ["silu"] * 5
    has = [(b.bias.position_weights is not None, b.bias.time_weights is not None) for b in blocks]
    assert has == [(False, False)] * 3 + [(True, False), (True, True), (False, True)]
    assert all(isinstance(encoder, HSTU) and encoder.max_length == 6 for encoder in others)
    with pytest.raises(ValueError, match="no rung is called 'roof': choose from SASRec"):
        encoder_of("roof", TINY, 30, 0)


def test_without_a_gate_the_block_is_the_gated_one_with_u_of_1():
    torch.manual_seed(0)
    sizes = dict(num_heads=2, head_dim=3, dropout=0.0, bias="none", max_length=9)
    block = HSTUBlock(5, **sizes).double()
    rows = JaggedTensor(torch.randn(6, 5).double(), torch.tensor([0, 4, 6]))
    with torch.no_grad():
        block.contract.weight.copy_(torch.eye(5, 6))
        block.contract.bias.zero_()
        block.expand *= 50  # or the norm's epsilon would leave next to nothing
        gated = block(rows, None).values - rows.values
        normed = F.layer_norm(rows.values, (5,), eps=1e-6)
        u = F.silu(normed @ block.expand[:, :6])
        block.__class__ = UngatedBlock
        ungated = block(rows, None).values - rows.values
    assert torch.allclose(gated, u[:, :5] * ungated)
    assert ungated.norm() > 1


def test_the_ladder_reports_each_rung_with_its_steps_and_writes_a_record(
    tmp_path, monkeypatch, capsys
):
    found = climb(log(), TINY, 2, progress=False)
    for below, rung in zip(RUNGS, RUNGS[1:], strict=False):
        steps = [
            a - b
            for a, b in zip(
                found[f"{rung} hr@10 by seed"], found[f"{below} hr@10 by seed"], strict=True
            )
        ]
        assert found[f"{rung} step"] == pytest.approx(sum(steps) / 2)
        assert found[f"{rung} cpu_s an epoch"] > 0
    position = found["+ time bias parameters"] - found["+ position bias parameters"]
    assert position == 2 * 129 and "SASRec step" not in found
    assert found["+ position bias parameters"] - found["+ gate parameters"] == 2 * 6

    climbed = []

    def climb_none(sequences, recipe, seeds, *, first, finished):
        climbed.append((recipe.data, seeds, first, finished))
        return {"seeds": seeds}

    monkeypatch.setattr(hstu_ladder, "sequences_of", lambda recipe: log())
    monkeypatch.setattr(hstu_ladder, "climb", climb_none)
    written = {}
    monkeypatch.setattr(
        trainings, "write_record", lambda name, values, **k: written.update(k, **values) or name
    )
    hstu_ladder.main(
        ["--data", "ml-100k", "--seeds", "2", "--first", "+ gate", "--record", "rungs"]
        + ["--out", str(tmp_path / "done.json")]
    )
    assert climbed == [("ml-100k", 2, "+ gate", tmp_path / "done.json")]
    assert '"seeds": 2' in capsys.readouterr().out
    assert written["data"] == "ml-100k" and written["command"].endswith(
        "--data ml-100k --first '+ gate' --seeds 2 --record rungs"
    )
    assert json.dumps(written)


def test_an_interrupted_climb_goes_on_where_it_was(tmp_path, monkeypatch):
    finished, trained = tmp_path / "rungs.json", []

    def measured(rung, recipe, sequences, seed):
        trained.append((rung, seed))
        if len(trained) == 4:
            raise KeyboardInterrupt
        return {"hr@10": 0.5 + 0.1 * seed + 0.01 * RUNGS.index(rung), "parameters": 7}

    monkeypatch.setattr(hstu_ladder, "_measured", measured)
    settings = dict(first="+ gate", finished=finished, progress=False)
    with pytest.raises(KeyboardInterrupt):
        climb(log(), TINY, 2, **settings)
    assert len(json.loads(finished.read_text())) == 3
    found = climb(log(), TINY, 2, **settings)
    wanted = [(rung, seed) for rung in RUNGS[3:] for seed in (0, 1)]
    assert trained == wanted[:4] + wanted[3:]
    assert found["+ gate hr@10 by seed"] == [0.53, 0.63] and "+ gate step" not in found
    assert found["+ position bias step"] == pytest.approx(0.01)
    assert found["+ gate parameters"] == 7
    # More seeds train the missing ones only; another recipe or commit trains all.
    del trained[4:]
    climb(log(), TINY, 3, **settings)
    assert trained[4:] == [(rung, 2) for rung in RUNGS[3:]]
    climb(log(), replace(TINY, epochs=1), 2, **settings)
    monkeypatch.setattr(trainings, "current_commit", lambda: "another")
    climb(log(), TINY, 2, **settings)
    assert len(trained) == 4 + 4 + 8 + 8


def test_what_cannot_be_climbed_is_refused_before_any_training(tmp_path, monkeypatch):
    monkeypatch.setattr(hstu_ladder, "_measured", lambda *_: pytest.fail("trained"))
    for seeds in (1, 11):
        with pytest.raises(ValueError, match=f"{seeds} seeds: an interval is given for 2 to 10"):
            climb(log(), TINY, seeds)
    with pytest.raises(ValueError, match="no rung is called 'roof'"):
        climb(log(), TINY, 2, first="roof")
    with pytest.raises(ValueError, match="under a dot product: leave out the mixture"):
        climb(log(), replace(TINY, mixture=Mixture()), 2)
    blocked = tmp_path / "a file"
    blocked.write_text("")
    with pytest.raises(OSError):
        climb(log(), TINY, 2, finished=blocked / "rungs.json")
