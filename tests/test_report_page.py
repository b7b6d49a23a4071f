"""The page of a report in a browser: sorted, filtered, drawn, in the dark, on a phone, printed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import opened
from small_ablation import CELLS, LABEL, ROWS

pytestmark = pytest.mark.browser

PHONE = {"width": 390, "height": 844}


@pytest.fixture
def page(browser: Any, ablation: Path) -> Iterator[Any]:
    with opened(browser, ablation / "report.html") as page:
        yield page


def names(page: Any) -> list[str]:
    return page.locator("#table tbody tr:visible th").all_inner_texts()


def colour(page: Any, selector: str, name: str) -> str:
    return page.eval_on_selector(selector, f"own => getComputedStyle(own).{name}")


def test_the_table_is_sorted_by_keyboard_and_mouse(page: Any) -> None:
    assert names(page) == list(ROWS.values())
    heading = page.locator("#table thead th", has_text="UA").first
    heading.get_by_role("button").press("Enter")
    assert heading.get_attribute("aria-sort") == "descending"
    figures = [float(text) for text in page.locator("#table tbody tr td:nth-child(2)").all_inner_texts()]
    assert len(figures) == len(CELLS)
    assert figures == sorted(figures, reverse=True)
    heading.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") == "ascending"
    assert [float(text) for text in page.locator("#table tbody tr td:nth-child(2)").all_inner_texts()] == figures[::-1]
    last = page.locator("#table tbody tr").last
    # a small number, not a text that begins with 9
    last.locator("td").first.evaluate("own => { own.dataset.value = '9e-7'; }")
    name = last.locator("th").inner_text()
    heading.get_by_role("button").click()
    assert names(page)[-1] == name
    page.get_by_role("button", name="p (UA)").click()
    assert set(page.locator("#table tbody tr td:nth-child(6)").all_inner_texts()[-2:]) == {"baseline", "not comparable"}
    assert page.locator("#table thead th[aria-sort]").count() == 1


def test_the_table_is_filtered_as_one_types(page: Any) -> None:
    page.get_by_label("Filter").fill("PROBE word")
    assert names(page) == [name for name in CELLS if name.startswith("probe-word")]
    assert page.locator("#shown").inner_text() == f"4 of {len(CELLS)} rows"
    page.get_by_label("Filter").fill("")
    assert len(names(page)) == len(CELLS)


def test_every_figure_is_drawn_and_can_be_chosen(page: Any) -> None:
    plots = page.locator(".plot")
    assert plots.count() == 7
    for place in range(plots.count()):
        assert plots.nth(place).locator("svg.main-svg").count() >= 1
        assert plots.nth(place).get_attribute("aria-label")
    chosen = page.locator('.plot[data-figure="confusion"]')
    before = chosen.inner_html()
    page.locator('select[data-figure="confusion"]').select_option(label="probe-word-0")
    assert chosen.inner_html() != before
    assert LABEL.split(">")[0][:6] in chosen.inner_text()  # shortened, and as text


def test_names_are_text_and_nothing_runs(page: Any) -> None:
    called: list[str] = []
    page.on("dialog", lambda dialog: (called.append(dialog.message), dialog.dismiss()))
    page.reload()
    assert LABEL in page.locator("#data").inner_text()
    page.locator('select[data-figure="confusion"]').select_option(index=1)
    page.locator('.plot[data-figure="confusion"] .nsewdrag').first.hover()
    assert called == []
    assert page.locator(".plot script, .plot a:not(.modebar a)").count() == 0


def test_the_page_follows_the_dark_and_is_printed_light(page: Any) -> None:
    def inks() -> tuple[str, str, str]:
        tick = '.plot[data-figure="intervals"] .xtick text'
        return colour(page, "body", "backgroundColor"), colour(page, "body", "color"), colour(page, tick, "fill")

    light = inks()
    assert light[0] == "rgb(255, 255, 255)"
    assert light[1] == light[2]
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"getComputedStyle(document.querySelector('.xtick text')).fill !== '{light[2]}'")
    dark = inks()
    assert dark[0] == "rgb(21, 24, 28)"
    assert dark[1] == dark[2] == "rgb(230, 232, 234)"
    page.emulate_media(color_scheme="dark", media="print")
    page.wait_for_function("getComputedStyle(document.querySelector('.xtick text')).fill === 'rgb(0, 0, 0)'")
    assert inks()[0] == "rgb(255, 255, 255)"
    assert not page.locator("#filter").is_visible()


def test_in_print_it_is_said_what_a_figure_is_of(page: Any) -> None:
    page.emulate_media(media="print")
    assert page.locator('select[data-figure="confusion"]').is_visible()
    assert colour(page, 'select[data-figure="confusion"]', "borderTopStyle") == "none"
    assert page.locator("#data summary").first.is_visible()  # the stream's name
    for closed in ("figure + details", "#commands details"):
        assert not page.locator(closed).first.is_visible()
    page.set_viewport_size({"width": 718, "height": 1000})  # A4 between margins of 1 cm
    assert page.eval_on_selector("#table", "own => own.getBoundingClientRect().right") <= 718


def test_the_page_fits_a_phone(browser: Any, ablation: Path) -> None:
    with opened(browser, ablation / "report.html", viewport=PHONE, device_scale_factor=3, is_mobile=True) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
        wide = page.locator(".wide").first
        assert wide.evaluate("own => own.scrollWidth > own.clientWidth")  # the table scrolls in its own box
        name = page.locator("#table tbody th").last
        name.evaluate("own => { own.textContent = 'full, early + late + multi-granularity'; }")
        assert name.bounding_box()["width"] < PHONE["width"] / 2  # beside the names, which stay, figures have room
        assert page.locator(".plot svg.main-svg").first.bounding_box()["width"] <= PHONE["width"]
        page.locator("details").first.evaluate("own => { own.open = true; }")
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
