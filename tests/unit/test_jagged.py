"""JaggedTensor against nested Python lists, on any rows that hypothesis can think of."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genrec_lite.jagged import FILL, JaggedTensor, length_buckets

ROWS = st.lists(st.lists(st.integers(-9, 9), max_size=6), max_size=6)


def jagged(rows: list[list[int]]) -> JaggedTensor:
    return JaggedTensor.from_lists(rows, dtype=torch.int64)


@given(ROWS)
def test_lists_survive_the_round_trip(rows):
    j = jagged(rows)
    assert j.to_lists() == rows
    assert len(j) == len(rows)
    assert j.lengths.tolist() == [len(r) for r in rows]
    assert j.max_length == max((len(r) for r in rows), default=0)


@given(ROWS, st.integers(0, 3))
def test_padded_form_survives_the_round_trip(rows, spare):
    j = jagged(rows)
    width = j.max_length + spare
    padded = j.to_padded(fill=77, length=width)
    assert padded.tolist() == [r + [77] * (width - len(r)) for r in rows]
    assert JaggedTensor.from_padded(padded, j.lengths).to_lists() == rows


@given(ROWS.filter(lambda rows: any(rows)))
def test_nested_form_holds_the_same_rows(rows):
    assert [r.tolist() for r in jagged(rows).to_nested().unbind()] == rows


@given(ROWS, st.integers(-7, 7), st.integers(-7, 7), st.sampled_from([1, 2, -1]))
def test_slices_are_those_of_a_list(rows, start, stop, step):
    assert jagged(rows)[start:stop:step].to_lists() == rows[start:stop:step]


@given(ROWS, st.integers(0, 8))
def test_ends_of_rows_are_those_of_lists(rows, n):
    j = jagged(rows)
    assert j.last(n).to_lists() == [r[max(0, len(r) - n) :] for r in rows]
    assert j.drop_last(n).to_lists() == [r[: max(0, len(r) - n)] for r in rows]
    assert j.drop_first(n).to_lists() == [r[n:] for r in rows]


@given(ROWS, st.data())
def test_each_row_may_lose_its_own_number_of_values(rows, data):
    counts = [data.draw(st.integers(0, 8)) for _ in rows]
    kept = jagged(rows).drop_last(torch.tensor(counts, dtype=torch.int64))
    assert kept.to_lists() == [r[: max(0, len(r) - n)] for r, n in zip(rows, counts, strict=True)]


@pytest.mark.parametrize("end", ["last", "drop_last", "drop_first"])
def test_a_negative_number_of_values_is_refused(end):
    with pytest.raises(ValueError, match="-1 values of a row"):
        getattr(jagged([[1, 2], [3]]), end)(-1)
    with pytest.raises(ValueError, match="-2 values of a row"):
        jagged([[1, 2], [3]]).drop_last(torch.tensor([1, -2]))


@given(ROWS.filter(bool), st.data())
def test_selected_rows_come_in_the_order_asked_for(rows, data):
    wanted = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=8))
    chosen = jagged(rows).select(torch.tensor(wanted, dtype=torch.int64))
    assert chosen.to_lists() == [rows[i] for i in wanted]


@given(ROWS)
def test_row_ids_and_positions_place_every_value(rows):
    j = jagged(rows)
    placed = zip(j.values.tolist(), j.row_ids().tolist(), j.positions().tolist(), strict=True)
    assert list(placed) == [(v, i, n) for i, r in enumerate(rows) for n, v in enumerate(r)]


@given(ROWS.filter(lambda rows: all(rows) and rows))
def test_last_values_are_the_ends_of_rows(rows):
    assert jagged(rows).last_values().tolist() == [r[-1] for r in rows]


@given(st.lists(st.integers(-2, 5), max_size=6), st.integers(0, 8))
def test_wrong_offsets_are_refused_and_right_ones_are_not(offsets, total):
    right = (
        bool(offsets) and offsets[0] == 0 and offsets[-1] == total and offsets == sorted(offsets)
    )
    values = torch.arange(total)
    if right:
        assert len(JaggedTensor(values, torch.tensor(offsets))) == len(offsets) - 1
    else:
        with pytest.raises(ValueError, match="offsets"):
            JaggedTensor(values, torch.tensor(offsets, dtype=torch.int64))


def test_offsets_of_another_dtype_are_refused_with_the_mend():
    with pytest.raises(TypeError, match=r"offsets\.long\(\)"):
        JaggedTensor(torch.arange(2), torch.tensor([0, 2], dtype=torch.int32))


def test_falling_offsets_are_named_with_their_row():
    with pytest.raises(ValueError, match="fall from 3 to 1 at row 1"):
        JaggedTensor(torch.arange(3), torch.tensor([0, 3, 1, 3]))


def test_a_scalar_is_not_a_batch():
    with pytest.raises(ValueError, match="values are a scalar"):
        JaggedTensor(torch.tensor(1), torch.tensor([0]))


@pytest.mark.parametrize("lengths", [[1, 3], [-1, 2]])
def test_lengths_outside_the_padded_width_are_refused(lengths):
    with pytest.raises(ValueError, match=f"lengths run from {min(lengths)} to {max(lengths)}"):
        JaggedTensor.from_padded(torch.zeros(2, 2), torch.tensor(lengths))


def test_an_empty_row_has_no_last_value():
    with pytest.raises(ValueError, match="row 1 is empty"):
        jagged([[1], []]).last_values()


def test_a_row_longer_than_the_rectangle_is_refused():
    with pytest.raises(ValueError, match="a row has 3 values, more than 2"):
        jagged([[1, 2, 3]]).to_padded(length=2)


def test_a_row_out_of_range_is_refused():
    with pytest.raises(IndexError, match="row 2 of a jagged tensor with 2 rows"):
        jagged([[1], [2]])[2]


def test_values_keep_their_inner_shape_and_their_gradient():
    values = torch.arange(6.0).view(3, 2).requires_grad_()
    j = JaggedTensor.from_lengths(values, torch.tensor([2, 0, 1]))
    assert j.to_padded().shape == (3, 2, 2)
    j.last(1).values.sum().backward()
    assert values.grad.tolist() == [[0, 0], [1, 1], [1, 1]]


def test_a_jagged_tensor_cannot_be_changed():
    with pytest.raises(AttributeError):
        jagged([[1]]).values = torch.zeros(1)


@given(st.lists(st.integers(0, 50), max_size=20))
def test_buckets_hold_every_filled_row_once_and_waste_little(lengths):
    buckets = length_buckets(torch.tensor(lengths, dtype=torch.int64))
    assert sorted(i for b in buckets for i in b.tolist()) == [i for i, n in enumerate(lengths) if n]
    for bucket in buckets:
        inside = [lengths[i] for i in bucket.tolist()]
        assert min(inside) >= FILL * max(inside)


def test_new_values_lie_in_the_same_rows_and_must_be_as_many():
    rows = JaggedTensor.from_lists([[1, 2], [], [3]])
    found = rows.with_values(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    assert found.to_lists() == [[[1.0, 2.0], [3.0, 4.0]], [], [[5.0, 6.0]]]
    assert found.offsets is rows.offsets and rows.to_lists() == [[1, 2], [], [3]]
    with pytest.raises(ValueError, match="offsets end at 3, but there are 2 values"):
        rows.with_values(torch.zeros(2))
    with pytest.raises(ValueError, match="values are a scalar"):
        rows.with_values(torch.tensor(1.0))
    with pytest.raises(ValueError, match="values are on meta and offsets on cpu"):
        rows.with_values(torch.zeros(3, device="meta"))
