"""What a run is: its data, model, loss, sizes and protocol, by name."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from genrec_lite.datasets import Sequences, load
from genrec_lite.encoders.hstu import HSTU
from genrec_lite.encoders.relative_bias import BIASES, Bias
from genrec_lite.encoders.sasrec import SASRec
from genrec_lite.retrieval.next_item import NextItemModel
from genrec_lite.similarity.dot_product import DotProduct
from genrec_lite.similarity.mixture_of_logits import MixtureOfLogits
from genrec_lite.similarity.projected_dot_product import ProjectedDotProduct

__all__ = [
    "PROTOCOLS",
    "RECIPES",
    "Mixture",
    "Recipe",
    "build_model",
    "read_recipe",
    "sequences_of",
]

PROTOCOLS = {
    "validated": "leave-last-out: each user's last item is the test, the one before it chooses the "
    "epoch; ranked in the whole corpus without the items that the user has seen",
    "published": "leave-last-out without validation: all but each user's last item is trained on, "
    "the last epoch's weights are tested; ranked in the whole corpus without the last items seen "
    "that the model looks at",
}


@dataclass(frozen=True)
class Mixture:
    """Sizes of a mixture of logits, see `MixtureOfLogits`; those of ML-1M in the public code.

    Args:
        user_buckets: rows of the user component's table; None for none.
        balance_weight: of the load-balancing loss.
    """

    query_components: int = 8
    item_components: int = 4
    component_dim: int = 64
    gate_dim: int = 128
    user_buckets: int | None = None
    balance_weight: float = 1e-3


@dataclass(frozen=True)
class Recipe:
    """A run that can be repeated from these numbers and a seed.

    Args:
        data: name in `genrec_lite.datasets`.
        repeats: False for the first time only that a user meets an item: where people buy the same
            again, a ranking without the seen items would hand them a repeated target for nothing.
        protocol: "validated" holds out a validation item and leaves all seen items out of the
            ranking; "published" is that of the public HSTU code: no validation, the last weights,
            only the last `max_length` seen items left out.
        encoder: "sasrec" or "hstu".
        dim, num_blocks, num_heads, max_length, dropout: of the encoder, see `SASRec`, `HSTU`.
        head_dim, bias: see `HSTU`; SASRec has neither.
        temperature: of the similarity.
        mixture: sizes of the similarity; None for the dot product.
        coarse_dim: width of a first stage trained beside it; None for none.
        num_negatives, num_positions: see `NextItemModel`.
        window: see `NextItemBatches`.
        epochs, batch_size, learning_rate, weight_decay: of AdamW with betas .9 and .98.
        evaluate_every: epochs between two measurements.
        patience: epochs without a better validation HR@10 before stopping; None in the published
            protocol, which has no validation.
    Raises:
        ValueError: if the protocol, the encoder or the bias is unknown.
    """

    data: str
    repeats: bool = field(default=True, kw_only=True)
    protocol: Literal["validated", "published"] = "validated"
    encoder: Literal["sasrec", "hstu"] = "sasrec"
    dim: int = 50
    num_blocks: int = 2
    num_heads: int = 1
    max_length: int = 200
    dropout: float = 0.2
    head_dim: int = 50
    bias: Bias = "both"
    temperature: float = 0.05
    mixture: Mixture | None = None
    coarse_dim: int | None = None
    num_negatives: int | None = None
    num_positions: int | None = None
    window: Literal["last", "any"] = "last"
    epochs: int = 100
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    evaluate_every: int = 1
    patience: int | None = None

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise ValueError(
                f"no protocol is called {self.protocol!r}: choose from {', '.join(PROTOCOLS)}"
            )
        if self.encoder not in ("sasrec", "hstu"):
            raise ValueError(f"no encoder is called {self.encoder!r}: choose sasrec or hstu")
        if self.bias not in BIASES:
            raise ValueError(f"bias is {self.bias!r}: choose from {', '.join(BIASES)}")


_PUBLIC_SASREC = Recipe(
    "ml-1m", protocol="published", num_negatives=128, epochs=101, evaluate_every=10
)
# The rows "HSTU" and "HSTU-large" of the same table.
_PUBLIC_HSTU = replace(_PUBLIC_SASREC, encoder="hstu")
_PUBLIC_LARGE = replace(_PUBLIC_HSTU, num_blocks=8, num_heads=2, head_dim=25)
_PUBLIC_MIXTURE = Mixture(user_buckets=6040)
# A mixture costs hours of a laptop's time a run in the public setting, so these comparisons look
# at 2,048 of a batch's 14,000 positions, for 60 epochs at three times the public learning rate,
# and the mixture is a fourth as large. No user component: both similarities know the same.
_SHORT = replace(
    _PUBLIC_SASREC,
    data="ml-1m-ordered",
    num_positions=2048,
    epochs=60,
    learning_rate=3e-3,
    evaluate_every=10,
)
# In trials of 6 epochs a temperature of .1 had the mixture learn faster than the public .05.
_SHORT_MIXTURE = replace(
    _SHORT,
    mixture=Mixture(query_components=4, item_components=2, component_dim=32, gate_dim=32),
    temperature=0.1,
    weight_decay=1e-3,
)

# A few hundred users: small batches, stretches of a history drawn anew, an early stop.
_SMALL = Recipe(
    "movielens-small",
    window="any",
    epochs=40,
    batch_size=32,
    learning_rate=3e-3,
    patience=8,
)
_SMALL_HSTU = replace(_SMALL, encoder="hstu", num_negatives=128)
_RETAIL_HSTU = replace(_SMALL_HSTU, data="online-retail", repeats=False, batch_size=64, epochs=20)
# Short histories without times, a larger corpus.
_BEAUTY = Recipe("amazon-beauty-ordered", max_length=50, num_negatives=128, epochs=40, patience=5)

RECIPES: dict[str, Recipe] = {
    "movielens-small-sasrec": replace(_SMALL, num_negatives=128),
    "movielens-small-sasrec-full": _SMALL,
    "movielens-small-mol": replace(
        _SMALL,
        mixture=Mixture(),
        coarse_dim=64,
        num_negatives=128,
        num_positions=1024,
        weight_decay=1e-3,
    ),
    # The row "SASRec" of the public HSTU table.
    "ml-1m-sasrec": _PUBLIC_SASREC,
    # The public setting of "SASRec + MoL": every position; hours of a laptop.
    "ml-1m-sasrec-mol": replace(_PUBLIC_SASREC, mixture=_PUBLIC_MIXTURE, weight_decay=1e-3),
    # SASRec on a copy of the data that has an order but no timestamps.
    "ml-1m-ordered-sasrec": replace(_PUBLIC_SASREC, data="ml-1m-ordered"),
    "ml-1m-hstu": _PUBLIC_HSTU,
    "ml-1m-hstu-large": _PUBLIC_LARGE,
    # The same under our protocol, so that the protocol's own share can be seen.
    "ml-1m-hstu-validated": replace(_PUBLIC_HSTU, protocol="validated", patience=30),
    "ml-1m-hstu-large-validated": replace(_PUBLIC_LARGE, protocol="validated", patience=30),
    # Without timestamps only the position bias is left.
    "ml-1m-ordered-hstu": replace(_PUBLIC_HSTU, data="ml-1m-ordered", bias="position"),
    "ml-1m-ordered-hstu-validated": replace(
        _PUBLIC_HSTU, data="ml-1m-ordered", bias="position", protocol="validated", patience=30
    ),
    "ml-1m-ordered-hstu-full": replace(
        _PUBLIC_HSTU, data="ml-1m-ordered", bias="position", num_negatives=None
    ),
    "ml-1m-ordered-hstu-large": replace(_PUBLIC_LARGE, data="ml-1m-ordered", bias="position"),
    # HSTU on logs with times, and which bias earns what there.
    **{
        f"{data}-hstu" + f"-{bias}" * (bias != "both"): replace(_SMALL_HSTU, data=data, bias=bias)
        for data in ("movielens-small", "ml-100k")
        for bias in BIASES
    },
    **{
        "online-retail-hstu" + f"-{bias}" * (bias != "both"): replace(_RETAIL_HSTU, bias=bias)
        for bias in BIASES
    },
    "amazon-beauty-ordered-sasrec": _BEAUTY,
    "amazon-beauty-ordered-hstu": replace(_BEAUTY, encoder="hstu", bias="position"),
    # Two similarities under one short training: equal encoder, batches, positions and epochs.
    "ml-1m-ordered-short-dot": _SHORT,
    "ml-1m-ordered-short-mol": _SHORT_MIXTURE,
    "ml-1m-ordered-short-mol-unbalanced": replace(
        _SHORT_MIXTURE,
        mixture=Mixture(4, 2, 32, 32, balance_weight=0.0),
    ),
}


def sequences_of(recipe: Recipe) -> Sequences:
    """All users' items that a recipe learns from and is tested on."""
    log = load(recipe.data)
    return (log if recipe.repeats else log.without_repeats()).sequences()


