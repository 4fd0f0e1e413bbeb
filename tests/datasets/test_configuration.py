"""The `data` section: what is refused, where, and how fields are added and dropped."""

import pyarrow as pa
import pytest
import yaml

from recsys.config import load_config, parse_config
from recsys.datasets.positive import positive_mask
from recsys.errors import UserError
from tests.datasets.reading import files_of, read_all, source_of


def _parse(text: str):
    return parse_config({"name": "x", "workdir": "x", "data": yaml.safe_load(text)})


FIELDS = {
    "a: {side: context, kind: categorical, name: user}": "field name 'user' is reserved; rename it",
    "a: {name: x, side: context, kind: numeric}, b: {name: x, side: context, kind: numeric}": "'x' is declared twice",
    "a: {name: h, side: user, kind: sequence, of: nope, length: 3}": "'of: nope', but there is no such field",
    "a: {name: h, side: user, kind: sequence, of: b, length: 3}, b: {name: b, side: context, kind: categorical}": (
        "'of: b', but 'b' is categorical; it collects 'item', or a point-in-time field with statistic cluster"
    ),
    "a: {name: h, side: user, kind: sequence, of: b, length: 3}, b: {name: b, side: context, kind: numeric}": (
        "'of: b', but 'b' is numeric"
    ),
    "a: {name: h, side: user, kind: sequence, of: b, length: 3}, "
    "b: {name: b, side: item, kind: point_in_time, statistic: age}": "'of: b', but 'b' is point_in_time",
    "a: {name: k, side: item, kind: point_in_time, statistic: cluster, clusters: 2}, "
    "b: {name: l, side: item, kind: point_in_time, statistic: cluster, clusters: 2}": "'k' and 'l' are both cluster fi",
    "a: {name: x, side: context, kind: categorical, vocabulary: nothing}": "field 'x' has 'vocabulary: nothing'; expec",
    "a: {name: x, side: context, kind: categorical, vocabulary: y}, b: {name: y, side: context, kind: numeric}": (
        "field 'x' has 'vocabulary: y'; expected the name of a categorical or multi-valued field"
    ),
}


@pytest.mark.parametrize("source", ["{source: files, events: {paths: x}}", "{source: gowalla, folder: FOLDER}"])
@pytest.mark.parametrize(("fields", "expected"), FIELDS.items(), ids=FIELDS.values())
def test_fields_that_cannot_be_are_refused(tmp_path, source, fields, expected):
    for part in ("train.txt", "test.txt"):
        (tmp_path / part).write_text("1 2 3\n")
    data = yaml.safe_load(source.replace("FOLDER", str(tmp_path)))
    with pytest.raises(UserError) as caught:
        source_of(data | {"fields": list(yaml.safe_load(f"{{{fields}}}").values())})
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_fields_that_can_be_are_not():
    text = """{source: files, events: {paths: x}, fields: [
      {name: c, side: item, kind: point_in_time, statistic: cluster, clusters: 2},
      {name: h, side: user, kind: sequence, of: c, length: 3},
      {name: i, side: user, kind: sequence, of: item, length: 3},
      {name: seen, side: context, kind: multi_valued, vocabulary: item},
      {name: a, side: context, kind: categorical}, {name: b, side: context, kind: multi_valued, vocabulary: a}]}"""
    assert len(_parse(text).data.fields) == 6


