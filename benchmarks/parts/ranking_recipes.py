"""Settings of every ranker on every data set, as overrides of the shipped configurations."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from benchmarks.parts.planting import PLANTED

BACKBONES = ("lr", "fm", "deepfm", "dcn_v2", "ipnn")
PLANT_IN = ("ml-100k", "globo-news")
"""Data sets that get a meaningless copy of their item ids as one more field."""


@dataclass(frozen=True)
class Recipe:
    """`config` is the shipped configuration; the rest are overrides (`key.path=value`).

    `data` make the data set (`quick_data` a small one), `ranking` hold for all backbones and `backbones` for one each.
    `kappas` are the penalties that the first seed tries, by backbone or for `all`.
    """

    config: str
    data: tuple[str, ...]
    quick_data: tuple[str, ...]
    ranking: tuple[str, ...]
    backbones: Mapping[str, tuple[str, ...]]
    kappas: Mapping[str, tuple[float, ...]]
    published: Mapping[str, float] = field(default_factory=dict)


_DEEP = (
    "ranking.model.hidden=[128, 128]",
    "ranking.model.batch_norm=true",
    "ranking.model.dropout=0.2",
    "ranking.train.l2_embeddings=0.005",
    "ranking.train.learning_rate=0.002",
    "ranking.train.epochs=30",
)

_SMALL = (
    "ranking.model.hidden=[64, 32]",
    "ranking.model.dropout=0.2",
    "ranking.train.l2_embeddings=0.005",
    "ranking.train.learning_rate=0.001",
    "ranking.train.epochs=8",
)

_GLOBO_CONTEXT = ("environment", "device_group", "os", "country", "region", "referrer_type", "hour", "recent", "last")
_GLOBO_ITEM = ("item", "age", "clicks_5m", "clicks_15m", "clicks_30m", "clicks_1h", "clicks_6h", "clicks_1d")

RECIPES = {
    "frappe": Recipe(
        config="frappe.yaml",
        data=(),
        quick_data=(),
        ranking=(
            "ranking.model.embedding_dim=10",
            "ranking.model.initial_scale=0.01",
            "ranking.train.batch_size=2048",
            "ranking.train.patience=3",
            "ranking.train.plateau=0.1",
            "ranking.gates.mode=value-dense",
            "ranking.gates.kappa=1",
            "ranking.gates.search_epochs=12",
            "ranking.gates.learning_rate=0.0007",
        ),
        backbones={
            "lr": ("ranking.train.learning_rate=0.02", "ranking.train.epochs=25"),
            "fm": (
                "ranking.train.learning_rate=0.005",
                "ranking.train.plateau=1",
                "ranking.train.patience=2",
                "ranking.train.epochs=25",
                "ranking.train.l2_embeddings=0.00001",
                "ranking.gates.search_epochs=30",
                "ranking.gates.learning_rate=0.0003",
            ),
            "deepfm": _DEEP,
            "dcn_v2": _DEEP,
            "ipnn": _DEEP,
        },
        kappas={
            "deepfm": (14.0, 18.0),
            "dcn_v2": (16.0, 19.0),
            "fm": (14.0, 15.0, 15.5, 16.0, 20.0),
            "ipnn": (13.0, 17.0),
        },
        published={"lr": 0.9356, "fm": 0.9671, "deepfm": 0.9842, "dcn_v2": 0.9845, "ipnn": 0.9841},
    ),
    "ml-100k": Recipe(
        config="ml-100k.yaml",
        data=("ingest.split.validation=0.1",),
        quick_data=(),
        ranking=(
            "ranking.model.embedding_dim=10",
            "ranking.model.initial_scale=0.01",
            "ranking.train.batch_size=1024",
            "ranking.train.patience=2",
            "ranking.train.plateau=0.1",
            "ranking.gates.mode=value-dense",
            "ranking.gates.kappa=1",
            "ranking.gates.search_epochs=5",
            "ranking.gates.learning_rate=0.01",
        ),
        backbones={
            "lr": ("ranking.train.learning_rate=0.01", "ranking.train.epochs=15"),
            "fm": (
                "ranking.train.learning_rate=0.01",
                "ranking.train.epochs=12",
                "ranking.train.l2_embeddings=0.0001",
                "ranking.gates.search_epochs=3",
                "ranking.gates.learning_rate=0.03",
            ),
        }
        | dict.fromkeys(
            ("deepfm", "dcn_v2", "ipnn"),
            (
                *_SMALL,
                "ranking.model.dropout=0.4",
                "ranking.train.l2_embeddings=0.02",
                "ranking.train.epochs=12",
            ),
        ),
        kappas={"fm": (0.5, 1.0, 2.0), "deepfm": (0.1, 0.25), "dcn_v2": (0.05, 0.1), "ipnn": (0.05, 0.1)},
    ),
    "globo-news": Recipe(
        config="globo-news.yaml",
        # One day of training, 2017-10-06, before the configuration's days of validation and test.
        data=("data.hours=[120, 192]",),
        quick_data=("data.hours=[142, 148]", "ingest.split.test=2017-10-07T05:00:00"),
        ranking=(
            f"ranking.model.features={[*_GLOBO_CONTEXT, PLANTED, *_GLOBO_ITEM]}",
            "ranking.model.embedding_dim=8",
            "ranking.model.min_count=5",
            "ranking.model.initial_scale=0.01",
            "ranking.model.numeric.default=quantile",
            "ranking.train.batch_size=4096",
            "ranking.train.order=time",
            "ranking.train.negatives={per_positive: 4, source: batch}",
            "ranking.train.patience=1",
            "ranking.gates.mode=value-dense",
            "ranking.gates.kappa=1",
            "ranking.gates.warmup_epochs=2",
            "ranking.gates.search_epochs=3",
            "ranking.gates.learning_rate=0.005",
            # In three epochs weights do not recover from being multiplied by c = 1.6 all at once.
            "ranking.gates.rewind_epoch=0",
        ),
        backbones={
            "lr": ("ranking.train.learning_rate=0.01", "ranking.train.epochs=4"),
            "fm": (
                "ranking.train.learning_rate=0.001",
                "ranking.train.epochs=3",
                "ranking.train.l2_embeddings=0.003",
            ),
        }
        | dict.fromkeys(
            ("deepfm", "dcn_v2", "ipnn"),
            (
                "ranking.model.hidden=[64, 32]",
                "ranking.model.batch_norm=true",
                "ranking.model.dropout=0.4",
                "ranking.train.l2_embeddings=0.05",
                "ranking.train.learning_rate=0.001",
                "ranking.train.epochs=4",
            ),
        ),
        kappas={"all": (1.0, 4.0)},
    ),
    "simulator": Recipe(
        config="demo.yaml",
        data=("data.impressions=400000", "data.users=4000", "data.items=800"),
        quick_data=("data.impressions=40000", "data.users=1000", "data.items=300"),
        ranking=(
            "ranking.model.embedding_dim=8",
            "ranking.model.initial_scale=0.01",
            "ranking.train.batch_size=2048",
            "ranking.train.patience=3",
            "ranking.position.field=position",
            "ranking.gates.mode=value-dense",
            "ranking.gates.kappa=1",
            "ranking.gates.warmup_epochs=10",
            "ranking.gates.search_epochs=6",
            "ranking.gates.learning_rate=0.01",
        ),
        backbones={
            "lr": ("ranking.train.learning_rate=0.01", "ranking.train.epochs=10"),
            "fm": (
                "ranking.train.learning_rate=0.005",
                "ranking.train.epochs=20",
                "ranking.train.l2_embeddings=0.00003",
            ),
        }
        | dict.fromkeys(
            ("deepfm", "dcn_v2", "ipnn"),
            (
                *_SMALL,
                "ranking.train.learning_rate=0.002",
                "ranking.train.epochs=20",
                "ranking.train.l2_embeddings=0.001",
            ),
        ),
        kappas={"all": (4.0, 8.0)},
    ),
}

# The same shop and rankers, with values priced by the occurrence.
RECIPES["simulator-lazy"] = replace(
    RECIPES["simulator"],
    ranking=(*RECIPES["simulator"].ranking, "ranking.gates.mode=value-lazy"),
    kappas={"all": (140.0,)},
)
