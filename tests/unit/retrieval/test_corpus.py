"""The corpus of an index: blocks, changes, files, and what it refuses."""

import json
import os

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from genrec_lite.retrieval import corpus as corpus_module
from genrec_lite.retrieval.corpus import Block, Corpus
from genrec_lite.similarity.sides import MixtureSide, Side

ABOUT = {"similarity": "MixtureOfLogits", "temperature": 0.05, "sizes": {"w": [3, 2]}}


def mixture(ids: torch.Tensor, dtype: torch.dtype = torch.float32) -> MixtureSide:
    """Item sides that tell by their numbers whose they are."""
    components = ids[:, None, None] + torch.arange(6).view(2, 3) / 8
    return MixtureSide(components.to(dtype), (ids[:, None] - torch.arange(4) / 8).to(dtype))


def fresh(n: int = 20, dtype: torch.dtype = torch.float32) -> Corpus:
    ids = torch.arange(n)
    return Corpus(mixture(ids, dtype), ids, {"coarse": ids[:, None].to(torch.int8)})


def content(corpus: Corpus) -> dict[int, list]:
    rows = {}
    for block in corpus.blocks:
        assert bool((block.ids.diff() > 0).all()) and len(block) > 0
        assert isinstance(block.items, MixtureSide)
        for row, item in enumerate(block.ids.tolist()):
            assert item not in rows
            rows[item] = [
                block.items.components[row].tolist(),
                block.items.gate[row].tolist(),
                *(tensor[row].tolist() for tensor in block.beside.values()),
            ]
    return rows


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(corpus_module, "BLOCK_ITEMS", 8)


@given(st.data())
def test_changes_in_any_order_leave_what_a_fresh_corpus_would_hold(data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus_module, "BLOCK_ITEMS", 8)
        held = set(data.draw(st.permutations(range(data.draw(st.integers(0, 30))))))
        first = torch.tensor(data.draw(st.permutations(sorted(held))), dtype=torch.int64)
        corpus = Corpus(mixture(first), first)
        for _ in range(data.draw(st.integers(1, 6))):
            spare = [i for i in range(60) if i not in held]
            new = data.draw(st.lists(st.sampled_from(spare), unique=True)) if spare else []
            ids = torch.tensor(new, dtype=torch.int64)
            corpus.add(mixture(ids), ids)
            held |= set(new)
            old = data.draw(st.lists(st.sampled_from(sorted(held)), unique=True)) if held else []
            corpus.remove(torch.tensor(old, dtype=torch.int64))
            held -= set(old)
        everything = torch.tensor(sorted(held), dtype=torch.int64)
        assert content(corpus) == content(Corpus(mixture(everything), everything))
        assert all(len(block) <= 8 for block in corpus.blocks) and len(corpus) == len(held)
        if held:
            places = torch.arange(len(held))[:: data.draw(st.integers(1, 3))]
            items, ids = corpus.take(places)
            in_order = torch.cat([block.ids for block in corpus.blocks])
            assert torch.equal(ids, in_order[places])
            assert isinstance(items, MixtureSide)
            assert torch.equal(items.components, mixture(ids).components)


def test_only_blocks_that_gain_or_lose_items_are_made_anew(small_blocks):
    corpus = fresh(40)
    before = corpus.blocks
    corpus.remove(torch.tensor([17, 22]))
    assert [now is then for now, then in zip(corpus.blocks, before, strict=True)] == [
        True, True, False, True, True,
    ]  # fmt: skip
    kept = corpus.blocks
    ids = torch.tensor([17, 99])
    corpus.add(mixture(ids), ids, {"coarse": ids[:, None].to(torch.int8)})
    assert all(now is then for now, then in zip(corpus.blocks, kept, strict=False))
    assert len(corpus.blocks) == 6 and set(content(corpus)) == {*range(40), 99} - {22}


def test_single_additions_leave_few_blocks_and_copy_an_item_few_times(monkeypatch):
    copied = []
    joined = corpus_module._joined
    monkeypatch.setattr(
        corpus_module, "_joined", lambda a, b: copied.append(len(a) + len(b)) or joined(a, b)
    )
    corpus = Corpus(mixture(torch.arange(0)))
    for item in range(512):
        corpus.add(mixture(torch.tensor([item])), torch.tensor([item]))
    assert len(corpus.blocks) <= 10
    assert sum(copied) < 10 * 512  # a copy of everything each time would be 130,000


