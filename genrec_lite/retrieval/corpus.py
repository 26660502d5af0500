"""The items of an index: in blocks, so that adding and removing touch few of them; in files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from genrec_lite.checkpoint import replaced_whole
from genrec_lite.similarity.sides import Side, concatenate, side_of, tensors_of

__all__ = ["Block", "Corpus", "device_of"]

# Items a block at most: adding to one or removing from it copies 70 MB at most at the paper's
# sizes, and 1M items are 16 blocks, so few that what is done once a block costs nothing.
BLOCK_ITEMS = 65_536

FORMAT, VERSION = "genrec-lite index", 1


@dataclass(frozen=True)
class Block:
    """Some items of a corpus, in the order of their ids.

    Args:
        ids: (n,) int64, ascending.
        items: the item side of each.
        beside: further tensors (n, ...) by name, as an index needs them.
    """

    ids: Tensor
    items: Side
    beside: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, places: slice | Tensor) -> Block:
        """The block of some places, ascending: views for a slice, copies for numbers."""
        beside = {name: tensor[places] for name, tensor in self.beside.items()}
        return Block(self.ids[places], self.items[places], beside)

    def places_of(self, ids: Tensor) -> Tensor:
        """(E,) int64, the place in this block of each of the ids (E,); -1 if it is not here."""
        if not len(self) or not len(ids):
            return torch.full_like(ids, -1)
        first, last = int(self.ids[0]), int(self.ids[-1])
        if last - first == len(self) - 1:  # no gaps: nothing to look up
            places = ids - first
            return places.masked_fill((ids < first) | (ids > last), -1)
        places = torch.searchsorted(self.ids, ids).clamp(max=len(self) - 1)
        return places.masked_fill(self.ids[places] != ids, -1)

    def tensors(self) -> dict[str, Tensor]:
        """All that the block holds, by name."""
        items = {f"items.{name}": tensor for name, tensor in tensors_of(self.items).items()}
        beside = {f"beside.{name}": tensor for name, tensor in self.beside.items()}
        return {"ids": self.ids, **items, **beside}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Block:
        """The block of what `tensors` named."""
        parts: dict[str, dict[str, Tensor]] = {"items": {}, "beside": {}}
        for name, tensor in tensors.items():
            kind, _, rest = name.partition(".")
            if kind != "ids":
                parts[kind][rest] = tensor
        return cls(tensors["ids"], side_of(parts["items"]), parts["beside"])


class Corpus:
    """Items with their ids, in blocks of at most `BLOCK_ITEMS`.

    The tensors given are kept as views, not copied (unless the ids are not ascending): do not
    change them afterwards. A block that loses or gains items gets tensors of its own.

    Args:
        items: item sides of N items; 0 are allowed, for they give the sizes of items to come.
        ids: (N,) int64, distinct and at least 0; 0 to N - 1 unless given.
        beside: further tensors (N, ...) by name, kept in step with the items.
    Raises:
        ValueError: if an id comes twice or is negative, the numbers of rows differ, or a number
            is NaN or infinite.
    """

    def __init__(
        self, items: Side, ids: Tensor | None = None, beside: Mapping[str, Tensor] | None = None
    ) -> None:
        if ids is None:
            ids = torch.arange(len(items), device=device_of(items))
        whole = _block(items, ids, beside or {})
        # Numbers, not a slice: a view would keep all the memory.
        self.template = whole[torch.empty(0, dtype=torch.int64, device=ids.device)]
        self.blocks: tuple[Block, ...] = tuple(_cut(whole))

    def __len__(self) -> int:
        return sum(len(block) for block in self.blocks)

    @property
    def device(self) -> torch.device:
        """Where the items are."""
        return device_of(self.template.items)

    @property
    def precision(self) -> torch.dtype:
        """What the numbers of the items are kept in."""
        return next(iter(tensors_of(self.template.items).values())).dtype

    @property
    def memory_bytes(self) -> int:
        """Bytes of all items: N (8 for the id + what the tensors take for one row)."""
        rows = self.template.tensors().values()
        return len(self) * sum(row.shape[1:].numel() * row.element_size() for row in rows)

    def add(self, items: Side, ids: Tensor, beside: Mapping[str, Tensor] | None = None) -> None:
        """Takes in new items, in the precision of the old; full blocks stay as they are.

        Args:
            items, ids, beside: as when the corpus was made.
        Raises:
            ValueError: as when the corpus was made; also if an id is here already, or the sizes
                differ from those of the corpus. Nothing is then changed.
        """
        # Converted before the check: what float32 holds may be inf in float16.
        block = _block(items.to(self.precision), ids, beside or {})
        _check_alike(block, self.template)
        for other in self.blocks:
            here = other.places_of(block.ids) >= 0
            if bool(here.any()):
                raise ValueError(
                    f"id {int(block.ids[here][0])} is in the corpus already: remove it first"
                )
        self.blocks = _merged([*self.blocks, *_cut(block)])

    def remove(self, ids: Tensor) -> None:
        """Takes out the items of these ids (E,) int64; blocks without them stay as they are.

        Raises:
            ValueError: if an id is not here, or comes twice. Nothing is then changed.
        """
        _check_ids(ids)
        found = torch.zeros_like(ids, dtype=torch.bool)
        blocks = []
        for block in self.blocks:
            places = block.places_of(ids)
            here = places >= 0
            found |= here
            if bool(here.any()):
                kept = torch.ones(len(block), dtype=torch.bool, device=ids.device)
                kept[places[here]] = False
                block = block[kept.nonzero().flatten()]
            blocks.append(block)
        if not bool(found.all()):
            raise ValueError(
                f"id {int(ids[~found][0])} is not in the corpus: only its own ids can be removed"
            )
        self.blocks = _merged(blocks)

    def beside_of(self, tables: Callable[[Side], Mapping[str, Tensor]]) -> Corpus:
        """The same items and ids, with what `tables` makes of each block's items beside them."""
        corpus = Corpus(self.template.items, self.template.ids, tables(self.template.items))
        corpus.blocks = tuple(Block(b.ids, b.items, tables(b.items)) for b in self.blocks)
        return corpus

    def pieces(self, size: int) -> Iterator[Block]:
        """All items as views of at most `size` items each, no piece in two blocks."""
        for block in self.blocks:
            for at in range(0, len(block), size):
                yield block[at : at + size]

    def starts(self) -> list[int]:
        """The place of each block's first item in the whole corpus."""
        starts, total = [], 0
        for block in self.blocks:
            starts.append(total)
            total += len(block)
        return starts

    def take(self, places: Tensor) -> tuple[Side, Tensor]:
        """Items and ids (m,) at `places` (m,) int64, ascending, of the whole corpus."""
        if len(self.blocks) == 1:
            only = self.blocks[0]
            return only.items[places], only.ids[places]
        starts = self.starts()
        edges = torch.searchsorted(
            places.contiguous(), torch.tensor(starts, device=places.device)
        ).tolist()
        sides, ids = [self.template.items], [self.template.ids]
        for block, start, begin, end in zip(
            self.blocks, starts, edges, [*edges[1:], len(places)], strict=True
        ):
            if end > begin:
                here = places[begin:end] - start
                sides.append(block.items[here])
                ids.append(block.ids[here])
        return concatenate(sides), torch.cat(ids)

    def save(self, path: Path | str, about: Mapping[str, Any]) -> None:
        """Writes all blocks to a safetensors file, whole or not at all.

        Args:
            path: its folder is made if need be.
            about: what must be the same when the file is read, as JSON.
        """
        tensors = {
            f"{number}.{name}": tensor.detach().cpu().contiguous()
            for number, block in enumerate([self.template, *self.blocks])
            for name, tensor in block.tensors().items()
        }
        meta = {"format": FORMAT, "version": VERSION, "about": about}
        with replaced_whole(Path(path)) as part:
            safetensors.torch.save_file(tensors, part, metadata={"index": json.dumps(meta)})

    @classmethod
    def load(cls, path: Path | str, about: Mapping[str, Any]) -> Corpus:
        """The corpus of a file that `save` wrote.

        Raises:
            ValueError: if the file is cut short, no index, of another version, or about something
                else; names the file and what differs.
        """
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                meta = json.loads((file.metadata() or {})["index"])
                if meta["format"] != FORMAT:
                    raise KeyError("format")
                tensors = {name: file.get_tensor(name) for name in file.keys()}
        except (safetensors.SafetensorError, KeyError, json.JSONDecodeError) as error:
            raise ValueError(
                f"{path} is cut short or no index: save the index again ({error})"
            ) from error
        if meta["version"] != VERSION:
            raise ValueError(
                f"{path} is an index of version {meta['version']}, this package reads version "
                f"{VERSION}: save the index again"
            )
        for name, value in json.loads(json.dumps(about)).items():
            if meta["about"].get(name) != value:
                raise ValueError(
                    f"{path} was written with {name} {meta['about'].get(name)}, here it is "
                    f"{value}: load it with the similarity that it was made with"
                )
        blocks: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            number, _, rest = name.partition(".")
            blocks.setdefault(int(number), {})[rest] = tensor
        template, *others = (Block.of(blocks[number]) for number in sorted(blocks))
        corpus = cls(template.items, template.ids, template.beside)
        corpus.blocks = tuple(others)
        return corpus


