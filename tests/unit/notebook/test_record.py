"""Records: through a real notebook, and as files of full-size runs."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient

import genrec_lite
from genrec_lite.notebook import load_record, read_records, record, write_record
from genrec_lite.notebook.record import RecordError


def executed(*sources: str) -> nbformat.NotebookNode:
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, kernel_name="python3", timeout=120).execute()
    return nbformat.reads(nbformat.writes(notebook), as_version=4)


def test_records_survive_a_real_notebook_and_glue_every_key():
    notebook = executed(
        "from genrec_lite.notebook import record\nrecord(hit_rate=0.125, users=671)",
        "record(by_cutoff={'10': 0.1, '50': 0.3}, name='SASRec')",
    )
    assert read_records(notebook) == {
        "hit_rate": 0.125,
        "users": 671,
        "by_cutoff": {"10": 0.1, "50": 0.3},
        "name": "SASRec",
    }
    outputs = [output for cell in notebook.cells for output in cell.outputs]
    glued = {
        output.metadata["scrapbook"]["name"]: output.data["application/papermill.record/text/plain"]
        for output in outputs
        if "scrapbook" in output.metadata
    }
    assert glued["hit_rate"] == "0.125"
    assert glued["name"] == "'SASRec'"
    assert set(glued) == {"hit_rate", "users", "by_cutoff", "name"}


def test_a_key_recorded_twice_is_refused_when_read():
    output = nbformat.v4.new_output(
        "display_data", data={"application/vnd.genrec.record+json": {"users": 1}}
    )
    cell = nbformat.v4.new_code_cell("record(users=1)", outputs=[output, output])
    with pytest.raises(RecordError, match="'users' is recorded twice"):
        read_records(nbformat.v4.new_notebook(cells=[cell]))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), r"loss = nan: only finite"),
        (float("inf"), r"loss = inf: only finite"),
        ([1.0, float("nan")], r"loss\[1\] = nan"),
        (torch.tensor(1.0), r"loss is a torch.Tensor.*\.tolist\(\)"),
        (np.float32(1.0), r"loss is a numpy.float32.*\.tolist\(\)"),
        ({"a": {1, 2}}, r"loss\['a'\] is a builtins.set"),
        ({1: 2}, r"loss has the key 1: use strings"),
        (list(range(101)), r"loss holds 101 values, more than 100"),
    ],
)
def test_what_is_no_result_is_refused_by_name(value, message):
    with pytest.raises(RecordError, match=message):
        record(loss=value)


def test_an_empty_record_is_refused():
    with pytest.raises(RecordError, match="nothing to record"):
        record()


def test_a_full_size_record_says_where_it_comes_from(tmp_path):
    path = write_record("run", {"hr_10": 0.28}, seed=3, command="make it", folder=tmp_path)
    assert path == tmp_path / "run.json"
    loaded = load_record("run", tmp_path)
    assert loaded["values"] == {"hr_10": 0.28}
    assert (loaded["name"], loaded["seed"], loaded["command"]) == ("run", 3, "make it")
    assert len(loaded["date"]) == 10 and loaded["commit"]
    assert set(loaded["machine"]) == {
        "cpu",
        "cores",
        "memory_gib",
        "gpu",
        "python",
        "torch",
        "platform",
    }
    assert loaded["machine"]["torch"] == torch.__version__


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_a_record_says_when_any_module_of_the_package_differs_from_the_commit(
    tmp_path, monkeypatch
):
    module = sys.modules["genrec_lite.notebook.record"]  # the package has a function of its name

    assert module.PACKAGE == Path(genrec_lite.__file__).parent
    package = tmp_path / "genrec_lite"
    package.mkdir()
    (package / "losses.py").write_text("K = 10\n")
    monkeypatch.setattr(module, "PACKAGE", package)
    name = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    for command in (["init", "--quiet"], ["add", "."], [*name, "commit", "--quiet", "-m", "one"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)

    def commit():
        path = write_record("run", {"x": 1}, seed=0, command="", folder=tmp_path / "results")
        return json.loads(path.read_text())["commit"]

    clean = commit()
    assert len(clean) == 12
    (package / "losses.py").write_text("K = 11\n")
    assert commit() == f"{clean}+changes"
    (package / "losses.py").write_text("K = 10\n")
    assert commit() == clean
    (package / "new.py").write_text("")
    assert commit() == f"{clean}+changes"


def test_a_refused_record_leaves_the_old_one_and_no_part_behind(tmp_path):
    write_record("run", {"hr_10": 0.28}, seed=0, command="make it", folder=tmp_path)
    with pytest.raises(RecordError):
        write_record("run", {"hr_10": float("nan")}, seed=0, command="make it", folder=tmp_path)
    assert load_record("run", tmp_path)["values"] == {"hr_10": 0.28}
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize("name", ["", "../run", ".run", "folder/run"])
def test_a_record_name_is_a_plain_file_name(tmp_path, name):
    with pytest.raises(RecordError, match="plain file name"):
        write_record(name, {"x": 1}, seed=0, command="", folder=tmp_path)


def test_a_missing_a_cut_and_a_foreign_record_are_told_apart(tmp_path):
    write_record("run", {"x": 1}, seed=0, command="make it", folder=tmp_path)
    with pytest.raises(RecordError, match=r"no record 'other'.*there: run"):
        load_record("other", tmp_path)
    (tmp_path / "cut.json").write_text((tmp_path / "run.json").read_text()[:40])
    with pytest.raises(RecordError, match=r"cut\.json is no valid JSON"):
        load_record("cut", tmp_path)
    (tmp_path / "foreign.json").write_text(json.dumps({"values": {}}))
    with pytest.raises(RecordError, match=r"foreign\.json lacks .*'commit'"):
        load_record("foreign", tmp_path)
    content = json.loads((tmp_path / "run.json").read_text())
    del content["machine"]["cores"]
    (tmp_path / "foreign.json").write_text(json.dumps(content))
    with pytest.raises(RecordError, match=r"foreign\.json lacks \['machine\.cores'\]"):
        load_record("foreign", tmp_path)
