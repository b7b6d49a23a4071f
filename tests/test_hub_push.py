"""``mmser hub push``: which files go up, what the card says, and what the hub's refusals become. No network."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled
from sklearn.metrics import balanced_accuracy_score
from small_cache import make_rows, write_cache
from small_corpus import mmser

from mmser.errors import MmserError, ProtocolError
from mmser.heads import Head
from mmser.publish.card import code
from mmser.publish.hub import FILES, push, write_repository
from mmser.train.options import Experiment, Training
from mmser.train.run import train_head

EVIL = "---\n# <script>alert(1)</script> [x](javascript:y) `|` {{ 7 * 7 }}: &a"
PROBE = Experiment(
    head="speech-probe", settings={"hidden": 4}, seeds=2, training=Training(epochs=3), learning_rate=0.03
)
NAME = "speech-probe-fold2-seed1"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a corpus one of whose labels is an attack."""
    rows = make_rows()
    rows["label"] = rows["label"].replace("angry", EVIL)
    folder = tmp_path_factory.mktemp("runs") / "probe"
    train_head(write_cache(tmp_path_factory.mktemp("hub") / "toy", rows), PROBE, folder)
    return folder


@pytest.fixture
def head(run: Path) -> Path:
    return run / "heads" / NAME


def card_in(folder: Path) -> tuple[dict[str, Any], str]:
    """The YAML of a card, and its text."""
    _, metadata, text = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(metadata), text


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("config.json", '{"experiment": []}', r"config\.json: it lacks 'cache'"),
        ("summary.json", "{}", r"summary\.json: it lacks 'lines'"),
        ("results.csv", "head,fold,seed\n", r"results\.csv: no column 'learning_rate'"),
    ],
)
def test_a_damaged_file_of_the_run_is_named(run: Path, tmp_path: Path, file: str, text: str, message: str) -> None:
    folder = shutil.copytree(run, tmp_path / "run")
    (folder / file).write_text(text)
    with pytest.raises(ProtocolError, match=f"run/{message}"):
        write_repository(folder / "heads" / NAME, "me/head", tmp_path / "made")
    assert not (tmp_path / "made" / "README.md").exists()


class StandInApi:
    """The three calls of the hub's client that a push makes."""

    def __init__(self, *, private: bool = True, error: Exception | None = None) -> None:
        self.private, self.error = private, error
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.files: dict[str, bytes] = {}

    def create_repo(self, repo: str, **options: Any) -> str:
        if self.error is not None:
            raise self.error
        self.asked.append((repo, options))
        return f"https://hub/{repo}"

    def repo_info(self, repo: str) -> Any:
        return self

    def upload_folder(self, *, repo_id: str, folder_path: str, allow_patterns: list[str], **_: Any) -> None:
        self.asked.append((repo_id, {"allow_patterns": allow_patterns}))
        self.files = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> StandInApi:
    made = StandInApi()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: made)
    return made


def test_three_files_go_up_and_no_others(head: Path, api: StandInApi) -> None:
    assert push(head, "me/head", private=True) == "https://hub/me/head"
    assert api.asked == [
        ("me/head", {"private": True, "exist_ok": True}),
        ("me/head", {"allow_patterns": ["config.json", "model.safetensors", "README.md"]}),
    ]
    assert set(api.files) == set(FILES)
    for name in ("config.json", "model.safetensors"):
        assert api.files[name] == (head / name).read_bytes()


def test_what_was_written_loads_as_a_head(head: Path, tmp_path: Path) -> None:
    write_repository(head, "me/head", tmp_path / "made")
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == sorted(FILES)
    assert Head.from_pretrained(tmp_path / "made").num_outputs == 3


