"""The explorer in a browser: found, filtered, read and heard as a user does it, without a network or a complaint."""

import base64
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from browser import opened
from small_cache import make_rows, write_cache
from small_corpus import DURATIONS_S, IDS
from small_study import COATTENTION, SCRIPT, Study

from mmser.cache import Cache
from mmser.report.explorer import write_explorer
from mmser.report.explorer_answers import read_answers
from mmser.report.explorer_attention import STEPS
from mmser.train.apply import apply
from mmser.train.run import train_head

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "explorer.html"
    write_explorer([study.fusion, study.coattention], study.cache, path, with_audio=True)
    return path


def with_data(page: Path, path: Path, heads: list[dict[str, Any]], utterances: list[dict[str, Any]]) -> Path:
    """The page with other data, as no run folder of a test would have them."""
    data = json.dumps({"heads": heads, "utterances": utterances})
    script = '<script id="data" type="application/json">'
    text = re.sub(f"{script}.*?</script>", lambda _: f"{script}{data}</script>", page.read_text("utf-8"), count=1)
    path.write_text(text, encoding="utf-8")
    return path


def head_of(name: str, seeds: list[int]) -> dict[str, Any]:
    return {"name": name, "labels": ["calm", "wild"], "dimensions": [], "seeds": seeds, "figure": "UA", "score": 0.5}


def utterance_of(uid: str, said: list[Any], detail: Any = None) -> dict[str, Any]:
    about = {"id": uid, "text": "hi there", "truth": "wild", "ratings": {}, "fields": {}}
    return {**about, "said": said, "detail": detail}


def said_of(p: list[list[float | None]]) -> dict[str, Any]:
    classes = [-1 if row[0] is None else int(np.argmax(row)) for row in p]
    return {"fold": "f", "p": p, "r": [[]] * len(p), "classes": classes, "class_of_mean": max(classes)}


