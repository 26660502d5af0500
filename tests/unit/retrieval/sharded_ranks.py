"""One rank of test_sharded: builds its shard, searches with the others, compares with one index.

Run as: sharded_ranks.py RENDEZVOUS_FILE RANK RANKS
"""

import sys
from datetime import timedelta

import torch
import torch.distributed as dist

from genrec_lite.jagged import JaggedTensor
from genrec_lite.retrieval.brute_force import BruteForce
from genrec_lite.retrieval.mol_top_k import ExactTwoPass
from genrec_lite.retrieval.sharded import ShardedIndex
from genrec_lite.similarity.dot_product import DotProduct
from genrec_lite.similarity.mixture_of_logits import MixtureOfLogits
from genrec_lite.similarity.sides import concatenate

KINDS, COPIES, QUERIES, DIM = 40, 3, 5, 16
N = KINDS * COPIES


@torch.no_grad()
def compare(rank: int) -> None:
    mixture = MixtureOfLogits(
        DIM, query_components=4, item_components=2, component_dim=16, gate_dim=32, query_hidden=32
    ).eval()
    generator = torch.Generator().manual_seed(0)
    x, embeddings = torch.randn(QUERIES + KINDS, DIM, generator=generator).split([QUERIES, KINDS])
    ids = torch.randperm(500, generator=generator)[:N]
    exclude = JaggedTensor.from_lists(
        [[], ids[:50], ids[-3:], torch.tensor([700]), ids[60:90]], torch.int64
    )
    for similarity, kind in ((DotProduct(), BruteForce), (mixture, BruteForce),
                             (mixture, ExactTwoPass)):  # fmt: skip
        queries = similarity.queries(x)
        for dtype in (torch.float32, torch.bfloat16):
            items = concatenate([similarity.items(embeddings)] * COPIES).to(dtype)
            for cut in (N // 2, 7, N, 0):  # equal, unequal, and empty shards
                own = slice(0, cut) if rank == 0 else slice(cut, N)
                sharded = ShardedIndex(kind(similarity, items[own], ids[own]))
                whole = kind(similarity, items, ids)
                assert len(sharded) == N
                for k, left_out in ((1, None), (20, exclude), (N - 50, exclude), (N, None)):
                    found = sharded.search(queries, k, left_out)
                    expected = whole.search(queries, k, left_out)
                    assert torch.equal(found.ids, expected.ids), (kind, dtype, cut, k)
                    assert torch.equal(found.scores, expected.scores), (kind, dtype, cut, k)
                    assert (found.rescored >= k).all() and (found.rescored <= N).all()
                raises(ValueError, "only 70 items", sharded, queries, 71, exclude)
                raises(ValueError, f"only {N} items", sharded, queries, N + 1)
    own = slice(0, 10) if rank == 0 else slice(10, N)
    shard = ShardedIndex(BruteForce(mixture, items[own], ids[own]))
    if rank == 1:
        shard.shard.corpus.blocks[0].items.components[3] = float("nan")  # no check sees this
        raises(ValueError, "is NaN", shard, queries, 1)
    else:
        raises(RuntimeError, "failed on 1 other rank", shard, queries, 1)
    if rank == 1:
        shard.shard.similarity = None  # an error that nobody foresaw
        raises(AttributeError, "score", shard, queries, 1)
    else:
        raises(RuntimeError, "failed on 1 other rank", shard, queries, 1)


def raises(kind: type[Exception], told: str, index: ShardedIndex, *question: object) -> None:
    try:
        index.search(*question)
    except kind as error:
        assert told in str(error), error
        return
    raise AssertionError(f"no {kind.__name__}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    file, rank, ranks = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    dist.init_process_group(
        "gloo", init_method=f"file://{file}", rank=rank, world_size=ranks,
        timeout=timedelta(seconds=60),
    )  # fmt: skip
    compare(rank)
    dist.destroy_process_group()
    print("all cases equal")
