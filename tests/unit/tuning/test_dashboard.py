"""The page of a search over HTTP on loopback: what it answers, and what it does not."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from yt8m_ray.config.tune import TuneConfig
from yt8m_ray.errors import ConfigError
from yt8m_ray.tuning.dashboard import Dashboard, start_dashboard
from yt8m_ray.tuning.study import SearchStudy

CONFIG = TuneConfig.model_validate(
    {
        "run": {"name": "a_search"},
        "data": {"features": {"mean_rgb": 8}},
        "model": {"name": "moe"},
        "tune": {"space": {"model.num_mixtures": {"integer": [1, 4]}}, "searcher": {"name": "random"}},
    }
)


class Redirects(urllib.request.HTTPRedirectHandler):
    """Follows none."""

    def redirect_request(self, *_: Any) -> None:
        return None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("search")


@pytest.fixture(scope="module")
def study(folder: Path) -> SearchStudy:
    """Returns a search with a trial that has ended and one that runs."""
    study = SearchStudy(folder, CONFIG, lambda _: {})
    for _ in range(2):
        assert study.next() is not None
    study.report(0, 1, {"gap": 0.5})
    study.tell(0, "completed")
    return study


@pytest.fixture(scope="module")
def dashboard(folder: Path, study: SearchStudy) -> Iterator[Dashboard]:
    dashboard = start_dashboard(folder)
    yield dashboard
    dashboard.close()


def ask(
    dashboard: Dashboard, path: str, *, method: str = "GET", body: Any = None, **headers: str
) -> tuple[int, str, Any]:
    """Returns (status, body, headers)."""
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(dashboard.url.rstrip("/") + path, content, method=method)
    for name, value in {"content-type": "application/json", "accept-encoding": "identity", **headers}.items():
        request.add_header(name, value)
    opener = urllib.request.build_opener(Redirects, urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=60) as answer:
            return answer.status, answer.read().decode(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), error.headers


def states(dashboard: Dashboard) -> list[str]:
    return [trial["state"] for trial in json.loads(ask(dashboard, "/api/studies/1")[1])["trials"]]


def test_the_address_leads_to_the_study(dashboard: Dashboard) -> None:
    status, _, headers = ask(dashboard, "/")

    assert (status, headers["location"]) == (302, "/dashboard/studies/1")
    assert "<title>Optuna Dashboard</title>" in ask(dashboard, headers["location"])[1]


def test_the_page_has_a_style_that_keeps_its_buttons_in_sight(dashboard: Dashboard) -> None:
    page = ask(dashboard, "/dashboard/studies/1")[1]

    assert page.index("overflow-wrap") < page.index("</head>") < page.index("<body>")
    assert page.count("</head>") == 1


def test_it_shows_the_trials_of_the_search(dashboard: Dashboard) -> None:
    study = json.loads(ask(dashboard, "/api/studies/1")[1])

    assert study["name"] == "a_search"
    assert states(dashboard)[0] == "Complete"


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1:8080", "127.8.8.8", "[::1]:80", "LOCALHOST"])
def test_names_of_this_machine_are_answered(dashboard: Dashboard, host: str) -> None:
    assert ask(dashboard, "/api/meta", host=host)[0] == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "10.0.0.1", "[::1", ""])
def test_other_names_are_not_answered(dashboard: Dashboard, host: str) -> None:
    status, text, _ = ask(dashboard, "/api/studies", host=host)

    assert status == 403 and "This page is called localhost, 127.0.0.1 and not" in json.loads(text)["reason"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("DELETE", "/api/studies/1", {}),
        ("POST", "/api/studies", {"study_name": "b", "directions": ["maximize"]}),
        ("POST", "/api/studies/1/rename", {"study_name": "b"}),
        ("POST", "/api/trials/2/tell", {"state": "Complete", "values": [1.0]}),
        ("POST", "/api/trials/2/tell", ["Fail"]),
        ("POST", "/api/trials/2/tell", None),
        ("POST", "/api/trials/2/user-attrs", {"user_attrs": {"status": "completed"}}),
        ("POST", "/api/studies/1/preference", {}),
        ("POST", "/api/llm/trial_filter_query", {"user_query": "x"}),
        ("POST", "/incompatible-rdb-schema", {}),
        ("PUT", "/api/studies/1/preference_feedback_component", {"output_type": "note"}),
        ("OPTIONS", "/api/trials/2/tell", None),
    ],
)
def test_what_would_change_the_record_is_refused(dashboard: Dashboard, method: str, path: str, body: Any) -> None:
    before = ask(dashboard, "/api/studies")[1]

    status, text, _ = ask(dashboard, path, method=method, body=body)

    assert (status, json.loads(text)["reason"][:44]) == (403, "The study is the only record of the search, ")
    assert ask(dashboard, "/api/studies")[1] == before


def test_a_note_is_kept(dashboard: Dashboard) -> None:
    answers = [
        ask(dashboard, path, method="PUT", body={"version": 1, "body": "a note"})[:2]
        for path in ("/api/studies/1/note", "/api/studies/1/1/note")
    ]

    assert answers == [(200, "{}")] * 2
    assert json.loads(ask(dashboard, "/api/studies/1")[1])["note"]["body"] == "a note"


def test_only_a_running_trial_can_be_stopped(dashboard: Dashboard) -> None:
    ended, unknown = (
        ask(dashboard, f"/api/trials/{number}/tell", method="POST", body={"state": "Fail"}) for number in (1, 99)
    )

    assert (ended[0], unknown[0]) == (409, 404)
    assert "Trial 0 is not running" in ended[1]


def test_a_page_elsewhere_stops_nothing(dashboard: Dashboard, study: SearchStudy) -> None:
    status, text, _ = ask(
        dashboard, "/api/trials/2/tell", method="POST", body={"state": "Fail"}, origin="http://evil.example"
    )

    assert status == 403 and "A page of http://evil.example changes nothing here." in text
    assert study.record(1).status == "running"


def test_the_search_hears_that_a_trial_is_to_stop(folder: Path) -> None:
    study = SearchStudy(folder / "other", CONFIG, lambda _: {})
    assert study.next() is not None
    dashboard = start_dashboard(folder / "other")
    origin = dashboard.url.rstrip("/")

    answer = ask(dashboard, "/api/trials/1/tell", method="POST", body={"state": "Fail"}, origin=origin)
    dashboard.close()

    assert answer[:2] == (200, "{}")  # the page takes an empty answer for a failure
    assert study.stop_requests() == [0]


def test_a_trial_that_begins_later_is_shown(folder: Path) -> None:
    study = SearchStudy(folder / "growing", CONFIG, lambda _: {})
    dashboard = start_dashboard(folder / "growing")

    assert study.next() is not None
    found = states(dashboard)
    dashboard.close()

    assert found == ["Running"]


def test_a_closed_page_is_gone_and_can_be_closed_again(folder: Path, study: SearchStudy) -> None:
    dashboard = start_dashboard(folder)

    dashboard.close()
    dashboard.close()

    with pytest.raises(urllib.error.URLError, match="refused"):
        ask(dashboard, "/api/meta")


def test_a_port_that_is_taken_is_told(folder: Path, dashboard: Dashboard) -> None:
    port = int(dashboard.url.rstrip("/").rpartition(":")[2])

    with pytest.raises(ConfigError, match=f"dashboard: 127.0.0.1:{port}: Address already in use"):
        start_dashboard(folder, port=port)


def test_a_port_that_cannot_be_is_told(folder: Path, study: SearchStudy) -> None:
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:99999: expected 0 to 65535"):
        start_dashboard(folder, port=99999)


def test_a_folder_without_a_search_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no search: study\.db is missing"):
        start_dashboard(tmp_path)

    assert list(tmp_path.iterdir()) == []
