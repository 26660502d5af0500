"""Numbers of trainings: kept in a file, taken again when nothing has changed, and summed up."""

import json

import pytest

from genrec_lite.bench import trainings
from genrec_lite.bench.trainings import (
    Trainings,
    gains_over,
    over_seeds,
    print_and_record,
    seeds_parser,
)


def counter():
    trained = []

    def train():
        trained.append(1)
        return {"hr@10": float(len(trained))}

    return train, trained


def test_what_is_kept_is_taken_again_at_its_commit_only(tmp_path, monkeypatch):
    train, trained = counter()
    file = tmp_path / "done.json"
    assert Trainings(file, 2).numbers({"seed": 0}, train) == {"hr@10": 1.0}
    later = Trainings(file, 2)
    assert later.numbers({"seed": 0}, train) == {"hr@10": 1.0} and len(trained) == 1
    assert later.numbers({"seed": 1}, train) == {"hr@10": 2.0}
    monkeypatch.setattr(trainings, "current_commit", lambda: "another")
    assert Trainings(file, 2).numbers({"seed": 0}, train) == {"hr@10": 3.0}
    assert len(json.loads(file.read_text())) == 3  # the other commit's stay


@pytest.mark.parametrize("commit", ["0123456789ab+changes", "unknown"])
def test_numbers_of_unknown_code_are_not_taken_by_the_next_process(tmp_path, monkeypatch, commit):
    train, trained = counter()
    file = tmp_path / "done.json"
    Trainings(file, 2).numbers({"seed": 0}, train)
    monkeypatch.setattr(trainings, "current_commit", lambda: commit)
    for process in (2, 3):
        kept = Trainings(file, 2)
        assert kept.numbers({"seed": 0}, train)["hr@10"] == process
        assert kept.numbers({"seed": 0}, train)["hr@10"] == process
    monkeypatch.setattr(trainings, "current_commit", lambda: "0123456789ab")
    assert Trainings(file, 2).numbers({"seed": 0}, train)["hr@10"] == 1


def test_without_a_file_it_knows_what_it_trained_itself():
    train, trained = counter()
    kept = Trainings(None, 2)
    assert kept.numbers({"seed": 0}, train) is kept.numbers({"seed": 0}, train)
    assert len(trained) == 1


def test_sums_over_seeds():
    found = over_seeds("A", [0.1, 0.3])
    assert found["A"] == pytest.approx(0.2) and found["A by seed"] == [0.1, 0.3]
    assert found["A interval"] == pytest.approx(12.706 * 0.1)  # t with one degree
    gains = gains_over("A step", [0.1, 0.3], [0.05, 0.15])
    assert gains["A step by seed"] == pytest.approx([0.05, 0.15])
    assert gains["A step"] == pytest.approx(0.1)
    with pytest.raises(ValueError, match="shorter"):
        gains_over("A step", [0.1, 0.3], [0.1])


def test_a_record_is_written_when_asked_for(monkeypatch, capsys):
    written = []
    monkeypatch.setattr(trainings, "write_record", lambda *a, **k: written.append((a, k)) or "at")
    parser = seeds_parser("What it does.\n\nMore.", seeds=4)
    assert parser.description == "What it does."
    print_and_record({"b": 1.5}, parser.parse_args([]), "some", "--data x")
    assert json.loads(capsys.readouterr().out) == {"b": 1.5} and not written
    print_and_record({"b": 1.5}, parser.parse_args(["--record", "r"]), "some", "--data x")
    command = "python -m genrec_lite.bench.some --data x --seeds 4 --record r"
    assert written == [(("r", {"b": 1.5}), {"seed": 0, "command": command})]
    with pytest.raises(SystemExit):
        parser.parse_args(["--seeds", "1"])
