"""The stream of alignments: recordings and transcripts in, words, syllables and phones in time out."""

from mmser.cache import Cache, Stream, StreamWriter
from mmser.extract.align import ALIGNERS, Aligner, Failed, Spoken, make_aligner
from mmser.extract.alignments import alignment_digest, alignment_tables
from mmser.extract.decode import DecodedUnit, decode_units
from mmser.extract.work import Meter, Work, pick_device, provenance, text_digest
from mmser.records import Alignment
from mmser.units import SAMPLE_RATE

SHARD_SECONDS = 300.0
"""Of audio in a shard: some 20 s of work for one core, the most that a kill costs."""


def fill_alignments(work: Work) -> Stream:
    """Align what the stream lacks, and open it."""
    options = work.options
    texts = work.texts()
    name = f"align/{options.aligner}"
    device = pick_device(options.device) if ALIGNERS[options.aligner].on_device else "cpu"
    with (
        make_aligner(options) as aligner,
        StreamWriter(work.cache, name, aligner.recipe, provenance(device)) as writer,
    ):
        digests = {uid: text_digest(text) for uid, text in texts.items()}
        redo = work.stale(writer.stream, {"text": digests, "audio": work.digest_audio()})
        pending = [uid for uid in work.utterances if uid not in writer.stream or uid in set(redo)]
        for uid in pending:
            if uid not in texts:
                work.fail(uid, name, "the text is empty: there is nothing to align")
        costs = work.look_at_audio([uid for uid in pending if uid in texts], name)
        units = writer.plan(costs, SHARD_SECONDS, redo)
        meter = Meter(work, name, sum(len(unit.utterance_ids) for unit in units))
        for decoded in decode_units(units, work.utterances, options.jobs):
            for uid, reason in decoded.failures.items():
                work.fail(uid, name, reason)
            alignments = _align(meter, aligner, decoded, texts)
            if alignments:
                _write(writer, decoded, alignments, digests)
                work.wrote(name, len(alignments))
            meter.done += len(decoded.unit.utterance_ids)
            meter.seconds += sum(costs[uid] for uid in decoded.unit.utterance_ids)
            meter.show()
    return Cache(work.cache).stream(name)


def _align(meter: Meter, aligner: Aligner, decoded: DecodedUnit, texts: dict[str, str]) -> list[Alignment]:
    spoken = (Spoken(uid, recording.samples, texts[uid]) for uid, recording in decoded.recordings.items())
    alignments: list[Alignment] = []
    seconds = 0.0
    for number, result in enumerate(aligner.align(spoken), start=1):
        if isinstance(result, Failed):
            meter.work.fail(result.utterance_id, meter.stream, result.reason)
        else:
            alignments.append(result)
        seconds += len(decoded.recordings[result.utterance_id].samples) / SAMPLE_RATE
        meter.show(number, seconds)
    return alignments


def _write(writer: StreamWriter, decoded: DecodedUnit, alignments: list[Alignment], digests: dict[str, str]) -> None:
    ids = [alignment.utterance_id for alignment in alignments]
    sources = {
        "audio": [decoded.recordings[uid].digest for uid in ids],
        "text": [digests[uid] for uid in ids],
        "alignment": [alignment_digest(alignment) for alignment in alignments],
    }
    tables, values = alignment_tables(alignments)
    with writer.shard(decoded.unit.number, ids, sources, tables) as shard:
        for tier, columns in values.items():
            for column, array in columns.items():
                shard.put(tier, column, 0, array)
        shard.commit()
