"""Point-in-time features as of now, for endpoints to look up: the values that a row asked for at
this moment would have in the view, by the very code that makes the view.

    for each key: one row that is asked for `at`, appended to the base table ─▶ add_features ─▶
    its features, by key
"""

import io
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq

from rayapp.config.operations import FeatureFeedConfig
from rayapp.config.snapshot import AsOfFeature, PointInTimeFeature, SnapshotConfig, ViewConfig
from rayapp.data.contract import Contract, load_contract
from rayapp.data.delta import read_version
from rayapp.data.features import add_features
from rayapp.data.plan import plan_view
from rayapp.data.snapshot import canonical_rows, in_one_task, ingest_tables
from rayapp.data.view import with_derived
from rayapp.errors import ConfigError
from rayapp.schemas.data import PREDICTION_TIME_COLUMN, TableVersion
from rayapp.schemas.features import FeatureFeed, FeatureTable
from rayapp.storage import Workspace, commit_bytes, sha256
from rayapp.transforms import arrow_type


@dataclass(frozen=True)
class Group:
    """Features that are found by the same columns and come from the same table, whose contract
    says how old its newest row may be."""

    keys: tuple[str, ...]
    source: str
    features: tuple[PointInTimeFeature, ...]


def groups_of(config: FeatureFeedConfig, view: ViewConfig) -> list[Group]:
    """Raises ConfigError for a feature that the view does not have."""
    known = {name for feature in view.features for name in names_of(feature)}
    unknown = sorted(set(config.features) - known)
    if unknown or not known:
        raise ConfigError(
            f"`features`: {config.snapshot} has no point-in-time feature {unknown[0]!r}"
            if unknown
            else f"{config.snapshot} has no point-in-time features",
            f"it has {sorted(known)}" if known else "declare some under view.features",
        )
    found: dict[tuple[tuple[str, ...], str], list[PointInTimeFeature]] = defaultdict(list)
    for feature in view.features:
        if config.features and not set(names_of(feature)) & set(config.features):
            continue
        if isinstance(feature, AsOfFeature):
            found[tuple(feature.on), feature.table].append(feature)
        else:
            found[feature.key, view.base].append(feature)
    return [Group(keys, source, tuple(own)) for (keys, source), own in found.items()]


def names_of(feature: PointInTimeFeature) -> list[str]:
    """The columns that a feature makes."""
    if isinstance(feature, AsOfFeature):
        return list(feature.columns)
    if feature.kind == "last" and feature.age_name is not None:
        return [feature.name, feature.age_name]
    return [feature.name]


def check_feed(config: FeatureFeedConfig, snapshot: SnapshotConfig) -> dict[str, Contract]:
    """The contracts of the tables that the feed reads. Raises ConfigError where one does not say
    how old its newest row may be."""
    contracts = {name: load_contract(table.contract) for name, table in snapshot.tables.items()}
    for group in groups_of(config, snapshot.view):
        contract = contracts[group.source]
        if contract.freshness_h is None:
            raise ConfigError(
                f"{snapshot.tables[group.source].contract} does not say how old the newest row of "
                f"{group.source!r} may be, so nobody could tell when its features are stale",
                "state it under slaProperties: {property: freshness, value: 6, unit: h}",
            )
    return contracts


def publish_feed(
    config: FeatureFeedConfig,
    snapshot: SnapshotConfig,
    workspace: Workspace,
    at: datetime,
    on_stage: Callable[[str], None],
) -> FeatureFeed:
    """Read the sources as they are now, and store the values of every key. Needs a running Ray.
    Raises what building a snapshot raises; what was published before stays."""
    contracts = check_feed(config, snapshot)
    columns = plan_view(snapshot, {name: c.columns for name, c in contracts.items()})
    types = {column.name: column.type for column in columns}
    versions = ingest_tables(snapshot, contracts, workspace, on_stage)
    groups = groups_of(config, snapshot.view)
    files = in_one_task(compute_groups, snapshot.view, groups, versions, at, config.features)
    tables = []
    for group, (data, names, num_rows) in zip(groups, files, strict=True):
        uri = f"{workspace.artifact('features', sha256(data))}.parquet"
        commit_bytes(uri, data)
        as_of = min(versions[group.source].watermark or at, at)
        freshness = timedelta(hours=contracts[group.source].freshness_h or 0)
        tables.append(
            FeatureTable(
                keys=group.keys,
                columns=tuple((name, types[name]) for name in names),
                uri=uri,
                digest=sha256(data),
                num_rows=num_rows,
                as_of=as_of,
                stale_at=as_of + freshness,
            )
        )
    return FeatureFeed(name=config.name, at=at, tables=tuple(tables))


def compute_groups(
    view: ViewConfig,
    groups: Sequence[Group],
    versions: Mapping[str, TableVersion],
    at: datetime,
    features: Sequence[str],
) -> list[tuple[bytes, list[str], int]]:
    """Of each group a Parquet file, its columns beside the keys, and its rows."""
    base = with_derived(view, read_version(versions[view.base]))
    sources = {f.table for g in groups for f in g.features if isinstance(f, AsOfFeature)}
    others = {name: canonical_rows(read_version(versions[name])) for name in sources}
    computed = []
    for group in groups:
        made = [name for feature in group.features for name in names_of(feature)]
        wanted = [name for name in made if not features or name in features]
        values = latest_values(group, base, others, at).select([*group.keys, *wanted])
        file = io.BytesIO()
        pq.write_table(values, file)
        computed.append((file.getvalue(), wanted, values.num_rows))
    return computed


def latest_values(
    group: Group, base: pa.Table, others: Mapping[str, pa.Table], at: datetime
) -> pa.Table:
    """One row for each combination of the group's keys that there is, with the features that a row
    of these keys would have if it were asked for at that moment. base: with its derived columns."""
    asked = _key_rows(group, base, others)
    moment = pa.array([at] * asked.num_rows, arrow_type("timestamp"))
    asked = asked.append_column(PREDICTION_TIME_COLUMN, moment)
    rows = pa.concat_tables([base, asked], promote_options="default")
    made = add_features(rows, group.features, others).slice(base.num_rows)
    return made.select([*group.keys, *(n for f in group.features for n in names_of(f))])


def _key_rows(group: Group, base: pa.Table, others: Mapping[str, pa.Table]) -> pa.Table:
    if not group.keys:  # one row, for all
        return pa.table({base.column_names[0]: pa.nulls(1, base.column(0).type)})
    first = group.features[0]
    keys = base.select(list(group.keys))
    if isinstance(first, AsOfFeature):
        other = others[first.table]
        known = {m: other.column(t).cast(keys.column(m).type) for m, t in first.on.items()}
        keys = pa.table(known)
    return keys.group_by(list(group.keys)).aggregate([]).drop_null()
