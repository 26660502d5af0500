"""Question answering with frozen sentence embeddings: learned heads beside the plain cosine.

    python -m genrec_lite.bench.question_answering [FILE] [--seeds N] [--record NAME]

FILE is of SQuAD's format or a Parquet table, see `read_pairs`; without one, the embedded set.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genrec_lite.datasets.question_answering import (
    QuestionAnswering,
    load_wordnet_questions,
    read_pairs,
)
from genrec_lite.notebook.record import write_record
from genrec_lite.recipes import half_interval
from genrec_lite.retrieval.paired import (
    HEADS,
    cosine_ranks,
    fit_pairs,
    pair_ranks,
    retrieval_metrics,
)

__all__ = ["compare_heads", "main"]

EPOCHS = {"dot, whole": 6, "dot, all": 6, "MoL, whole": 8, "MoL, all": 6}


def compare_heads(
    qa: QuestionAnswering, seeds: int, *, by: str = "passage", progress: bool = True
) -> dict[str, Any]:
    """Test metrics of the cosine and of each head, each seed with a split of its own.

    Args:
        qa: questions and passages.
        seeds: how many, 2 to 10.
        by: see `QuestionAnswering.split`.
        progress: print a line for each training.
    Returns:
        for each way "WAY hr@1", "... hr@10", "... mrr", means over the seeds; "... mrr by seed";
        "... start mrr", before training, and "... best epoch"; "... gain" over the best dot
        product in MRR, of the same seeds, with "... gain interval" (95%, Student's t); sizes.
    """
    runs: dict[str, list[dict[str, float]]] = {}
    parameters = {}
    for seed in range(seeds):
        split = qa.split(by=by, seed=seed)
        for way, best_part in (("cosine, whole", False), ("cosine, best part", True)):
            ranks = cosine_ranks(qa, split.test, best_part=best_part)
            runs.setdefault(way, []).append(retrieval_metrics(ranks))
        for way, make in HEADS.items():
            head = make(seed).eval()
            start = retrieval_metrics(pair_ranks(head, qa, split.test))["mrr"]
            run = fit_pairs(head, qa, split, epochs=EPOCHS[way], seed=seed, progress=False)
            found = retrieval_metrics(pair_ranks(head, qa, split.test))
            found |= {"start mrr": start, "best epoch": run.best_epoch + 1}
            found["validation mrr"] = run.best_value
            parameters[f"{way} parameters"] = sum(p.numel() for p in head.parameters())
            runs.setdefault(way, []).append(found)
            if progress:
                print(seed, way, {name: round(value, 4) for name, value in found.items()})
    means = {
        f"{way} {name}": sum(one[name] for one in found) / seeds
        for way, found in runs.items()
        for name in found[0]
    }
    # Which dot product is the rival is chosen where heads are chosen: by validation.
    rival = max(("dot, whole", "dot, all"), key=lambda way: means[f"{way} validation mrr"])
    values: dict[str, Any] = dict(means) | parameters | {"rival": rival, "split by": by}
    for way, measured in runs.items():
        values[f"{way} mrr by seed"] = [one["mrr"] for one in measured]
        for name in ("mrr", "hr@1"):
            gains = [
                one[name] - other[name] for one, other in zip(measured, runs[rival], strict=True)
            ]
            values[f"{way} {name} gain"] = sum(gains) / seeds
            if way != rival:
                values[f"{way} {name} gain interval"] = half_interval(gains)
    sizes = {"questions": len(qa.questions), "passages": len(qa.passages), "seeds": seeds}
    return values | sizes | {"test questions": len(qa.split(by=by).test)}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("file", nargs="?", help="pairs; a path or a name in GENREC_LITE_DATA")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--by", default="passage", choices=("passage", "document"))
    parser.add_argument("--record", metavar="NAME", help="write book/results/NAME.json")
    given = parser.parse_args(arguments)
    if given.file is None:
        qa = load_wordnet_questions()
    else:
        qa = QuestionAnswering.from_pairs(read_pairs(given.file), name=Path(given.file).stem)
    values = compare_heads(qa, given.seeds, by=given.by)
    for name, value in values.items():
        print(f"{name}: {value}")
    if given.record:
        words = [given.file or "", f"--seeds {given.seeds} --by {given.by}"]
        command = "python -m genrec_lite.bench.question_answering " + " ".join(filter(None, words))
        write_record(given.record, values, seed=0, command=f"{command} --record {given.record}")


if __name__ == "__main__":
    main()