def looks_of(granularity: str, states: list[list[Any]], num_tokens: int) -> dict[str, Any]:
    """Weights of one attention head that looks evenly."""
    n = len(states)
    maps = {}
    for name, shape in (("speech_to_text", (1, n, num_tokens)), ("text_to_speech", (1, num_tokens, n))):
        values = np.full(shape, STEPS // max(shape[2], 1), np.uint16)
        maps[f"{granularity}.0.{name}"] = {"shape": shape, "values": base64.b64encode(values.tobytes()).decode()}
    return {"speech": {granularity: states}, "tokens": [f"t{i}" for i in range(num_tokens)], "maps": maps}


def frames(num: int) -> list[list[Any]]:
    return [[f"{i * 0.02:.2f} s", i * 0.02, i * 0.02 + 0.02] for i in range(num)]


TIERS = {
    "word": [[0.0, 0.3, "hi", 0], [0.3, 0.7, "there", 0], [0.7, 0.9, "", 1]],
    "phone": [[0.0, 0.1, "HH", 0], [0.1, 0.3, "AY1", 0], [0.3, 0.5, "DH", 0], [0.5, 0.7, "EH1 R", 0]],
}


def listed(tab: Any) -> list[str]:
    return tab.locator("#list b").all_text_contents()


def open_utterance(tab: Any, uid: str) -> None:
    """Click on it in the list, and wait until it is shown: the address changes first."""
    tab.locator("#list a", has_text=uid).click()
    tab.locator("h2", has_text=uid).wait_for()


def test_search_and_filters_find_utterances(browser: Any, page: Path, study: Study) -> None:
    heads = read_answers([study.fusion, study.coattention])
    wrong = {
        one.name: {uid for uid, p, t in zip(one.ids, one.prediction, one.truth, strict=True) if one.labels[p] != t}
        for one in heads
    }
    with opened(browser, page) as tab:
        assert listed(tab) == IDS
        tab.fill("#search", "YES YES YES YES")
        assert listed(tab) == ["u4", "u5"]
        assert tab.text_content("#count") == "2 of 6 utterances"
        tab.fill("#search", "u3")
        assert listed(tab) == ["u3"]
        tab.fill("#search", "")
        tab.select_option("#speaker", "bob")
        assert listed(tab) == ["u2", "u3"]
        tab.select_option("#truth", "calm")
        assert listed(tab) == ["u2"]
        tab.select_option("#speaker", "")
        assert listed(tab) == ["u0", "u2", "u4"]
        tab.select_option("#truth", "")
        tab.select_option("#wrong", "any")
        assert listed(tab) == sorted(set.union(*wrong.values()))
        tab.select_option("#wrong", "every")
        assert listed(tab) == sorted(set.intersection(*wrong.values()))
        for name, own in wrong.items():
            tab.select_option("#wrong", label=f"wrong by {name}")
            assert listed(tab) == sorted(own)


def test_an_utterance_is_opened_by_click_by_keys_and_by_address(browser: Any, page: Path) -> None:
    with opened(browser, page) as tab:
        assert tab.text_content("h2") == "u0"
        assert tab.get_attribute("#list a >> nth=0", "aria-current") == "true"
        open_utterance(tab, "u2")
        tab.keyboard.press("ArrowDown")
        tab.keyboard.press("Enter")
        tab.locator("h2", has_text="u3").wait_for()
        assert tab.get_attribute("#list a >> nth=3", "aria-current") == "true"
        tab.evaluate("location.hash = '#u5'")
        tab.locator("h2", has_text="u5").wait_for()


def test_an_address_that_names_nothing_opens_the_first(browser: Any, page: Path) -> None:
    for address in ("#%zz", "#nobody"):
        with opened(browser, page) as tab:
            tab.goto(page.as_uri() + address)
            tab.reload()  # an address that differs in its end alone is not loaded anew
            assert tab.text_content("h2") == "u0"
            open_utterance(tab, "u2")
            tab.evaluate(f"location.hash = '{address}'")
            tab.locator("h2", has_text="u0").wait_for()
            assert listed(tab) == IDS


def test_probabilities_are_those_of_the_seed_chosen(browser: Any, page: Path, study: Study) -> None:
    heads = read_answers([study.fusion, study.coattention])
    with opened(browser, page) as tab:
        open_utterance(tab, "u4")
        for seed, told in (("mean over seeds", slice(None)), ("seed 1", slice(1, 2))):
            tab.get_by_label("Predictions,").select_option(label=seed)
            for i, head in enumerate(heads):
                row = tab.locator(".classes tbody tr").nth(i).locator("td").all_text_contents()
                said = head.posteriors[4, told].mean(0)
                assert row[0].split()[0] == head.labels[said.argmax()]
                assert ("✓" in row[0]) == (head.labels[said.argmax()] == "calm")
                assert [float(p) for p in row[1:3]] == pytest.approx(said.tolist(), abs=6e-4)
                assert row[3] == "eve"


def test_a_lead_that_four_digits_do_not_show_is_a_lead(browser: Any, study: Study, tmp_path: Path) -> None:
    shutil.copytree(study.coattention, tmp_path / "run")
    table = pd.read_csv(tmp_path / "run" / "predictions.csv")
    close = {("u0", 0): 0.50001, ("u0", 1): 0.49998, ("u1", 0): 0.50001, ("u1", 1): 0.50001}
    for (uid, seed), p in close.items():
        own = (table["utterance_id"] == uid) & (table["seed"] == seed)
        table.loc[own, ["p_calm", "p_wild"]] = [1 - p, p]
    table.to_csv(tmp_path / "run" / "predictions.csv", index=False)
    write_explorer([tmp_path / "run"], study.cache, tmp_path / "explorer.html", limit=0)
    with opened(browser, tmp_path / "explorer.html") as tab:
        for uid, wanted in {"u0": ["calm ✓", "wild ✗", "calm ✓"], "u1": ["wild ✓"] * 3}.items():
            open_utterance(tab, uid)
            for seed, want in zip(("mean over seeds", "seed 0", "seed 1"), wanted, strict=True):
                tab.get_by_label("Predictions,").select_option(label=seed)
                assert tab.text_content(".classes td.says") == want
                assert (
                    tab.locator(".classes thead th").nth(2 + (want[:4] == "wild")).text_content().startswith(want[:4])
                )
                best = tab.locator(".classes tbody td.best")
                assert best.count() == 1
                assert best.evaluate("own => own.cellIndex") == 2 + (want[:4] == "wild")
        tab.select_option("#wrong", "any")
        assert not {"u0", "u1"} & set(listed(tab))


def test_no_seed_no_number_and_no_test_are_told_apart(browser: Any, page: Path, tmp_path: Path) -> None:
    heads = [head_of("two", [0, 1]), head_of("one", [0]), head_of("none", [0]), head_of("diverged", [0, 1])]
    said = [said_of([[0.2, 0.8], [0.3, 0.7]]), said_of([[0.2, 0.8]]), None, said_of([[0.2, 0.8], [None, None]])]
    with opened(browser, with_data(page, tmp_path / "page.html", heads, [utterance_of("u", said)])) as tab:
        says = tab.locator(".classes td.says")
        assert says.all_text_contents() == ["wild ✓", "wild ✓", "not tested", "wild ✓"]
        tab.get_by_label("Predictions,").select_option(label="seed 1")
        assert says.all_text_contents() == ["wild ✓", "no such seed", "not tested", "no number"]


def test_a_rated_utterance_says_why_a_head_has_no_answer(browser: Any, page: Path, tmp_path: Path) -> None:
    rated = {"labels": [], "dimensions": ["valence"], "figure": "CCC"}
    heads = [{**head_of("two", [0, 1]), **rated}, {**head_of("one", [0]), **rated}]
    said = [
        {"fold": "f", "p": [[]] * len(r), "r": r, "classes": [-1] * len(r), "class_of_mean": -1}
        for r in ([[1.0], [-0.001]], [[1.5]])
    ]
    one = {**utterance_of("u", said), "truth": "", "ratings": {"valence": 2.0}}
    with opened(browser, with_data(page, tmp_path / "page.html", heads, [one])) as tab:
        tab.get_by_label("Predictions,").select_option(label="seed 1")
        rows = tab.locator(".ratings tbody tr")
        assert rows.locator("th").all_text_contents() == ["true", "two", "one no such seed"]
        assert rows.locator("td").all_text_contents() == ["2.00", "0.00", "–"]


def test_heatmap_tells_the_weights_that_the_head_gives(browser: Any, page: Path, study: Study) -> None:
    found = apply(study.coattention / "heads/coattention-fold1-seed0", study.cache, ["u3"], attention=True)
    assert found.attention is not None
    with opened(browser, page) as tab:
        open_utterance(tab, "u3")
        readout = tab.locator(".readout").last
        for name, label in (("speech_to_text", "speech looks at tokens"), ("text_to_speech", "tokens look at speech")):
            tab.get_by_label("Direction").select_option(label=label)
            weights = found.attention[0][f"word.0.{name}"]
            for of, want in (("mean of all", weights.mean(0)), ("2", weights[1])):
                tab.get_by_label("Attention head").select_option(label=of)
                rows = tab.locator(".heatmap tbody tr")
                assert rows.count() == len(want)
                for r, c in ((0, 0), (2, 1), (len(want) - 1, want.shape[1] - 1)):
                    rows.nth(r).locator("td").nth(c).hover()
                    who, whom = (
                        rows.nth(r).locator("th").text_content(),
                        tab.locator(".heatmap thead th").nth(c).text_content(),
                    )
                    said, _, value = readout.text_content().rpartition(": ")
                    assert said == f"{who} → {whom}"
                    assert float(value) == pytest.approx(want[r, c], abs=6e-4)
        tab.locator(".heatmap td[tabindex='0']").focus()
        tab.keyboard.press("ArrowDown")
        assert float(readout.text_content().rpartition(": ")[2]) == pytest.approx(want[1, 0], abs=6e-4)


def test_pointing_at_the_heatmap_lights_the_word_in_time(browser: Any, page: Path) -> None:
    with opened(browser, page) as tab:
        tab.locator(".heatmap tbody tr").nth(2).locator("td").first.hover()
        assert tab.locator(".segment.lit").all_text_contents() == ["word", "W ER1 D", "W", "ER1", "D"]


def test_pointing_at_a_frame_lights_what_it_lies_in(browser: Any, page: Path, tmp_path: Path) -> None:
    detail = {"duration_s": 0.9, "tiers": TIERS, "attention": {"0": looks_of("frame", frames(45), 2)}}
    data = [head_of("head", [0])], [utterance_of("u", [said_of([[0.2, 0.8]])], detail)]
    with opened(browser, with_data(page, tmp_path / "page.html", *data)) as tab:
        rows = tab.locator(".heatmap tbody tr")
        rows.nth(20).locator("td").first.hover()
        assert tab.locator(".segment.lit").all_text_contents() == ["there", "DH"]
        rows.nth(5).locator("td").first.hover()  # from 0.10 s: the segment that begins there, not the one that ends
        assert tab.locator(".segment.lit").all_text_contents() == ["hi", "AY1"]


@pytest.mark.parametrize(("num_words", "num_tokens", "what"), [(0, 2, "words"), (2, 0, "tokens")])
def test_where_nothing_was_to_be_looked_at_it_is_said(
    browser: Any, page: Path, tmp_path: Path, num_words: int, num_tokens: int, what: str
) -> None:
    words = [["hi", 0.0, 0.3], ["there", 0.3, 0.7]][:num_words]
    detail = {"duration_s": 0.9, "tiers": TIERS, "attention": {"0": looks_of("word", words, num_tokens)}}
    data = [head_of("head", [0])], [utterance_of("u", [said_of([[0.2, 0.8]])], detail)]
    with opened(browser, with_data(page, tmp_path / "page.html", *data)) as tab:
        for label in ("speech looks at tokens", "tokens look at speech"):
            tab.get_by_label("Direction").select_option(label=label)
            assert tab.locator(".heatmap").count() == 0
            assert (
                tab.locator("p.hint").last.text_content()
                == f"There was nothing to look at: the utterance has no {what}."
            )
            assert tab.locator(".readout").last.text_content() == ""


def test_who_asks_is_the_summary_where_a_head_says_so(browser: Any, page: Path, tmp_path: Path) -> None:
    words = [["hi", 0.0, 0.3], ["there", 0.3, 0.7]]
    looks = {**looks_of("word", words, 3), "summary": True}
    for name, asked in (("speech_to_text", 3), ("text_to_speech", 2)):
        values = base64.b64encode(np.full((1, 1, asked), STEPS // asked, np.uint16).tobytes()).decode()
        looks["maps"][f"word.0.{name}"] = {"shape": (1, 1, asked), "values": values}
    detail = {"duration_s": 0.9, "tiers": TIERS, "attention": {"0": looks}}
    data = [head_of("head", [0])], [utterance_of("u", [said_of([[0.2, 0.8]])], detail)]
    with opened(browser, with_data(page, tmp_path / "page.html", *data)) as tab:
        for label, asked in (
            ("speech looks at tokens", ["t0", "t1", "t2"]),
            ("tokens look at speech", ["hi", "there"]),
        ):
            tab.get_by_label("Direction").select_option(label=label)
            assert tab.locator(".heatmap tbody th").all_text_contents() == ["all of it"]
            assert tab.locator(".heatmap thead th").all_text_contents() == asked
        tab.locator(".heatmap tbody td").nth(1).hover()
        assert tab.locator(".segment.lit").all_text_contents() == ["there", "DH", "EH1 R"]


def test_a_block_that_looks_one_way_offers_that_way(browser: Any, page: Path, tmp_path: Path) -> None:
    words = [["hi", 0.0, 0.3], ["there", 0.3, 0.7]]
    looks = looks_of("word", words, 3)
    looks["maps"]["word.1.text_to_speech"] = looks["maps"]["word.0.text_to_speech"]
    detail = {"duration_s": 0.9, "tiers": TIERS, "attention": {"0": looks}}
    data = [head_of("head", [0])], [utterance_of("u", [said_of([[0.2, 0.8]])], detail)]
    both = ["speech looks at tokens", "tokens look at speech"]
    with opened(browser, with_data(page, tmp_path / "page.html", *data)) as tab:
        ways = tab.get_by_label("Direction")
        assert ways.locator("option").all_text_contents() == both
        assert tab.locator(".heatmap tbody th").all_text_contents() == ["hi", "there"]
        tab.get_by_label("Layer").select_option(label="words, block 2")
        assert ways.locator("option").all_text_contents() == both[1:]
        assert tab.locator(".heatmap tbody th").all_text_contents() == ["t0", "t1", "t2"]
        tab.get_by_label("Layer").select_option(label="words, block 1")
        assert ways.locator("option").all_text_contents() == both
        assert ways.input_value() == "text_to_speech"


def test_a_long_utterance_over_frames_is_opened(browser: Any, page: Path, tmp_path: Path) -> None:
    states = frames(1400)
    detail = {"duration_s": 28.0, "tiers": {}, "attention": {"0": looks_of("frame", states, 90)}}
    said = [said_of([[0.2, 0.8]])]
    data = [head_of("head", [0])], [utterance_of("short", said), utterance_of("long", said, detail)]
    with opened(browser, with_data(page, tmp_path / "page.html", *data)) as tab:
        open_utterance(tab, "long")
        assert tab.locator(".heatmap tbody td").count() == 90 * 1400
        assert "even look is 0.011; from 0.011 (faint) to 0.011 (strong)" in tab.locator(".readout").last.text_content()


def test_a_segment_is_played_and_playing_stops_at_its_end(browser: Any, page: Path) -> None:
    # waiting for a function takes eval, which the page itself may not use
    with opened(browser, page, bypass_csp=True) as tab:
        open_utterance(tab, "u5")
        tab.wait_for_function("document.querySelector('audio').readyState >= 1")
        assert tab.evaluate("document.querySelector('audio').duration") == pytest.approx(DURATIONS_S["u5"], abs=0.01)
        tab.locator(".tier >> nth=0 >> .segment", has_text="hi").click()
        tab.wait_for_function("document.querySelector('audio').currentTime > 0.1")
        tab.wait_for_function("document.querySelector('audio').paused")
        assert 0.17 < tab.evaluate("document.querySelector('audio').currentTime") < 0.6
        assert tab.locator(".playhead").is_visible()


def test_transcripts_are_text_and_never_markup(browser: Any, page: Path) -> None:
    with opened(browser, page) as tab:
        tab.on("dialog", lambda _: pytest.fail("a script of the transcript ran"))
        open_utterance(tab, "u1")
        assert tab.text_content("p.text") == f"Hi, a word! yes {SCRIPT}"
        assert tab.locator("article b").count() == 0
        assert tab.locator("script").count() == 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_page_is_never_wider_than_the_screen(browser: Any, page: Path, width: int, scheme: str) -> None:
    with opened(browser, page, viewport={"width": width, "height": 800}, color_scheme=scheme) as tab:
        assert tab.evaluate("document.documentElement.scrollWidth") == width
        ink, paper = (tab.evaluate(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor"))
        dark = [sum(map(int, one.strip("rgb()").split(","))) < 384 for one in (ink, paper)]
        assert dark == ([True, False] if scheme == "light" else [False, True])


def test_in_print_the_utterance_remains(browser: Any, page: Path) -> None:
    with opened(browser, page) as tab:
        tab.emulate_media(media="print")
        assert not tab.locator("nav").is_visible()
        assert not tab.locator("audio").is_visible()
        assert tab.locator(".heatmap").is_visible()
        direction = tab.get_by_label("Direction")
        assert direction.evaluate("own => getComputedStyle(own).borderTopStyle") == "none"
        assert direction.is_visible()  # as text
        tab.emulate_media(media="print", color_scheme="dark")
        assert tab.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--bad')") == "#b3261e"


def test_without_sound_predictions_ratings_and_attention_remain(browser: Any, tmp_path: Path) -> None:
    rows = make_rows()
    rows["valence"] = [float(i % 5) for i in range(len(rows))]
    cache = Cache(write_cache(tmp_path / "toy", rows))
    run = replace(COATTENTION, seeds=1, task="both", dimensions=("valence",))
    train_head(cache.path, run, tmp_path / "run")
    write_explorer([tmp_path / "run"], cache, tmp_path / "explorer.html", limit=1)
    (head,) = read_answers([tmp_path / "run"])
    (uid,) = head.most_telling()[:1]
    place = head.ids.index(uid)
    with opened(browser, tmp_path / "explorer.html") as tab:
        assert tab.text_content("h2") == uid, "what has details is opened first"
        tab.check("#detailed")
        assert listed(tab) == [uid]
        assert tab.text_content("p.hint") == "Neither recording nor alignment is there."
        assert tab.locator(".heatmap td").count() > 1
        said = tab.locator(".ratings tbody td").all_text_contents()
        want = [head.true_ratings[place, 0], head.ratings[place, 0, 0]]
        assert [float(one) for one in said] == pytest.approx(want, abs=6e-3)
        tab.uncheck("#detailed")
        tab.locator("#list a", has_not_text=uid).first.click()
        tab.locator("p.hint", has_text="were left out.").wait_for()
