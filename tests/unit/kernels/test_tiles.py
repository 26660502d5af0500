"""The lists of tiles: every row once, most work first, made once a batch."""

import gc

import pytest
from attention_references import offsets_of

from genrec_lite.kernels import tiles
from genrec_lite.kernels.tiles import band_list, tile_list

LENGTHS = [3, 70, 0, 1, 40]


@pytest.mark.parametrize("meets", ["all", "earlier", "later"])
@pytest.mark.parametrize("others", [LENGTHS, [80, 5, 2, 0, 33]])
def test_every_row_is_in_one_tile_and_the_tiles_with_most_work_come_first(meets, others):
    rows, met = offsets_of(LENGTHS), offsets_of(others)
    found = tile_list(rows, met, 16, meets).tolist()
    expected = [[b, i] for b, n in enumerate(LENGTHS) for i in range(0, n, 16)]
    assert sorted(found) == expected

    def work(sequence, first):
        n, m = LENGTHS[sequence], others[sequence]
        if meets == "all":
            return m
        if meets == "earlier":  # queries: up to the key beside the tile's last place
            return min(m, max(0, first + 16 + m - n))
        return m - max(0, first + m - n)  # keys: queries from the one beside the first key on

    done = [work(*tile) for tile in found]
    assert done == sorted(done, reverse=True)


def test_a_list_is_made_once_and_goes_with_its_batch():
    gc.collect()
    before = len(tiles._made)
    offsets = offsets_of(LENGTHS)
    assert tile_list(offsets, offsets, 16) is tile_list(offsets, offsets, 16)
    assert tile_list(offsets, offsets, 32) is not tile_list(offsets, offsets, 16)
    assert band_list(offsets, 16)[0] is band_list(offsets, 16)[0]
    assert len(tiles._made) == before + 1
    del offsets
    gc.collect()
    assert len(tiles._made) == before


def test_an_empty_batch_and_empty_sequences_have_no_tiles():
    for offsets in (offsets_of([]), offsets_of([0, 0])):
        assert tile_list(offsets, offsets, 16, "earlier").shape == (0, 2)
        pairs, chunks = band_list(offsets, 16)
        assert (pairs.shape, chunks.shape) == ((0, 2), (0, 3))


@pytest.mark.parametrize("chunks_at_most", [2, 1024])
def test_the_bands_hold_every_pair_of_tiles_once_and_a_chunk_is_of_one_band(
    monkeypatch, chunks_at_most
):
    monkeypatch.setattr(tiles, "CHUNKS", chunks_at_most)
    lengths = [70, 3, 0, 300]
    pairs, chunks = band_list(offsets_of(lengths), 16)
    found = []
    for band, first, count in chunks.tolist():
        assert count >= 1
        found += [(b, t, t - band) for b, t in pairs[first : first + count].tolist()]
    expected = [
        (b, t, u) for b, n in enumerate(lengths) for t in range(-(-n // 16)) for u in range(t + 1)
    ]
    assert sorted(found) == sorted(expected)
    assert chunks[:, 0].tolist() == sorted(chunks[:, 0].tolist())