def test_the_tensors_given_are_views_until_touched():
    side = mixture(torch.arange(20))
    corpus = Corpus(side)
    assert corpus.blocks[0].items.components.data_ptr() == side.components.data_ptr()
    corpus.remove(torch.tensor([3]))
    assert torch.equal(side.components, mixture(torch.arange(20)).components)


def test_places_of_ids_are_found_with_and_without_gaps():
    for ids in (torch.arange(5, 9), torch.tensor([5, 6, 90]), torch.tensor([7])):
        block = Block(ids, mixture(ids))
        asked = torch.tensor([4, 5, 6, 7, 8, 9, 89, 90, 91, 2**62])
        expected = [ids.tolist().index(i) if i in ids.tolist() else -1 for i in asked.tolist()]
        assert block.places_of(asked).tolist() == expected
    assert Block(ids[:0], mixture(ids[:0])).places_of(asked).tolist() == [-1] * 10


def with_nan(side: MixtureSide, row: int, name: str) -> MixtureSide:
    getattr(side, name)[row, 0] = float("nan")
    return side


NEW = torch.tensor([50, 30, 40])
COARSE = torch.zeros(3, 1, dtype=torch.int8)


@pytest.mark.parametrize(
    "items, ids, beside, told",
    [
        (mixture(NEW), torch.tensor([50, 7, 40]), {"coarse": COARSE}, "id 7 is in the corpus alr"),
        (mixture(NEW), torch.tensor([50, 30, 50]), {"coarse": COARSE}, "id 50 comes twice"),
        (mixture(NEW), torch.tensor([50, -3, 40]), {"coarse": COARSE}, "id -3 is negative"),
        (mixture(NEW), NEW[:2], {"coarse": COARSE}, "2 ids for 3 rows of items"),
        (mixture(NEW), NEW, {"coarse": COARSE[:2]}, "3 ids for 2 rows of coarse"),
        (mixture(NEW), NEW.int(), {"coarse": COARSE}, "dtype torch.int32"),
        (mixture(NEW), NEW, {}, r"beside.coarse .* rows of None, those of the corpus \(1,\)"),
        (torch.zeros(3, 4), NEW, {"coarse": COARSE}, r"items.vectors .* rows of \(4,\)"),
        (MixtureSide(torch.zeros(3, 2, 5), torch.zeros(3, 4)), NEW, {"coarse": COARSE},
         r"items.components .* rows of \(2, 5\), those of the corpus \(2, 3\)"),
        (with_nan(mixture(NEW), 1, "components"), NEW, {"coarse": COARSE},
         "items.components of id 30 hold NaN"),
        (with_nan(mixture(NEW), 2, "gate"), NEW, {"coarse": COARSE}, "items.gate of id 40 hold N"),
        (mixture(NEW), NEW, {"coarse": torch.full((3, 1), torch.inf)}, "coarse of id 30 hold NaN"),
    ],
)  # fmt: skip
def test_items_that_do_not_fit_are_named_and_nothing_is_changed(items, ids, beside, told):
    corpus = fresh()
    blocks = corpus.blocks
    with pytest.raises(ValueError, match=told):
        corpus.add(items, ids, beside)
    assert corpus.blocks is blocks


@pytest.mark.parametrize(
    "ids, told", [([3, 99], "id 99 is not in"), ([3, 3], "id 3 comes twice"), ([-1], "negative")]
)
def test_ids_that_cannot_be_removed_are_named_and_nothing_is_changed(ids, told):
    corpus = fresh()
    blocks = corpus.blocks
    with pytest.raises(ValueError, match=told):
        corpus.remove(torch.tensor(ids))
    assert corpus.blocks is blocks


def test_new_items_get_the_precision_of_the_old():
    corpus = fresh(dtype=torch.bfloat16)
    corpus.add(mixture(NEW), NEW, {"coarse": COARSE})
    assert {block.items.components.dtype for block in corpus.blocks} == {torch.bfloat16}


