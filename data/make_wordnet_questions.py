"""Writes wordnet_questions.parquet, wordnet_passages.parquet, wordnet_questions.safetensors.

Needs Debian's package wordnet-base (WordNet 3.0) and `pip install 'genrec-lite[sentences]'`; then
`python data/make_wordnet_questions.py [FOLDER WITH data.noun]`. About four minutes on one core.
"""

import random
import re
import sys
from collections import defaultdict
from pathlib import Path

import polars as pl
from safetensors.torch import save_file

from genrec_lite.datasets.question_answering import embed, pack, unpack

HERE = Path(__file__).parent
WORDNET = Path("/usr/share/wordnet")
WORDS = 1000  # as many as 2 MB hold
SENSES = (3, 4)  # of an entry; each sense is a part of the passage
EXAMPLES = 2  # questions of a sense at most


def forms(word: str) -> set[str]:
    """The word and its regular inflections (and some that do not exist)."""
    word = word.lower()
    found = {word + end for end in ("", "s", "es", "d", "ed", "ing", "er", "est", "ly")}
    found |= {word + word[-1] + end for end in ("ed", "ing", "er", "est")}
    if word.endswith("e"):
        found |= {word[:-1] + end for end in ("ing", "ed", "es")}
    if word.endswith("y"):
        found |= {word[:-1] + end for end in ("ies", "ied", "ier", "iest")}
    return found


def used_in(example: str, words: list[str]) -> str | None:
    """The first of a sense's words that its example uses."""
    tokens = set(re.findall(r"[a-z'-]+", example.lower()))
    return next((w for w in words if " " not in w and tokens & forms(w)), None)


def entries(folder: Path) -> dict[str, list[tuple[str, list[str]]]]:
    """For each word its senses that have an example with it: definition and examples.

    A sense belongs to the word that its first example uses.
    """
    found = defaultdict(list)
    for part in ("noun", "verb", "adj", "adv"):
        for line in (folder / f"data.{part}").read_text("latin-1").splitlines():
            if line.startswith("  "):  # the licence at the head of the file
                continue
            head, gloss = line.split("|", 1)
            cells = head.split()
            words = [
                re.sub(r"\((?:a|p|ip)\)$", "", cells[4 + 2 * n]).replace("_", " ")
                for n in range(int(cells[3], 16))
            ]
            definition = re.split(r';?\s*"', gloss.strip())[0].strip(" ;:")
            uses = [(text, used_in(text, words)) for text in re.findall(r'"([^"]+)"', gloss)]
            uses = [(text, word) for text, word in uses if word]
            if definition and uses:
                word = uses[0][1]
                examples = [text for text, other in uses if other == word][:EXAMPLES]
                found[word.lower()].append((definition, examples))
    return found


def main() -> None:
    """Writes the three files; stops if the folder holds another WordNet than 3.0."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else WORDNET
    if "WordNet 3.0" not in (folder / "data.noun").read_text("latin-1")[:2000]:
        raise SystemExit(f"{folder} does not hold WordNet 3.0")
    found = entries(folder)
    words = sorted(word for word, senses in found.items() if len(senses) in SENSES)
    words = sorted(random.Random(0).sample(words, WORDS))
    senses = [[definition for definition, _ in found[word]] for word in words]
    asked = [
        (word, example, place)
        for place, word in enumerate(words)
        for _, examples in found[word]
        for example in examples
    ]
    questions = pl.DataFrame(asked, schema=["word", "example", "passage"], orient="row")
    questions = questions.with_columns(pl.col("passage").cast(pl.Int32))
    questions.write_parquet(HERE / "wordnet_questions.parquet", compression_level=22)
    passages = pl.DataFrame({"word": words, "senses": senses})
    passages.write_parquet(HERE / "wordnet_passages.parquet", compression_level=22)
    vectors = {
        "questions": embed([f'What does "{w}" mean in "{e}"?' for w, e, _ in asked]),
        "passages": embed([". ".join(entry) for entry in senses]),
        "senses": embed([sense for entry in senses for sense in entry]),
    }
    for name, full in vectors.items():
        kept = (unpack(pack(full)) * full).sum(1).min()
        print(f"{name}: {len(full)}, cosine with the unrounded vector at least {kept:.4f}")
    packed = {name: pack(full) for name, full in vectors.items()}
    save_file(packed, HERE / "wordnet_questions.safetensors")


if __name__ == "__main__":
    main()