def test_the_card_says_what_came_out(run: Path, head: Path, tmp_path: Path) -> None:
    write_repository(head, "me/head", tmp_path)
    metadata, text = card_in(tmp_path)
    config = json.loads((head / "config.json").read_text())
    table = pd.read_csv(run / "predictions.csv")
    own = table[(table["fold"] == config["fold"]) & (table["seed"] == 1)]
    ua = balanced_accuracy_score(own["truth"], own["prediction"])
    (result,) = metadata["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "ua", "value": pytest.approx(ua, abs=1e-4), "name": "UA"}]
    assert f"`UA` of this very head: `{round(ua, 4)}`, on the test part of its fold, `{config['fold']}`" in text
    of_seed = [balanced_accuracy_score(part["truth"], part["prediction"]) for _, part in table.groupby("seed")]
    line = json.loads((run / "summary.json").read_text())["lines"][0]
    low, high = line["interval"]["low"], line["interval"]["high"]
    assert f"(`12` heads): `{sum(of_seed) / 2:.3f}`, 95 % interval\n  `{low:.3f}` to `{high:.3f}`" in text
    assert "- `folds`: `speaker`\n- `dev`: `next`" in text
    assert "  - `layers`: `[0, 4, 9]`" in text  # of the stream's recipe
    assert 'Head.from_pretrained("me/head")' in text
    assert '$ mmser predict me/head recording.wav --text "What is said in it."\n' in text  # to align its words
    assert metadata["library_name"] == "mmser"
    assert "speech-probe" in metadata["tags"]


def test_labels_are_text_and_nothing_else(head: Path, tmp_path: Path) -> None:
    write_repository(head, "me/head", tmp_path)
    _, text = card_in(tmp_path)
    assert EVIL in json.loads((head / "config.json").read_text())["labels"]
    one_line = " ".join(EVIL.split())
    assert f"\n- ``{one_line}``\n" in text
    assert text.count("<script>") == 1  # there, in its code span


@pytest.mark.parametrize(
    ("value", "shown"),
    [("", "`  `"), ("`", "`` ` ``"), ("a``b", "```a``b```"), ("a\u2028\x1b[0mb", "`a [0mb`"), (0.5, "`0.5`")],
)
def test_a_code_span_holds_anything(value: object, shown: str) -> None:
    assert code(value) == shown


def test_a_head_that_dev_did_not_choose_has_no_figure_of_its_own(tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "toy")
    train_head(cache, replace(PROBE, seeds=1, learning_rate=(0.03, 1e-6)), tmp_path / "run")
    chosen = pd.read_csv(tmp_path / "run" / "results.csv", dtype={"fold": str}).set_index("fold")
    told = {}
    for head in sorted((tmp_path / "run" / "heads").iterdir()):
        write_repository(head, "me/head", tmp_path / "made" / head.name)
        config = json.loads((head / "config.json").read_text())
        tested = chosen.loc[config["fold"], "learning_rate"] == config["learning_rate"]
        metadata, text = card_in(tmp_path / "made" / head.name)
        assert ("of this very head" in text) == ("model-index" in metadata) == tested
        assert ("This head was not tested" in text) != tested
        told[head.name] = tested
    assert sum(told.values()) == 6 < len(told)


def test_a_layer_that_dev_did_not_choose_has_no_figure_of_its_own(tmp_path: Path) -> None:
    """Layers differ in neither rate nor decay, and in one epoch have the best epoch in common."""
    grid = replace(PROBE, seeds=1, try_layers=("0", "9"), training=Training(epochs=1))
    train_head(write_cache(tmp_path / "toy"), grid, tmp_path / "run")
    chosen = pd.read_csv(tmp_path / "run" / "results.csv", dtype={"fold": str}).set_index("fold")["layer"]
    told = []
    for head in sorted((tmp_path / "run" / "heads").iterdir()):
        write_repository(head, "me/head", tmp_path / "made" / head.name)
        config = json.loads((head / "config.json").read_text())
        tested = [chosen[config["fold"]]] == config["speech_layers_of_encoder"]
        metadata, text = card_in(tmp_path / "made" / head.name)
        assert ("of this very head" in text) == ("model-index" in metadata) == tested
        assert (
            "- This head was not tested: the dev part chose another setting.\n- `UA` of the whole" in text
        ) != tested
        told.append(tested)
    assert sum(told) == 6 < len(told)
    (tmp_path / "run" / "trials.csv").unlink()
    with pytest.raises(ProtocolError, match=r"run/trials\.csv: no such file; delete the run's summary\.json and run"):
        write_repository(head, "me/head", tmp_path / "again")


def test_no_figure_of_a_card_is_minus_zero(run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run, tmp_path / "run")
    summary = json.loads((folder / "summary.json").read_text())
    for line in summary["lines"]:
        line["ua"] = line["interval"]["low"] = line["interval"]["high"] = -1e-6
    (folder / "summary.json").write_text(json.dumps(summary))
    table = pd.read_csv(folder / "results.csv")
    table.assign(ua=-1e-6).to_csv(folder / "results.csv", index=False)
    write_repository(folder / "heads" / NAME, "me/head", tmp_path / "made")
    text = (tmp_path / "made" / "README.md").read_text()
    assert "of this very head" in text
    assert "-0.0" not in text


def test_a_head_without_a_figure_is_not_said_to_have_lost_to_another(run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run, tmp_path / "run")
    table = pd.read_csv(folder / "results.csv")
    table.assign(best_epoch=table["best_epoch"] + 1).to_csv(folder / "results.csv", index=False)
    write_repository(folder / "heads" / NAME, "me/head", tmp_path / "made")
    _, text = card_in(tmp_path / "made")
    assert "dev part chose another setting" not in text
    assert "- The tables of its run have no figure of this very head.\n- `UA` of the whole run" in text


def test_the_card_says_how_often_the_test_part_was_opened(run: Path, head: Path, tmp_path: Path) -> None:
    write_repository(head, "me/head", tmp_path / "once")
    assert "the epoch, and the test part was opened once:\n\n- `folds`" in card_in(tmp_path / "once")[1]
    folder = shutil.copytree(run, tmp_path / "run")
    config = json.loads((folder / "config.json").read_text())
    config["experiment"]["report_oracle"] = True
    (folder / "config.json").write_text(json.dumps(config))
    write_repository(folder / "heads" / NAME, "me/head", tmp_path / "made")
    _, text = card_in(tmp_path / "made")
    assert "opened once" not in text
    assert "the epoch, and the test part chose nothing, though the run looked at it after every epoch" in text
    assert "that are not among these:\n\n- `folds`" in text


def test_the_card_of_a_head_that_reads_no_words_asks_for_none(tmp_path: Path) -> None:
    experiment = replace(PROBE, granularity="utterance", seeds=1)
    train_head(write_cache(tmp_path / "toy"), experiment, tmp_path / "run")
    write_repository(tmp_path / "run" / "heads" / "speech-probe-fold0-seed0", "me/head", tmp_path / "made")
    assert "$ mmser predict me/head recording.wav\n" in card_in(tmp_path / "made")[1]


def test_the_card_of_a_head_that_standardises_per_speaker_asks_for_several_recordings(tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "toy")
    told = {}
    for granularity in ("word", "utterance"):
        experiment = replace(PROBE, granularity=granularity, normalise="speaker", seeds=1)
        folder = train_head(cache, experiment, tmp_path / granularity).folder
        write_repository(folder / "heads" / "speech-probe-fold0-seed0", "me/head", tmp_path / "made")
        told[granularity] = card_in(tmp_path / "made")[1]
    assert "```console\n$ mmser predict me/head recordings/\n```\n\nSpeech is standardised by" in told["utterance"]
    assert "$ mmser predict me/head recordings/ --text-file texts.csv\n```" in told["word"]
    assert "Of a single recording it may tell nothing.\n\n```python" in told["utterance"]


def test_the_card_of_a_member_names_what_it_reads_itself(tmp_path: Path) -> None:
    fusion = replace(PROBE, head="late-fusion", seeds=1)
    train_head(write_cache(tmp_path / "toy"), fusion, tmp_path / "run")
    told = {}
    for name in ("speech-probe", "text-probe"):
        write_repository(tmp_path / "run" / "heads" / f"{name}-fold0-seed0", "me/head", tmp_path / name)
        metadata, text = card_in(tmp_path / name)
        (result,) = metadata["model-index"][0]["results"]
        streams = [one for one in ("pooled/toy@hand", "text/toy") if f"- `{one}`" in text]
        told[name] = (metadata["pipeline_tag"], result["task"]["type"], streams)
    assert told == {
        "speech-probe": ("audio-classification", "audio-classification", ["pooled/toy@hand"]),
        "text-probe": ("text-classification", "text-classification", ["text/toy"]),
    }


def test_the_card_of_a_head_that_never_trained_says_so(run: Path, tmp_path: Path) -> None:
    wild = replace(PROBE, seeds=1, learning_rate=1e30)
    folder = train_head(write_cache(tmp_path / "toy"), wild, tmp_path / "run").folder
    write_repository(folder / "heads" / "speech-probe-fold0-seed0", "me/head", tmp_path / "made")
    _, text = card_in(tmp_path / "made")
    assert "\n\n**This head never trained**: it diverged before its first epoch was scored" in text
    assert "of its parts, no epoch was left for the dev part to choose, and the test part was opened once:" in text
    assert "\n\nNoted when it was trained:\n\n- `6 of 6 runs of speech-probe diverged" in text
    assert "lower --learning-rate`\n\n## How to use it\n" in text.replace("\n\n\n", "\n\n")
    write_repository(run / "heads" / NAME, "me/head", tmp_path / "sound")
    sound = card_in(tmp_path / "sound")[1]
    assert "never trained" not in sound
    assert "Noted when" not in sound


def test_a_head_without_its_run_has_a_card_too(head: Path, tmp_path: Path) -> None:
    write_repository(head, "me/head", tmp_path / "alone" / "folder")
    write_repository(tmp_path / "alone" / "folder", "me/again", tmp_path / "made")
    metadata, text = card_in(tmp_path / "made")
    assert "The figures of its run were not at hand" in text
    assert "model-index" not in metadata


# the command


def test_a_dry_run_asks_nothing_of_the_hub(head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi", None)
    monkeypatch.chdir(tmp_path)
    result = mmser("hub", "push", head, "me/head", "--dry-run")
    assert result.exit_code == 0, result.output
    assert result.stdout == ("Written to hub/me/head: config.json, model.safetensors, README.md. Nothing was pushed\n")
    assert sorted(path.name for path in (tmp_path / "hub" / "me" / "head").iterdir()) == sorted(FILES)
    told = json.loads(mmser("hub", "push", head, "me/head", "--dry-run", "--json").stdout)
    assert told == {"repo": "me/head", "files": list(FILES), "folder": "hub/me/head", "url": None}


def test_the_command_says_where_it_went(head: Path, api: StandInApi) -> None:
    assert mmser("hub", "push", head, "me/head").stdout == "Pushed to https://hub/me/head\n"
    assert api.asked[0] == ("me/head", {"private": None, "exist_ok": True})
    assert json.loads(mmser("hub", "push", head, "me/head", "--json").stdout)["url"] == "https://hub/me/head"


@pytest.mark.parametrize("repo", ["head", "../head", "me/..", "me/a/b", "me/he ad", "me/h\u00e4d", ""])
def test_a_name_that_is_none(head: Path, tmp_path: Path, repo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = mmser("hub", "push", head, repo, "--dry-run")
    assert result.exit_code == 1
    assert "names no repository; expected OWNER/NAME" in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [OfflineModeIsEnabled, ConnectionError, HTTPError])
def test_what_the_hub_refuses_is_one_error(head: Path, api: StandInApi, kind: type[Exception]) -> None:
    api.error = kind("401: who\nare you?")
    result = mmser("hub", "push", head, "me/head")
    assert result.exit_code == 1
    assert "Error: me/head could not be pushed to the hub: 401: who are you? (log in with hf auth" in result.stderr
    assert not api.files


def test_a_hub_that_cannot_be_reached_is_one_error(head: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(MmserError, match="me/head could not be pushed to the hub: "):
        push(head, "me/head")


def test_what_is_to_be_private_is_not_pushed_into_public(head: Path, api: StandInApi) -> None:
    api.private = False
    with pytest.raises(MmserError, match="me/head is there already and is public"):
        push(head, "me/head", private=True)
    assert not api.files
