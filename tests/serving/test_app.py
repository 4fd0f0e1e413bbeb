"""The HTTP application in this process: answers, refusals, readiness."""

import pytest
from fastapi.testclient import TestClient

from recsys.config.serve import ServeConfig
from recsys.scoring.bundle import LoadedBundle
from recsys.scoring.query import Query
from serving.app import Service, create_app


@pytest.fixture(scope="module")
def client(bundle: LoadedBundle) -> TestClient:
    return TestClient(create_app(Service(ServeConfig(default_k=4, max_k=9, max_history=5), bundle)))


def test_a_known_user_gets_what_scoring_gives(client: TestClient, bundle: LoadedBundle) -> None:
    answer = client.post("/v1/recommend", json={"user": "u0"})
    assert answer.status_code == 200
    body = answer.json()
    expected = bundle.recommend([Query(user="u0")], 4)[0]
    assert [item["item"] for item in body["items"]] == [one.item for one in expected]
    assert body["items"][0] == {"item": expected[0].item, "title": expected[0].title, "score": expected[0].score}
    assert body["bundle"] == bundle.bundle_id and body["known_user"] is True
    steps = body["timings_ms"]
    assert list(steps) == ["encode", "embed", "retrieve", "name", "total"]
    assert all(value >= 0 for value in steps.values())
    assert steps["total"] == pytest.approx(sum(steps.values()) - steps["total"], abs=0.01)


def test_raw_features_and_history_of_a_stranger(client: TestClient) -> None:
    by_club = client.post("/v1/recommend", json={"features": {"club": "b"}, "context": {"device": "desk"}, "k": 6})
    body = by_club.json()
    assert body["known_user"] is False and len(body["items"]) == 6
    assert all(int(item["item"][1:]) % 2 == 1 for item in body["items"])
    unknown = client.post("/v1/recommend", json={"user": 123, "history": ["i1", "i3"], "k": 9}).json()
    assert unknown["known_user"] is False
    assert not {"i1", "i3"} & {item["item"] for item in unknown["items"]}


@pytest.mark.parametrize(
    ("history", "known"), [(["i1", "i3"], 2), (["i1", "nobody's"], 1), (["x"], 0), ([], 0), (None, None)]
)
def test_items_that_nobody_knows_are_no_error_and_counted(
    client: TestClient, history: list[str] | None, known: int | None
) -> None:
    body = client.post("/v1/recommend", json={"user": "u0", "history": history}).json()
    assert body["known_history"] == known and len(body["items"]) == 4


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "expected a user, or features, context or history"),
        ({"user": "u0", "k": 0}, "greater than or equal to 1"),
        ({"user": "u0", "k": "many"}, "valid integer"),
        ({"user": "u0", "k": True}, "valid integer"),
        ({"user": "u0", "k": "5"}, "valid integer"),
        ({"user": "u0", "exclude_seen": "no"}, "valid boolean"),
        ({"user": "u0", "exclude_seen": 0}, "valid boolean"),
        ({"user": "u0", "k": 10}, "k: 10 items asked for, expected at most 9 (serve.max_k)"),
        ({"user": ["u0"]}, "valid string"),
        ({"user": True}, "valid string"),
        ({"user": "u0", "number": 3}, "Extra inputs are not permitted"),
        ({"features": {"shoe": 42}}, "features.shoe: the data set has no such field; it has ['club']"),
        ({"features": {"club": ["a"]}}, "features.club: expected text, a number or null"),
        ({"history": ["i1"] * 6}, "history: 6 items, expected at most 5 (serve.max_history)"),
        ({"history": "i1"}, "valid list"),
    ],
)
def test_bad_requests_are_refused_with_what_was_expected(client: TestClient, body: dict, said: str) -> None:
    answer = client.post("/v1/recommend", json=body)
    assert answer.status_code == 422
    assert said in "; ".join(problem["msg"] for problem in answer.json()["detail"])


@pytest.mark.parametrize(
    "content",
    [
        rb'{"user": "\ud800"}',
        rb'{"history": ["\ud800"]}',
        rb'{"user": "u0", "k": NaN}',
        rb'{"features": {"club": "\ud800"}}',
        rb'{"features": {"\ud800": "a"}}',
    ],
)
def test_values_that_cannot_be_sent_back_are_refused(client: TestClient, content: bytes) -> None:
    answer = client.post("/v1/recommend", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 422, answer.text


def test_a_number_beyond_64_bits_is_a_value_that_nobody_has_seen(client: TestClient) -> None:
    answer = client.post("/v1/recommend", json={"features": {"club": 10**30}})
    assert answer.status_code == 200, answer.text


def test_text_that_is_not_json_is_refused(client: TestClient) -> None:
    answer = client.post("/v1/recommend", content=b"{user", headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert "JSON" in answer.json()["detail"][0]["msg"]


def test_not_ready_before_the_bundle_is_there(bundle: LoadedBundle) -> None:
    service = Service(ServeConfig())
    client = TestClient(create_app(service))
    assert client.get("/health/live").json()["status"] == "live"
    for answer in (client.get("/health/ready"), client.post("/v1/recommend", json={"user": "u0"})):
        assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
    service.bundle = bundle
    assert client.get("/health/ready").json() == {"status": "ready", "bundle": bundle.bundle_id}
    assert client.post("/v1/recommend", json={"user": "u0"}).status_code == 200
