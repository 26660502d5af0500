from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from genrec_lite.bench import question_answering as bench
from genrec_lite.datasets.question_answering import QuestionAnswering
from genrec_lite.retrieval import paired
from genrec_lite.retrieval.paired import (
    HEADS,
    PassageDotProduct,
    PassageMixture,
    cosine_ranks,
    fit_pairs,
    pair_ranks,
    retrieval_metrics,
)

DIM = 16


def unit(*shape: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def many_sided(num_passages: int = 60) -> QuestionAnswering:
    """Passages of four unrelated parts; a question is one part, turned, with noise.

    The turn swaps the two halves of a vector: the encoder's own cosine knows nothing of it.
    """
    parts = unit(num_passages, 4, DIM, seed=0)
    whole = F.normalize(parts.mean(1), dim=-1)
    answers = torch.arange(num_passages).repeat_interleave(4)
    asked = parts.flatten(0, 1).roll(DIM // 2, dims=1)
    questions = F.normalize(asked + 0.3 * unit(*asked.shape, seed=1), dim=-1)
    return QuestionAnswering(
        "many-sided",
        ["?"] * len(answers),
        [["."] * 4] * num_passages,
        answers,
        torch.arange(num_passages) % 20,
        questions,
        torch.cat([whole[:, None], parts], 1),
    )


def straight() -> QuestionAnswering:
    qa = many_sided()
    turned = qa.question_vectors.roll(DIM // 2, dims=1)
    return QuestionAnswering(**{**vars(qa), "question_vectors": turned})


@pytest.mark.parametrize("best_part", [False, True])
def test_cosine_ranks_equal_a_loop_in_float64(best_part: bool) -> None:
    qa, rows = straight(), torch.tensor([3, 77, 200])
    expected = []
    for row in rows.tolist():
        question = qa.question_vectors[row].double()
        scores = [
            max(float(question @ v.double()) for v in (passage if best_part else passage[:1]))
            for passage in qa.passage_vectors
        ]
        expected.append(1 + sum(score > scores[int(qa.answers[row])] for score in scores))
    assert cosine_ranks(qa, rows, best_part=best_part).tolist() == expected


def test_a_dot_product_of_the_whole_text_starts_at_the_encoders_cosine() -> None:
    qa, rows = straight(), torch.arange(240)
    head = PassageDotProduct(DIM, 1, DIM).eval()
    assert torch.equal(pair_ranks(head, qa, rows), cosine_ranks(qa, rows))
    scores = head.score(head.queries(qa.question_vectors[:5]), head.items(qa.passage_vectors[:7]))
    expected = qa.question_vectors[:5] @ qa.passage_vectors[:7, 0].T / 0.05
    assert torch.allclose(scores, expected, atol=1e-4)


def test_a_mixture_starts_between_the_mean_and_the_best_of_the_passages_cosines() -> None:
    qa = straight()
    q, x = qa.question_vectors[:40], qa.passage_vectors
    cosines = torch.einsum("bd,nvd->bnv", q, x)
    for sharpness, expected in ((0.0, cosines.mean(2)), (50.0, cosines.amax(2))):
        head = PassageMixture(DIM, 5, DIM, sharpness=sharpness).eval()
        scores = head.score(head.queries(q), head.items(x)) * 0.05
        positive = cosines.amax(2) > 0.1  # the gate cannot tell logits far below 0 apart
        assert torch.allclose(scores[positive], expected[positive], atol=1e-2)


def test_training_learns_the_turn_and_the_mixture_the_parts() -> None:
    qa = many_sided()
    split = qa.split(seed=0)
    mrr = {}
    for name, head in (
        ("dot", PassageDotProduct(DIM, 5, DIM)),
        ("mixture", PassageMixture(DIM, 5, DIM, gate_dim=8)),
    ):
        start = retrieval_metrics(pair_ranks(head.eval(), qa, split.test))["mrr"]
        run = fit_pairs(head, qa, split, epochs=60, learning_rate=1e-2, progress=False)
        mrr[name] = retrieval_metrics(pair_ranks(head, qa, split.test))["mrr"]
        assert mrr[name] > start + 0.1
        assert len(run.epochs) == 60 and not head.training
    assert mrr["mixture"] > mrr["dot"] + 0.1


def test_no_passage_outside_the_training_part_is_seen_in_training() -> None:
    qa = many_sided()
    split = qa.split(seed=0)
    unseen = torch.ones(60, dtype=torch.bool)
    unseen[qa.answers[split.train]] = False
    others = QuestionAnswering(
        **{**vars(qa), "passage_vectors": qa.passage_vectors.masked_fill(unseen[:, None, None], 1)}
    )
    weights = []
    for one in (qa, others):
        head = PassageMixture(DIM, 5, DIM, gate_dim=8)
        # One epoch: which one is kept then does not depend on the validation.
        fit_pairs(head, one, split, epochs=1, progress=False)
        weights.append(torch.cat([p.detach().flatten() for p in head.parameters()]))
    assert torch.equal(*weights)


def test_a_large_corpus_is_sampled_and_each_questions_own_passage_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(paired, "RIVALS", 3)
    monkeypatch.setattr(paired, "BATCH", 2)
    qa = straight()
    head = PassageDotProduct(DIM, 5, DIM)
    run = fit_pairs(head, qa, qa.split(), epochs=1, progress=False)
    assert 0 < run.epochs[0].loss < 6


def test_a_map_wider_than_the_embeddings_is_refused() -> None:
    with pytest.raises(ValueError, match="17 orthogonal maps of 16 numbers"):
        PassageMixture(DIM, 5, DIM + 1)


def test_the_heads_compared_have_equally_many_parameters() -> None:
    sizes = {name: sum(p.numel() for p in make(0).parameters()) for name, make in HEADS.items()}
    rivals = [sizes.pop("dot, all"), *sizes.values()]
    assert min(rivals) * 2.9 < rivals[0]  # the rival may have more, not less
    assert max(rivals[1:]) < 1.01 * min(rivals[1:])


def test_the_comparison_reports_gains_over_the_dot_product_that_validation_chose(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = {
        "dot, whole": lambda seed: PassageDotProduct(DIM, 1, DIM, seed=seed),
        "dot, all": lambda seed: PassageDotProduct(DIM, 5, DIM, seed=seed),
        "MoL, all": lambda seed: PassageMixture(DIM, 5, DIM, gate_dim=8, seed=seed),
    }
    monkeypatch.setattr(bench, "HEADS", small)
    monkeypatch.setattr(bench, "EPOCHS", dict.fromkeys(small, 2))
    values = bench.compare_heads(straight(), 2, progress=False)
    rival = values["rival"]
    assert values["MoL, all mrr gain"] == pytest.approx(
        values["MoL, all mrr"] - values[f"{rival} mrr"]
    )
    assert values[f"{rival} mrr gain"] == 0
    assert values["MoL, all mrr gain interval"] > 0
    assert values["seeds"] == 2 and values["passages"] == 60
