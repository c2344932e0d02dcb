"""The report in a real browser: sorting, tabs, switches, narrow and wide windows, dark and light; `make browser`."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_layout import ablated
from test_tables import table_of, write

from diffjax.files import write_text
from diffjax.results.latency import read_latencies, trade_off
from diffjax.results.layout import lay_out
from diffjax.results.page import Options
from diffjax.results.report import build

pytestmark = pytest.mark.browser

ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--hide-scrollbars"),
)
SCORES = {"task-a": 30.0, "task-b": 100.0, "task-c": -5.0, "task-d": 9.0}
LONG = "a-task-with-a-name-that-is-much-longer-than-any-telephone-is-wide-and-has-<markup>-in-it-v0"


def located(what: str, *names: str) -> str:
    """The first program of some names on the path."""
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.fail(f"no {what} on the path ({', '.join(names)}); install one, or leave out -m browser")
    return found


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four tasks in one suite and one of a long name in another; ``bc`` was not run on the second task."""
    folder = tmp_path_factory.mktemp("report")
    paths = []
    for task, score in SCORES.items():
        runs = {(seed, ""): [score, score + 1, score + seed] for seed in range(3)}
        paths.append(write(folder / f"dac-{task}", runs, task=task))
        if task != "task-b":
            paths.append(write(folder / f"bc-{task}", runs, task=task, method="bc", tuning="untuned"))
    fields = {"suite": "locomotion", "dataset": "D4RL v2", "steps": 10_100}
    long_run = {(seed, ""): [float(step % 7) for step in range(101)] for seed in (0, 1)}
    paths.append(write(folder / "hopper", long_run, task="hopper-medium-v2", **fields))
    paths.append(write(folder / "long", {(0, ""): [1.0], (1, ""): [2.0]}, task=LONG, suite=LONG, dataset=LONG * 2))
    (folder / "l.csv").write_text(
        "method,variant,candidates,network_evaluations,batch,p50_ms\ndac,default,1,5,1,2\nbc,default,1,5,1,1\n"
    )
    page = lay_out(table_of(*paths), Options(statistics=True, published=True, protocols=("last", "best", "paper")))
    write_text(folder / "report.html", build.render(page, trade_off(page, read_latencies(folder / "l.csv"))))
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    try:
        from selenium.webdriver import Chrome, ChromeOptions
        from selenium.webdriver.chrome.service import Service
    except ImportError:
        pytest.fail('these tests need selenium; install it with pip install "diffjax[browser]"')
    options = ChromeOptions()
    options.binary_location = located("browser", "chromium", "chromium-browser", "google-chrome", "chrome")
    for argument in (*ARGUMENTS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=Service(located("driver", "chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser: Any, report: Path) -> Iterator[Any]:
    """The report just loaded in a wide window; whatever a test does, nothing may be logged."""
    resize(browser, 1280)
    browser.get_log("browser")
    browser.get(report.as_uri())
    yield browser
    assert browser.get_log("browser") == []


def resize(browser: Any, width: int) -> None:
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def all_of(page: Any, selector: str) -> list[Any]:
    return page.find_elements("css selector", selector)


def shown(page: Any, selector: str) -> list[bool]:
    return [element.is_displayed() for element in all_of(page, selector)]


def tasks(page: Any) -> list[str]:
    return [element.text for element in all_of(page, ".tab:nth-of-type(1) tbody:first-of-type th")]


def header(page: Any, label: str) -> Any:
    (found,) = [each for each in all_of(page, ".tab:nth-of-type(1) thead th") if each.text.startswith(label)]
    return found


def press(element: Any) -> None:
    element.find_element("css selector", "button").click()


FIRST_ORDER = ["task-a", "task-b", "task-c", "task-d", "mini average"]


def test_it_opens_from_a_file(page: Any) -> None:
    assert page.title == "2 methods on 6 tasks"
    assert shown(page, "h2") == [True] * 10
    assert all(shown(page, "figure svg"))
    assert page.execute_script("return performance.getEntriesByType('resource').length") == 0


def test_sorting_by_clicks(page: Any) -> None:
    dac = header(page, "dac")
    assert (tasks(page), dac.get_attribute("aria-sort")) == (FIRST_ORDER, None)
    press(dac)
    assert tasks(page) == ["task-b", "task-a", "task-d", "task-c", "mini average"]
    assert dac.get_attribute("aria-sort") == "descending"
    press(dac)
    assert tasks(page) == ["task-c", "task-d", "task-a", "task-b", "mini average"]
    assert dac.get_attribute("aria-sort") == "ascending"
    press(dac)
    assert (tasks(page), dac.get_attribute("aria-sort")) == (FIRST_ORDER, None)


def test_sorting_puts_what_is_missing_last(page: Any) -> None:
    bc = header(page, "bc")
    for _ in range(2):
        press(bc)
        assert tasks(page)[-2:] == ["task-b", "mini average"]


def test_sorting_by_names_and_one_column_at_a_time(page: Any) -> None:
    press(header(page, "dac"))
    task = header(page, "task")
    press(task)
    assert (tasks(page), task.get_attribute("aria-sort")) == (FIRST_ORDER, "ascending")
    assert header(page, "dac").get_attribute("aria-sort") is None
    press(task)
    assert tasks(page) == ["task-d", "task-c", "task-b", "task-a", "mini average"]


def test_sorting_by_keyboard(page: Any) -> None:
    button = header(page, "dac").find_element("css selector", "button")
    page.execute_script("arguments[0].focus()", button)
    for key, order in (("\ue007", "descending"), (" ", "ascending")):
        page.switch_to.active_element.send_keys(key)
        assert header(page, "dac").get_attribute("aria-sort") == order
        assert page.switch_to.active_element == button
    outline = "return getComputedStyle(arguments[0]).outlineStyle"
    assert page.execute_script(outline, button) == "solid"


def test_every_header_is_a_button(page: Any) -> None:
    for selector in (".sortable thead th", ".sortable thead th > button:first-child"):
        assert len(all_of(page, selector)) == len(all_of(page, ".sortable thead th")) > 0


def test_what_a_paper_prints_stays_below_its_row(page: Any, tmp_path: Path) -> None:
    names = ("halfcheetah-medium-expert-v2", "walker2d-medium-replay-v2")
    settings = ("ensemble_target=lcb", "ensemble_target=min")
    paths = [
        ablated(tmp_path / task, "dac_target", dict.fromkeys(settings, score), task=task)
        for task, score in zip(names, (20.0, 10.0), strict=True)
    ]
    table = lay_out(table_of(*paths), Options(statistics=True, published=True, protocols=("paper",)))
    write_text(tmp_path / "report.html", build.render(table))
    page.get((tmp_path / "report.html").as_uri())
    before = tasks(page)
    assert before == [names[1], names[0], "published", "locomotion average"]
    press(header(page, "lcb"))
    assert tasks(page) == [names[0], "published", names[1], "locomotion average"]


def test_one_protocol_at_a_time(page: Any) -> None:
    assert [label.text for label in all_of(page, ".tabs > label")] == ["last", "best", "paper"]
    assert shown(page, ".tab") == [True, False, False]
    all_of(page, ".tabs > label")[1].click()
    assert shown(page, ".tab") == [False, True, False]
    page.switch_to.active_element.send_keys("\ue014")  # arrow to the right
    assert shown(page, ".tab") == [False, False, True]
    assert "paper's own rule" in all_of(page, ".tab caption")[2].text
    assert any(shown(page, ".tab td.published"))


def test_switches_of_the_curves(page: Any) -> None:
    def visible(selector: str) -> bool:
        style = "return getComputedStyle(document.querySelector(arguments[0])).display"
        return page.execute_script(style, f"#learning-curves figure {selector}") != "none"

    for name, selector, first in (
        ("seeds", ".seed", False),
        ("bands", ".band", True),
        ("reference", ".reference:not(.other)", True),
    ):
        (box,) = all_of(page, f"#show-{name}")
        assert visible(selector) is first
        box.click()
        assert visible(selector) is not first


def test_a_panel_tells_the_numbers_under_the_pointer(page: Any) -> None:
    (drawing, *_) = all_of(page, "#learning-curves figure svg")
    (box, *_) = all_of(page, ".readout")
    assert not box.is_displayed()
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", drawing)
    place = page.execute_script(
        "const box = arguments[0].getBoundingClientRect(); return [box.x, box.y, box.width]", drawing
    )
    where = {"x": place[0] + 250 / 360 * place[2], "y": place[1] + 60}  # 243.3 of 360 is at 200 updates
    page.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": "mouseMoved", **where})
    assert box.is_displayed()
    assert box.text.splitlines() == ["200 updates", "dac: 31.0 [31.0, 31.0]", "bc: 31.0 [31.0, 31.0]"]
    page.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": 2, "y": 2})
    assert not box.is_displayed()


def first_panel(page: Any) -> Any:
    """The first panel of learning curves, with the focus."""
    (drawing, *_) = all_of(page, "#learning-curves figure svg")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'}); arguments[0].focus()", drawing)
    return drawing


def ticks(drawing: Any) -> list[str]:
    return [
        text.get_attribute("textContent") for text in drawing.find_elements("css selector", ".axes text:not(.axis)")
    ]


RIGHT, LEFT, ESCAPE, SHIFT = "\ue014", "\ue012", "\ue00c", "\ue008"


def test_a_panel_tells_its_numbers_by_keyboard(page: Any) -> None:
    drawing = first_panel(page)
    (box, *_) = all_of(page, ".readout")
    said = "return document.querySelector('[role=status]').textContent"
    drawing.send_keys(RIGHT)
    assert box.text.splitlines()[0] == "100 updates"
    drawing.send_keys(RIGHT)
    assert page.execute_script(said) == "200: dac: 31.0 [31.0, 31.0]; bc: 31.0 [31.0, 31.0]"
    drawing.send_keys(LEFT, LEFT)
    assert box.text.splitlines()[0] == "100 updates"
    page.execute_script("arguments[0].blur()", drawing)
    assert not box.is_displayed()


def test_a_panel_is_drawn_nearer_by_keyboard_and_button(page: Any) -> None:
    drawing = first_panel(page)
    (path, *_) = drawing.find_elements("css selector", ".curves path.mean")
    whole, shape = ticks(drawing), path.get_attribute("d")
    (reset, *_) = [each for each in all_of(page, "#learning-curves .tools button") if each.text == "Reset"]
    assert not reset.is_enabled()
    drawing.send_keys("+")
    assert ticks(drawing) != whole
    assert path.get_attribute("d") != shape
    assert drawing.find_element("css selector", ".curves").get_attribute("clip-path")
    nearer = ticks(drawing)
    drawing.send_keys(SHIFT + RIGHT)
    assert ticks(drawing) != nearer
    reset.click()
    assert (ticks(drawing), path.get_attribute("d")) == (whole, shape)
    first_panel(page).send_keys("+", "+", ESCAPE)
    assert ticks(drawing) == whole
    first_panel(page).send_keys("+", "-")
    assert ticks(drawing) == whole


def test_a_panel_is_drawn_nearer_by_a_selection(page: Any) -> None:
    drawing = first_panel(page)
    whole = ticks(drawing)
    x, y, width = page.execute_script(
        "const box = arguments[0].getBoundingClientRect(); return [box.x, box.y, box.width]", drawing
    )
    scale = width / 360
    for kind, at in (("mousePressed", 100), ("mouseMoved", 150), ("mouseMoved", 200), ("mouseReleased", 200)):
        event = {"type": kind, "x": x + at * scale, "y": y + 60, "button": "left", "buttons": 1, "clickCount": 1}
        page.execute_cdp_cmd("Input.dispatchMouseEvent", event)
    assert ticks(drawing) != whole
    assert all_of(page, "svg .area") == []


def test_methods_are_taken_out_of_figures_and_tables(page: Any) -> None:
    def visible(selector: str) -> list[bool]:
        script = (
            "return [...document.querySelectorAll(arguments[0])].map(each => getComputedStyle(each).display !== 'none')"
        )
        return page.execute_script(script, selector)

    assert all(visible("#learning-curves figure .curves .m1"))
    all_of(page, "#learning-curves-m1")[0].click()
    assert not any(visible("#learning-curves figure .curves .m1"))
    assert all(visible("#learning-curves figure .curves .m0"))
    assert all(visible("#performance-profiles figure .curves .m1"))
    first_panel(page).send_keys(RIGHT)
    assert len(all_of(page, ".readout")[0].text.splitlines()) == 2
    (summary, *_) = all_of(page, "#scores summary")
    summary.click()
    (box,) = all_of(page, "#scores-m1")
    page.execute_script("arguments[0].focus()", box)
    box.send_keys(" ")
    assert not any(visible(".tab:nth-of-type(1) .m1"))
    (nothing, *_) = [each for each in all_of(page, "#scores .tools button") if each.text == "Show none"]
    nothing.click()
    assert not any(visible(".tab:nth-of-type(1) .m0"))


def test_a_command_is_copied_without_a_network(page: Any, tmp_path: Path) -> None:
    flags = {"flags": ["--method=dac", "--out=my runs"]}
    table = lay_out(table_of(write(tmp_path / "a", {(0, ""): [1.0]}, config=flags)), Options(statistics=True))
    write_text(tmp_path / "report.html", build.render(table))
    page.get((tmp_path / "report.html").as_uri())
    (button,) = all_of(page, ".copy")
    button.click()
    assert button.text == "Copied"
    assert page.execute_script("return getSelection().toString()") == "diffjax train --method=dac '--out=my runs'"


def test_marks_lead_to_their_notes(page: Any) -> None:
    (mark, *_) = all_of(page, ".tab:nth-of-type(1) td .mark")
    assert mark.get_attribute("tabindex") == "-1"
    mark.click()
    target = page.current_url.partition("#")[2]
    assert page.execute_script("return document.querySelector(':target').textContent").startswith(f"{mark.text} ")
    assert target.startswith("mark-")


@pytest.mark.parametrize("width", [320, 360, 768, 1280, 1920])
def test_the_page_never_scrolls_sideways(page: Any, width: int) -> None:
    resize(page, width)
    page.execute_script("for (const part of document.querySelectorAll('details')) part.open = true")
    assert page.execute_script("return innerWidth") == width
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    for index in range(3):
        all_of(page, ".tabs > label")[index].click()
        assert page.execute_script("return document.documentElement.scrollWidth") <= width


def test_the_first_column_stays(page: Any) -> None:
    resize(page, 360)
    place = "return document.querySelector('.tab tbody th').getBoundingClientRect().left"
    before = page.execute_script(place)
    moved = page.execute_script(
        "const box = document.querySelector('.scroll'); box.scrollLeft = 150; return box.scrollLeft"
    )
    assert moved > 50
    assert page.execute_script(place) == pytest.approx(before, abs=1.5)


def test_letters_of_figures_are_readable_on_a_telephone(page: Any) -> None:
    resize(page, 360)
    heights = page.execute_script(
        "return [...document.querySelectorAll('figure svg')].map(each => 11 * each.getScreenCTM().d)"
    )
    assert min(heights) > 9.5


@pytest.mark.parametrize(("scheme", "is_dark"), [("light", False), ("dark", True)])
def test_colour_schemes(page: Any, scheme: str, is_dark: bool) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def brightness(name: str) -> float:
        color = page.execute_script(f"return getComputedStyle(document.body).{name}")
        return sum(map(int, color.removeprefix("rgb(").removesuffix(")").split(","))) / 765

    paper, ink = brightness("backgroundColor"), brightness("color")
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert (paper < 0.2 and ink > 0.8) if is_dark else (paper > 0.8 and ink < 0.2)


def test_the_first_tab_stop_skips_to_the_scores(page: Any) -> None:
    (body,) = all_of(page, "body")
    body.send_keys("\ue004")
    link = page.switch_to.active_element
    assert link.text == "Skip to the scores"
    assert link.rect["x"] >= 0
    link.send_keys("\ue007")
    assert page.current_url.endswith("#scores")


def test_without_its_program_tables_and_tabs_remain(browser: Any, report: Path) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    browser.get(report.as_uri())
    try:
        assert all_of(browser, "thead button") == []
        all_of(browser, ".tabs > label")[2].click()
        assert [each.value_of_css_property("display") for each in all_of(browser, ".tab")] == ["none", "none", "block"]
        assert len(all_of(browser, "figure > svg")) > 6
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_on_paper_every_protocol_is_printed(page: Any) -> None:
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    displays = [each.value_of_css_property("display") for each in all_of(page, ".tab")]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert displays == ["block"] * 3
