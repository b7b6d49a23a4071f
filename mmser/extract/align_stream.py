"""The stream of alignments: recordings and transcripts in, words, syllables and phones in time out."""

from mmser.cache import Cache, Stream, StreamWriter
from mmser.cache.schema import MAX_TEXT
from mmser.devices import pick_device
from mmser.errors import AlignmentError, CacheError
from mmser.extract.align import ALIGNERS, Aligner, Failed, FromFiles, Spoken, Waiting, make_aligner
from mmser.extract.align.language import ONLY_ENGLISH, doubt_english, foreign_language
from mmser.extract.alignments import ABOUT, alignment_digest, alignment_tables
from mmser.extract.decode import DecodedUnit
from mmser.extract.work import Meter, Work, provenance
from mmser.records import TIERS, Alignment
from mmser.transcript import text_digest
from mmser.units import SAMPLE_RATE


def fill_alignments(work: Work) -> Stream:
    """Align what the stream lacks, and open it."""
    options = work.options
    backend = ALIGNERS[options.aligner]
    name = f"align/{options.aligner}"
    device = pick_device(options.device) if backend.on_device else "cpu"
    texts = work.texts()
    if backend.english_only:
        texts = _english(work, name, texts)
    with (
        make_aligner(options) as aligner,
        StreamWriter(work.cache, name, aligner.recipe, provenance(device)) as writer,
    ):
        if len(writer.stream) and ABOUT not in writer.stream.granularities:
            raise CacheError(f"{writer.folder} was made by an older mmser; delete it, and it is aligned again")
        digests = {uid: text_digest(work.text(uid)) for uid in work.utterances}
        files = _files_now(aligner, writer.stream)
        redo = work.stale(writer.stream, {"text": digests, "audio": work.digest_audio(), "file": files})
        pending = [uid for uid in work.utterances if uid not in writer.stream or uid in set(redo)]
        for uid in pending:
            if uid not in texts and (uid, name) not in work.failures:
                work.fail(uid, name, "the text is empty: there is nothing to align")
        costs = work.look_at_audio([uid for uid in pending if uid in texts], name)
        units = writer.plan(costs, backend.shard_seconds, redo)
        meter = Meter(work, name, sum(len(unit.utterance_ids) for unit in units))
        if units:
            meter.show()
        if isinstance(aligner, Waiting):
            aligner.waiting = meter.show
        for decoded in work.decoders.units(units, work.utterances):
            for uid, reason in decoded.failures.items():
                work.fail(uid, name, reason)
            alignments = _align(meter, aligner, decoded, texts)
            if alignments:
                _write(writer, aligner, decoded, alignments, texts)
                work.wrote(name, len(alignments))
            meter.done += len(decoded.unit.utterance_ids)
            meter.seconds += sum(costs[uid] for uid in decoded.unit.utterance_ids)
            meter.show()
    return Cache(work.cache).stream(name)


def _files_now(aligner: Aligner, stream: Stream) -> dict[str, str]:
    """Today's digests of the files that alignments were taken from, where it is known what they were then."""
    if not isinstance(aligner, FromFiles):
        return {}
    now = {uid: aligner.file_digest(uid) for uid, then in stream.digests("file").items() if then}
    return {uid: digest for uid, digest in now.items() if digest is not None}


def _english(work: Work, name: str, texts: dict[str, str]) -> dict[str, str]:
    """The texts that an aligner that knows English alone may have; the others become failures.

    Raises:
        AlignmentError: none is English by the manifest's own account.
    """
    foreign = {uid: language for uid in texts if (language := foreign_language(work.utterances[uid])) is not None}
    if foreign and len(foreign) == len(texts):
        raise AlignmentError(
            f"the manifest's language is {', '.join(sorted(set(foreign.values()))[:3])}; {ONLY_ENGLISH}"
        )
    for uid, language in foreign.items():
        work.fail(uid, name, f"its language is {language}; {ONLY_ENGLISH}")
    rest = {uid: text for uid, text in texts.items() if uid not in foreign}
    told = {uid for uid in rest if work.utterances[uid].fields.get("language")}
    doubt = doubt_english([text for uid, text in rest.items() if uid not in told], work.options.lexicon)
    if doubt:
        work.notes.append(doubt)
    return rest


def _align(meter: Meter, aligner: Aligner, decoded: DecodedUnit, texts: dict[str, str]) -> list[Alignment]:
    utterances = meter.work.utterances
    spoken = (
        Spoken(uid, recording.samples, texts[uid], str(utterances[uid].fields.get("speaker", "")))
        for uid, recording in decoded.recordings.items()
    )
    alignments: list[Alignment] = []
    seconds = 0.0
    for number, result in enumerate(aligner.align(spoken), start=1):
        if isinstance(result, Failed):
            meter.work.fail(result.utterance_id, meter.stream, result.reason)
        elif (width := _widest_label(result)) > MAX_TEXT:
            reason = f"a segment's label has {width} bytes; expected {MAX_TEXT} at most: a word or a phone a segment"
            meter.work.fail(result.utterance_id, meter.stream, reason)
        else:
            alignments.append(result)
        seconds += len(decoded.recordings[result.utterance_id].samples) / SAMPLE_RATE
        meter.show(number, seconds)
    return alignments


def _widest_label(alignment: Alignment) -> int:
    return max((len(segment.label.encode()) for tier in TIERS for segment in alignment.tier(tier)), default=0)


def _write(
    writer: StreamWriter, aligner: Aligner, decoded: DecodedUnit, alignments: list[Alignment], texts: dict[str, str]
) -> None:
    ids = [alignment.utterance_id for alignment in alignments]
    sources = {
        "audio": [decoded.recordings[uid].digest for uid in ids],
        "text": [text_digest(texts[uid]) for uid in ids],
        "alignment": [alignment_digest(alignment) for alignment in alignments],
    }
    if isinstance(aligner, FromFiles):
        sources["file"] = [aligner.file_digest(uid) or "" for uid in ids]
    durations_s = [len(decoded.recordings[uid].samples) / SAMPLE_RATE for uid in ids]
    tables, values = alignment_tables(alignments, durations_s, [texts[uid] for uid in ids])
    with writer.shard(decoded.unit.number, ids, sources, tables) as shard:
        for tier, columns in values.items():
            for column, array in columns.items():
                shard.put(tier, column, 0, array)
        shard.commit()