def test_new_items_that_the_old_precision_cannot_hold_are_named():
    corpus = fresh(dtype=torch.float16)
    new = mixture(NEW)
    new.gate[1] = 1e6  # inf in float16
    with pytest.raises(ValueError, match=f"items.gate of id {int(NEW[1])} hold NaN or inf"):
        corpus.add(new, NEW, {"coarse": COARSE})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_by_formula_is_that_of_the_file_and_of_the_storages(tmp_path, dtype):
    ids = torch.arange(3000)
    corpus = Corpus(mixture(ids, dtype), ids, {"coarse": torch.ones(3000, 16, dtype=torch.int8)})
    extra = torch.arange(5000, 5700)
    corpus.add(mixture(extra), extra, {"coarse": torch.ones(700, 16, dtype=torch.int8)})
    corpus.remove(torch.arange(100, 900))
    corpus.save(tmp_path / "index.safetensors", ABOUT)
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for block in corpus.blocks
        for tensor in block.tensors().values()
    }
    assert corpus.memory_bytes == pytest.approx(sum(storages.values()), rel=0.1)
    file = (tmp_path / "index.safetensors").stat().st_size
    assert corpus.memory_bytes == pytest.approx(file, rel=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n", [0, 1, 20])
def test_a_file_gives_the_corpus_back(tmp_path, small_blocks, n, dtype):
    corpus = fresh(n, dtype)
    corpus.save(tmp_path / "folder" / "index.safetensors", ABOUT)
    back = Corpus.load(tmp_path / "folder" / "index.safetensors", ABOUT)
    assert content(back) == content(corpus) and len(back) == n
    assert back.template.items.components.dtype == dtype
    back.add(mixture(NEW), NEW, {"coarse": COARSE})
    assert len(back) == n + 3


def test_dot_product_items_come_back_too(tmp_path):
    side: Side = torch.arange(12.0).view(4, 3)
    Corpus(side).save(tmp_path / "f", {})
    back = Corpus.load(tmp_path / "f", {}).blocks[0]
    assert torch.equal(back.items, side) and back.ids.tolist() == [0, 1, 2, 3]


def test_a_file_cut_short_is_named_wherever_it_is_cut(tmp_path):
    file = tmp_path / "index.safetensors"
    fresh().save(file, ABOUT)
    whole = file.read_bytes()
    for length in (0, 4, 8, 50, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="index.safetensors is cut short or no index"):
            Corpus.load(file, ABOUT)


@pytest.mark.parametrize("meta", [None, {"other": "file"}, {"index": "{"}, {"index": "{}"}])
def test_a_file_of_something_else_is_named(tmp_path, meta):
    safetensors.torch.save_file({"x": torch.zeros(2)}, tmp_path / "f.st", metadata=meta)
    with pytest.raises(ValueError, match="f.st is cut short or no index"):
        Corpus.load(tmp_path / "f.st", ABOUT)


def test_a_file_of_another_version_is_named(tmp_path):
    meta = {"format": "genrec-lite index", "version": 2, "about": ABOUT}
    file = tmp_path / "f.st"
    safetensors.torch.save_file({"x": torch.zeros(2)}, file, metadata={"index": json.dumps(meta)})
    with pytest.raises(ValueError, match="f.st is an index of version 2, .* reads version 1"):
        Corpus.load(file, ABOUT)


@pytest.mark.parametrize(
    "key, value", [("similarity", "DotProduct"), ("temperature", 0.1), ("sizes", {"w": [3, 4]})]
)
def test_a_file_made_with_another_similarity_is_named_with_the_difference(tmp_path, key, value):
    fresh().save(tmp_path / "f.st", ABOUT)
    with pytest.raises(ValueError, match=f"f.st was written with {key} .*, here it is"):
        Corpus.load(tmp_path / "f.st", {**ABOUT, key: value})


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Corpus.load(tmp_path / "nowhere", ABOUT)


def test_a_save_that_fails_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    file = tmp_path / "index.safetensors"
    fresh().save(file, ABOUT)
    before = file.read_bytes()

    def full(*_args: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        fresh(5).save(file, ABOUT)
    assert file.read_bytes() == before and list(tmp_path.iterdir()) == [file]