@pytest.mark.parametrize(
    ("text", "overrides", "expected"),
    [
        (
            "name: x\ntrain: {epochs: 1}\ndata:\n  source: files\n  source: globo\n",
            (),
            "the key data.source stands twice",
        ),
        ("name: x\ntrain: {epochs: 1}\ntrain: {patience: 1}\n", (), "train stands twice, in line 2 and in line 3"),
        ("name: x\n", ("train.epochs=[1",), "--set train.epochs=[1: its value is not readable as YAML"),
        ("name: x\n", ("train={epochs: 1, epochs: 2}",), "the key epochs stands twice"),
    ],
)
def test_yaml_that_cannot_be_meant(tmp_path, text, overrides, expected):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        load_config(tmp_path / "x.yaml", overrides)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{source: movielens, folder: x, foldr: y}", "data.foldr: no such key"),
        ("{source: movielens}", "data.folder: required, but missing"),
        ("{source: amazon}", "data: Input tag 'amazon'"),
        ("{source: files, events: {paths: x.csv, columns: {usr: a}}}", "data.events.columns.usr: no such key"),
        ("{source: files, events: {}}", "data.events: Value error, expected files either in 'paths' or"),
        ("{source: files, events: {paths: x}, positive: 'value > few'}", "data.positive: "),
        ("{source: files, events: {paths: x}, positive: value > 3}", "data: Value error, 'positive' is a rule on the"),
        (
            "{source: files, events: {paths: x}, fields: [{name: a, side: item, kind: numeric}]}",
            "field 'a' describes items, but 'items' names no files",
        ),
        ("{source: files, events: {paths: x}, fields: [{name: a, side: item, kind: text}]}", "data.fields.0.kind: "),
        ("{source: simulator, drift: [{kind: gradual, along: latent, strength: 1}]}", "data.drift.0: Value error"),
        ("{source: simulator, drift: [{kind: abrupt, along: brand, value: 60, strength: 1}]}", "drift.0.value is 60"),
        ("{source: globo, folder: x, hours: [3, 3]}", "'hours' is [first, before]"),
    ],
)
def test_a_wrong_section_is_refused_by_the_path_of_its_key(text, expected):
    with pytest.raises(UserError) as caught:
        _parse(text)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("value >= 4", [False, True, True, False]),
        (">= 4", [False, True, True, False]),
        ("value > 4", [False, False, True, False]),
        ("value < 4.0", [True, False, False, False]),
        ("value <= 4", [True, True, False, False]),
        ("value == 4", [False, True, False, False]),
        ("value != 4", [True, False, True, False]),
    ],
)
def test_positive_rule(rule, expected):
    assert positive_mask(pa.array([3, 4, 5, None]), rule).to_pylist() == expected


def test_positive_rule_that_is_none():
    with pytest.raises(UserError, match="'4 stars' is not a rule"):
        positive_mask(pa.array([1]), "4 stars")


def test_own_files_with_splits_items_and_users(tmp_path):
    (tmp_path / "train.csv").write_text("who,what,when,stars,phone\n1,a,10,5,x\n2,b,11,3,y\n")
    (tmp_path / "test.csv").write_text("who,what,when,stars,phone\n1,b,12,4,x\n")
    (tmp_path / "items.jsonl").write_text('{"id": "a", "name": "A", "kinds": ["k", "l"]}\n')
    (tmp_path / "users.csv").write_text("u;town\n1;Bern\n")
    section = f"""
      source: files
      events:
        splits: {{train: {tmp_path}/train.csv, test: [{tmp_path}/test.csv]}}
        columns: {{user: who, item: what, time: when, value: stars}}
      items: {{paths: {tmp_path}/items.jsonl, columns: {{item: id, title: name}}}}
      users: {{paths: {tmp_path}/users.csv, delimiter: ";", columns: {{user: u}}}}
      positive: value >= 4
      time_unit: ms
      fields:
        - {{name: device, side: context, kind: categorical, column: phone}}
        - {{name: kinds, side: item, kind: multi_valued}}
        - {{name: town, side: user, kind: categorical}}
        - {{name: history, side: user, kind: sequence, of: item, length: 5}}
    """
    source = source_of(yaml.safe_load(section))
    events, rows, _ = read_all(source.events)
    assert events.to_pylist() == [
        {"user": "1", "item": "a", "time": "10", "value": "5", "device": "x", "split": "train"},
        {"user": "2", "item": "b", "time": "11", "value": "3", "device": "y", "split": "train"},
        {"user": "1", "item": "b", "time": "12", "value": "4", "device": "x", "split": "test"},
    ]
    assert rows == [2, 3, 2]
    assert read_all(source.items)[0].to_pylist() == [{"item": "a", "title": "A", "kinds": ["k", "l"]}]
    assert read_all(source.users)[0].to_pylist() == [{"user": "1", "town": "Bern"}]
    assert (source.given_split, source.schema.has_time, source.schema.has_value) == (True, True, True)
    assert source.schema.vocabularies == ("user", "item", "device", "kinds", "town")


def test_inputs_do_not_depend_on_where_they_are(tmp_path):
    inputs = []
    for place in ("here", "there/deeper"):
        folder = tmp_path / place
        folder.mkdir(parents=True)
        (folder / "x.csv").write_text("user,item,time\n1,2,3\n")
        inputs.append(files_of(folder / "x.csv").inputs())
    assert inputs[0] == inputs[1]
    assert inputs[0]["x.csv"]["bytes"] == 21