def _block(items: Side, ids: Tensor, beside: Mapping[str, Tensor]) -> Block:
    """The block of new items, checked and in the order of their ids."""
    _check_ids(ids)
    for name, rows in {"items": items, **beside}.items():
        if len(rows) != len(ids):
            raise ValueError(f"{len(ids)} ids for {len(rows)} rows of {name}: one id for each row")
    detached = side_of({name: tensor.detach() for name, tensor in tensors_of(items).items()})
    block = Block(ids, detached, {name: tensor.detach() for name, tensor in beside.items()})
    if bool((ids[1:] < ids[:-1]).any()):
        block = block[ids.argsort()]
    for piece in _cut(block):  # block by block: a mask of everything would take a lot of memory
        for name, tensor in piece.tensors().items():
            finite = tensor.isfinite()
            if not bool(finite.all()):
                row = int((~finite).nonzero()[0, 0])
                raise ValueError(
                    f"the {name} of id {int(piece.ids[row])} hold NaN or inf: such an item has no "
                    "place in any order; leave it out, or mend its embedding"
                )
    return block


def _check_ids(ids: Tensor) -> None:
    if ids.ndim != 1 or ids.dtype != torch.int64:
        raise ValueError(
            f"ids have shape {tuple(ids.shape)} and dtype {ids.dtype}: expected (N,), torch.int64"
        )
    if not len(ids):
        return
    ordered = ids if bool((ids[1:] > ids[:-1]).all()) else ids.sort().values
    twice = ordered[1:] == ordered[:-1]
    if bool(twice.any()):
        raise ValueError(f"id {int(ordered[1:][twice][0])} comes twice: ids are distinct")
    if int(ordered[0]) < 0:
        raise ValueError(f"id {int(ordered[0])} is negative: ids are at least 0")


