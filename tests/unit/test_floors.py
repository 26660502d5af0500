"""The package in floors: a room (a module or folder of it) imports only from lower floors."""

import pytest

from fingerprint import ModuleGraph
from layout import Book

FLOORS = [
    {"jagged", "metrics", "notebook", "training", "checkpoint"},
    {"kernels", "datasets"},
    {"encoders", "similarity", "losses"},
    {
        "retrieval", "ranking", "scaling", "request_only", "decoding", "headlines",
        "graph_regularization",
    },
    {"recipes", "recommender", "bench"},
    {"cli"},
]  # fmt: skip
FLOOR = {room: number for number, rooms in enumerate(FLOORS, start=1) for room in rooms}
# Rooms that need another of their own floor: imports that are as good as downwards.
SAME_FLOOR = {
    ("metrics", "jagged"),
    ("training", "checkpoint"),
    ("losses", "similarity"),
    ("request_only", "ranking"),
    ("bench", "recipes"),
}


def crossings(graph):
    """Return "module -> module" for every import that does not lead to a lower floor."""
    found = []
    for module, path in graph.files.items():
        for other in sorted(graph.named_in(path.read_text(encoding="utf-8"), module)):
            if graph.package.name in (module, other):  # the package itself is no room
                continue
            room, needed = module.split(".")[1], other.split(".")[1]
            if room == needed or (room, needed) in SAME_FLOOR:
                continue
            if FLOOR[needed] >= FLOOR[room]:
                found.append(f"{module} -> {other}")
    return found


def test_a_room_imports_only_from_rooms_on_lower_floors():
    book = Book()
    graph = ModuleGraph(book.root / book.package)
    rooms = {name.split(".")[1] for name in graph.files if "." in name}
    assert rooms <= set(FLOOR), "give the new room a floor in this test"
    assert crossings(graph) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from genrec_lite.retrieval import h_indexer", ["retrieval", "retrieval.h_indexer"]),
        ("def later():\n    from ..losses import loss", ["losses"]),
        ("from genrec_lite.jagged import JaggedTensor", []),
    ],
)
def test_an_import_from_the_same_or_a_higher_floor_is_found(tmp_path, source, found):
    package = tmp_path / "genrec_lite"
    for name in ("jagged", "losses", "retrieval/__init__", "retrieval/h_indexer"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / f"{name}.py").write_text("")
    (package / "similarity").mkdir()
    (package / "similarity" / "dot_product.py").write_text(source)
    names = [f"genrec_lite.similarity.dot_product -> genrec_lite.{name}" for name in found]
    assert crossings(ModuleGraph(package)) == names