def build_model(recipe: Recipe, num_items: int, seed: int) -> NextItemModel:
    """The untrained model of a recipe."""
    sizes: dict[str, Any] = {
        name: getattr(recipe, name)
        for name in ("dim", "num_blocks", "num_heads", "max_length", "dropout")
    }
    encoder: SASRec | HSTU
    if recipe.encoder == "hstu":
        encoder = HSTU(num_items, **sizes, head_dim=recipe.head_dim, bias=recipe.bias, seed=seed)
    else:
        encoder = SASRec(num_items, **sizes, seed=seed)
    similarity: DotProduct | MixtureOfLogits = DotProduct(recipe.temperature)
    if recipe.mixture is not None:
        parts = asdict(recipe.mixture)
        del parts["balance_weight"]
        similarity = MixtureOfLogits(recipe.dim, temperature=recipe.temperature, seed=seed, **parts)
    coarse = None
    if recipe.coarse_dim is not None:
        coarse = ProjectedDotProduct(recipe.dim, recipe.coarse_dim, seed=seed)
    return NextItemModel(
        encoder,
        similarity,
        num_negatives=recipe.num_negatives,
        num_positions=recipe.num_positions,
        coarse=coarse,
        balance_weight=0.0 if recipe.mixture is None else recipe.mixture.balance_weight,
    )


def read_recipe(settings: dict[str, Any]) -> Recipe:
    """The recipe that `dataclasses.asdict` wrote as `settings`.

    Raises:
        TypeError, ValueError: if they are those of no recipe.
    """
    mixture = settings.get("mixture")
    return Recipe(**settings | {"mixture": None if mixture is None else Mixture(**mixture)})
