"""The tour: every stop with and without what it needs, ended, begun again, and never in a page's way."""

import pytest

from asd_core import api, config, jobs
from asd_core.data.manifest import scan
from pages.components import context, tour
from tests.app import example

LAST = len(tour.STEPS)


@pytest.fixture
def on_example(monkeypatch):
    """The tour on the invented machines instead of the demo's."""
    monkeypatch.setattr(tour, "DEMO", "workshop")


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """No known data set is on this machine."""
    monkeypatch.setattr(tour, "DEMO", "nowhere")


def texts(app) -> str:
    return "\n".join(one.value for kind in ("title", "markdown", "warning", "info") for one in app.get(kind))


def keys(app) -> set[str]:
    return {button.key for button in app.button if button.key.startswith("tour")}


def address(app, name: str) -> str:
    """A query parameter; after a page switch the test harness has a plain value, otherwise a list of one."""
    value = app.query_params[name]
    return value if isinstance(value, str) else value[0]


def badge(number: int) -> str:
    return f"Tour {number} of {LAST}"


def test_home_offers_it_at_first(open_app, empty, nowhere):
    app = open_app(empty)
    assert "New here?" in texts(app)
    app.button(key="tour_start").click().run()
    assert not app.exception
    assert badge(1) in texts(app)
    assert address(app, "tour") == "1"
    assert "New here?" not in texts(app)


def test_the_offer_can_be_declined_and_taken_up_later(open_app, empty):
    app = open_app(empty)
    app.button(key="tour_decline").click().run()
    assert "New here?" not in texts(app)
    assert keys(app) == {"tour_start"}


def test_where_other_data_were_used_it_is_one_small_button(open_app, full):
    app = open_app(full)
    assert "New here?" not in texts(app)
    assert app.button(key="tour_start").label == "Tour"


def test_every_stop_on_its_page_and_on_to_the_next(open_app, full, on_example):
    app = open_app(full, tour="1")
    for number, step in enumerate(tour.STEPS, 1):
        assert not app.exception, [one.value for one in app.exception]
        assert badge(number) in texts(app)
        assert step.look in texts(app)
        assert address(app, "tour") == str(number)
        assert not any("tour" in one.value for one in app.warning)
        if number < LAST:
            app.button(key="tour_next").click().run()
    assert "tour_next" not in keys(app)
    app.button(key="tour_back").click().run()
    assert badge(LAST - 1) in texts(app)


def test_the_worst_false_alarm_is_that_of_the_clip_table(open_app, full, on_example):
    app = open_app(full, tour="2")
    app.button(key="tour_next").click().run()
    run_id, machine, clip = (address(app, name) for name in ("run", "machine", "clip"))
    board = api.leaderboard(full)
    assert run_id == board.loc[board["data"] == "workshop", "run_id"].iloc[0]
    table = api.clip_table(full, api.load_run(full, run_id))
    own = table[(table["machine"] == machine) & (table["outcome"] == "FP")]
    assert clip == own.sort_values("margin")["clip_id"].iloc[-1]
    assert not any("There is no" in one.value for one in app.warning)


@pytest.mark.parametrize("number", range(1, LAST + 1))
def test_without_data_every_stop_offers_to_make_them(open_app, empty, nowhere, number):
    app = open_app(empty, tour.STEPS[number - 1].page, tour=str(number))
    assert badge(number) in texts(app)
    assert "not on this computer yet" in texts(app)
    assert app.button(key="tour_make").label == "Simulate the demo machines"
    assert {"tour_next", "tour_end"} & keys(app), "what is lacking must not hold the tour up"


def test_making_the_data_is_one_job_and_seen_in_another_tab(open_app, empty, nowhere):
    app = open_app(empty, tour="1")
    app.button(key="tour_make").click().run()
    (job,) = jobs.list_jobs(empty.jobs)
    assert job.arguments[:2] == ("data", "simulate")
    other = open_app(empty, tour="1")
    assert "It is being made" in texts(other)
    assert "tour_make" not in keys(other)
    jobs.cancel(job.folder, force=True)


def bare(built, tmp_path) -> api.Workspace:
    """The recordings are known, nothing is trained."""
    workspace = api.Workspace(tmp_path / "bare")
    data = scan(built / "sounds", "workshop", "simulated")
    example.write_json(
        workspace.dataset("workshop") / "dataset.json", {"name": data.name, "kind": data.kind, "root": str(data.root)}
    )
    return workspace


def test_without_a_run_it_offers_to_train_one(open_app, built, tmp_path, on_example):
    workspace = bare(built, tmp_path)
    app = open_app(workspace, "results", tour="2")
    assert "no run on the demo" in texts(app)
    app.button(key="tour_make").click().run()
    (job,) = jobs.list_jobs(workspace.jobs)
    assert api.asked_of(job).systems == (tour.SYSTEMS[0],)
    jobs.cancel(job.folder, force=True)


def test_one_run_is_too_few_to_fuse(open_app, built, tmp_path, on_example):
    workspace = bare(built, tmp_path)
    example.add_run(workspace, scan(built / "sounds", "workshop", "simulated"), tour.SYSTEMS[0], 2.0)
    assert "one run on the demo" not in texts(open_app(workspace, "export", tour=str(LAST)))
    app = open_app(workspace, "fusion", tour=str(LAST - 1))
    assert "one run on the demo" in texts(app)
    assert app.button(key="tour_make").label == f"Train {tour.SYSTEMS[1]}"


def test_it_ends_everywhere_and_stays_ended(open_app, full, on_example):
    app = open_app(full, "train", tour="7")
    app.button(key="tour_end").click().run()
    assert "tour" not in app.query_params
    assert "Tour" not in texts(app)
    app.switch_page(context.page("results")).run()
    assert keys(app) == set()
    app.switch_page(context.page("home")).run()
    app.button(key="tour_start").click().run()
    assert badge(1) in texts(app)


def test_it_goes_along_to_other_pages(open_app, full, on_example):
    app = open_app(full, "results", tour="3")
    app.switch_page(context.page("weights")).run()
    assert badge(3) in texts(app)
    assert address(app, "tour") == "3"


@pytest.mark.parametrize("odd", ["0", str(LAST + 1), "-1", "two", "²", "<img src=x>"])
def test_a_stop_that_does_not_exist_is_named(open_app, full, odd):
    app = open_app(full, "results", tour=odd)
    assert any("The tour has no stop" in one.value for one in app.warning)
    assert "tour" not in app.query_params
    assert keys(app) == set()


def test_systems_of_the_tour_exist():
    assert set(tour.SYSTEMS) <= set(config.system_names())
    assert {step.page for step in tour.STEPS} <= {path.stem for path in context.PAGES.glob("*.py")}