def _check_alike(block: Block, template: Block) -> None:
    """Raises unless both blocks hold the same tensors with rows of the same sizes."""
    given, expected = (
        {name: tuple(tensor.shape[1:]) for name, tensor in each.tensors().items()}
        for each in (block, template)
    )
    for name in sorted(given.keys() | expected.keys(), reverse=True):  # items before beside
        if given.get(name) != expected.get(name):
            raise ValueError(
                f"{name} to be added have rows of {given.get(name)}, those of the corpus "
                f"{expected.get(name)}: compute them with the model that the corpus is made with"
            )


def _cut(block: Block) -> Iterator[Block]:
    return (block[at : at + BLOCK_ITEMS] for at in range(0, len(block), BLOCK_ITEMS))


def _merged(blocks: Sequence[Block]) -> tuple[Block, ...]:
    """The blocks without empty ones, a small block joined with the next one.

    A block is joined to one that is at least half its size, so that single additions copy each
    item about log(N) times, not N times, and leave about log(N) small blocks.
    """
    done: list[Block] = []
    for block in blocks:
        while (
            done and len(done[-1]) <= 2 * len(block) and len(done[-1]) + len(block) <= BLOCK_ITEMS
        ):
            block = _joined(done.pop(), block)
        if len(block):
            done.append(block)
    return tuple(done)


def _joined(one: Block, other: Block) -> Block:
    """One block of the items of two, in the order of their ids."""
    ids = torch.cat([one.ids, other.ids])
    beside = {name: torch.cat([one.beside[name], other.beside[name]]) for name in one.beside}
    block = Block(ids, concatenate([one.items, other.items]), beside)
    return block[ids.argsort()] if bool((ids[1:] < ids[:-1]).any()) else block


def device_of(items: Side) -> torch.device:
    """Where a side's numbers are."""
    return next(iter(tensors_of(items).values())).device
