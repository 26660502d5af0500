"""The listing of the package: public names only, read without importing."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "book" / "_ext"))

from api_listing import read_package  # noqa: E402

SOURCE = '''"""Rooms
of a house."""
__all__ = ["Room", "enter"]

class Room:
    """A `room`.

    More.
    """
    size: int
    _key: str
    @property
    def area(self) -> int:
        """Its area."""
    def open(self, door: str = "front", *, wide: bool = False) -> None:
        """Opens a door."""
    def _hidden(self): ...

def enter(room: Room, /, *others: Room) -> bool:
    """Whether one may."""

def secret(): ...

raise RuntimeError("imported")
'''


def test_a_listing_holds_what_modules_offer_and_imports_none(tmp_path):
    package = tmp_path / "house"
    (package / "cellar").mkdir(parents=True)
    (package / "__init__.py").write_text("__all__ = []\n")
    (package / "cellar" / "__init__.py").write_text("")
    (package / "cellar" / "rooms.py").write_text(SOURCE)
    (module,) = read_package(package)
    assert (module.name, module.summary) == ("house.cellar.rooms", "Rooms of a house.")
    room, enter = module.entries
    assert (room.signature, room.summary) == ("Room(size)", "A `room`.")
    assert [m.signature for m in room.methods] == ["area", "open(door='front', *, wide=False)"]
    assert enter.signature == "enter(room, /, *others)"
