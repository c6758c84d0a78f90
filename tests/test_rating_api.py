"""What the rating page's server sends, which says nothing of a tag's source, and what it refuses."""

import re
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, expect

from socialtag_jax.rating.candidates import Source
from socialtag_jax.rating.study_file import StudyPhoto, StudyTag, write_study
from socialtag_jax.shards.dataset import Dataset, open_dataset
from tests.bundles import TAGS
from tests.rating_servers import PHOTOS, go_next, join, letters, mark, serving, write_dataset
from tests.rating_studies import ORIGIN, clock


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(write_dataset(tmp_path_factory.mktemp("dataset")))


def study_photos(sources: Sequence[Source], confidence: float) -> Sequence[StudyPhoto]:
    return [
        StudyPhoto(
            record,
            f"beach/{record}.jpg",
            [StudyTag(tag, tag, (source,), confidence) for tag, source in zip(TAGS, sources, strict=True)],
        )
        for record in range(PHOTOS)
    ]


def test_what_is_sent_does_not_depend_on_the_sources(browser: Browser, dataset: Dataset, tmp_path: Path):
    """Two studies that differ in nothing but sources and confidences: every byte of the traffic is equal."""
    traffic: list[list[bytes]] = []
    for sources, confidence in (
        ([Source.PREDICTED, Source.TRUE, Source.POPULAR, Source.RANDOM, Source.PREDICTED], 0.9),
        ([Source.RANDOM, Source.POPULAR, Source.PREDICTED, Source.TRUE, Source.TRUE], 0.1),
    ):
        path, sent = tmp_path / f"{confidence}.sqlite", []
        write_study(path, ORIGIN, study_photos(sources, confidence), clock)
        with serving(path, dataset, sent) as (_, address), browser.new_context() as context:
            page = context.new_page()
            join(page, address, "Ada")
            mark(page, 0, 3)
            go_next(page, 2)
            page.keyboard.press("u")
            expect(page.locator("#where")).to_have_text(f"Photo 1 of {PHOTOS}")
            page.goto(address)
            expect(page.locator("#raters a")).to_have_count(1)
            httpx.get(f"{address}/openapi.json")
        traffic.append(sorted(sent))
    assert len(traffic[0]) > 15
    assert traffic[0] == traffic[1]
    # Nor is there a place where it could stand, whatever its value.
    for answer in traffic[0]:
        if b"image/jpeg" not in answer and not answer.startswith(b"/static/"):
            assert not re.search(rb"predict|popular|random|decoy|confiden|sources|image_id|beach/", answer)


def test_what_the_server_refuses(dataset: Dataset, tmp_path: Path):
    with serving(letters(tmp_path / "study.sqlite"), dataset) as (study, address):
        api = f"/api/studies/{study.key}"
        client, json = httpx.Client(base_url=address), {"Content-Type": "application/json"}
        assert client.get("/api/study").json()["key"] == study.key
        ada = client.post(f"{api}/raters", json={"name": "Ada"}).json()["id"]
        photo = f"{api}/raters/{ada}/photos/0"
        good = {"fitting": [1], "none_fits": False, "finished": True, "after": 0}
        for answer, status in (
            (client.post(f"{api}/raters", json={"name": " "}), 422),
            (client.post(f"{api}/raters", json={"name": "x" * 2000}), 422),
            (client.post(f"{api}/raters", content=b'{"name": "\\ud800"}', headers=json), 422),
            (client.post(f"{api}/raters", json={"name": "ADA"}), 409),
            (client.post("/api/studies/0123456789abcdef/raters", json={"name": "Ben"}), 404),
            (client.get(f"{api}/raters/99"), 404),
            (client.get(f"{api}/raters/9999999999999999999999"), 422),
            (client.get(f"{api}/raters/{ada}/photos/{PHOTOS}"), 404),
            (client.get(f"{api}/photos/{PHOTOS}"), 404),
            (client.put(photo, json={**good, "fitting": [6]}), 404),
            (client.put(photo, json={**good, "fitting": [2, 1]}), 422),
            (client.put(photo, json={**good, "fitting": []}), 422),
            (client.put(photo, json={**good, "none_fits": True}), 422),
            (client.put(photo, json={**good, "fitting": ["a"]}), 422),
            (client.put(photo, json={**good, "after": 5}), 409),
            (client.post(f"{api}/raters/{ada}/undo", json={"last": 5}), 409),
            (client.put(photo, json=good, headers={"Origin": "http://elsewhere.example"}), 403),
            (client.put(photo, json=good, headers={"Host": "elsewhere.example"}), 421),
        ):
            assert answer.status_code == status, answer.text
            assert set(answer.json()["error"]) == {"code", "message"}
        assert study.state(ada, 0).last_id == 0
        assert client.put(photo, json=good).status_code == 200
        image = client.get(f"{api}/photos/0")
        assert image.headers["content-type"] == "image/jpeg"
        assert image.content == dataset.records("test")[0].image
        client.close()
