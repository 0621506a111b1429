"""`minivitpose predict` for many pictures: each one's result is safe on disk before the next batch begins."""

import hashlib
import zlib
from collections import deque

from minivitpose import __version__
from minivitpose.cli.inputs import DRAWN, shown
from minivitpose.cli.journal import Journal, encode
from minivitpose.cli.options import UsageError, say
from minivitpose.cli.results import about, coco, draw, drawn_name, easy, make_entry, named_many, write
from minivitpose.files import alone_in

BROKEN = "keypoints-broken.json"
SHOWN = 10  # broken pictures that are named on standard error


def run_many(options, plan, jobs):
    """Many pictures: each one's result into the journal as it is complete, at the end all of them as one file."""
    with alone_in(options.out):
        return run_alone(options, plan, jobs)


def run_alone(options, plan, jobs):
    """``run_many``, with the folder for itself."""
    path, result = options.out / "keypoints.jsonl", options.out / "keypoints.json"
    ours = path.exists() or (options.out / BROKEN).exists()  # where all were broken there is no journal
    if result.exists() and not ours and options.format != "easy":
        raise UsageError(f"{shown(result)} has no {path.name} beside it, so it may be another's: take another --out")
    journal = Journal(path, settings(options, plan))
    todo = [job for job in jobs if not is_done(options, journal, job)]
    if journal.stale:
        say(f"{shown(journal.path)}: of another model or other options, begun anew")
    elif len(todo) < len(jobs):
        say(f"{shown(journal.path)}: {len(jobs) - len(todo)} of {len(jobs)} pictures are done already")
    broken = {}
    try:
        work(options, plan, journal, todo, broken)
        people = write_results(options, plan, journal, [job for job in jobs if job.path not in broken])
        report_broken(options, broken, len(jobs))
    except KeyboardInterrupt:
        say(f"{count(journal, jobs)} of {len(jobs)} pictures are done; the same command goes on from there")
        raise
    except OSError as error:
        reason = f"{error.filename or shown(options.out)}: {error.strerror or error}"
        safe = f"{count(journal, jobs)} of {len(jobs)} pictures are safe in {shown(journal.path)}"
        raise UsageError(f"{reason}; {safe}: when it can be written, the same command goes on from there") from None
    files = ["NAME_result.json" if options.format == "easy" else "keypoints.json"]
    files += [] if options.no_draw else [f"drawn pictures NAME{DRAWN}.*"]
    print(f"{len(jobs) - len(broken)} pictures, {people} people")
    print(f"written to {shown(options.out)}: {', '.join(files)}")
    return 1 if broken else 0


def count(journal, jobs):
    return sum(str(job.path) in journal.places for job in jobs)


def settings(options, plan):
    """All that a result depends on, besides the picture and the boxes."""
    model = plan.model
    return {
        "version": __version__,
        "model": fingerprint(model),
        "pipeline": plan.pipeline.name,
        "flip": plan.flip_index is not None,
        "engine": model.engine,
        "precision": model.precision,
        "drawn from": None if options.no_draw else options.threshold,
    }


def fingerprint(model):
    """A hash of the config and of each tensor's name, shape and about a thousand values: other weights differ there."""
    digest = hashlib.blake2b(repr(model.config).encode(), digest_size=16)
    for name, x in model.state_dict().items():
        digest.update(f"{name} {x.shape} {x.dtype}".encode())
        digest.update(x.reshape(-1)[:: max(1, x.size // 1000)].tobytes())
    return digest.hexdigest()


def made_of(job):
    """The picture file's size and time and its boxes, in a form that JSON keeps."""
    try:
        stat = job.path.stat()
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns, zlib.crc32(encode([job.boxes, job.box_scores]))]


def is_done(options, journal, job):
    """Whether the journal has this very picture, and its drawing is there under the name that it has now."""
    entry = journal.read(str(job.path))
    if entry is None or entry.get("made_of") != made_of(job):
        return False
    return options.no_draw or (entry["drawn"] == drawn_name(job) and (options.out / entry["drawn"]).exists())


def work(options, plan, journal, todo, broken):
    """Every picture of ``todo`` into the journal; what cannot be read into ``broken``, path -> why."""
    from tqdm import tqdm

    from minivitpose.pose import BoxError, ImageError
    from minivitpose.pose.estimate import estimate_pictures, prepare

    with tqdm(total=len(todo), unit="picture", disable=None) as bar:  # none where standard error is no terminal
        begun = deque()

        def pictures():
            for job in todo:
                before = made_of(job)
                try:
                    picture = prepare(job.path, job.boxes, job.box_scores)
                except (ImageError, BoxError) as error:
                    broken[job.path] = str(error)
                    bar.update()
                    continue
                begun.append((job, before))
                yield picture

        for picture, poses in estimate_pictures(plan, pictures()):
            job, before = begun.popleft()
            drawn = draw(options, plan.model.config, job, picture, poses)
            journal.add(str(job.path), make_entry(job, poses, drawn) | {"made_of": before})
            bar.update()


def write_results(options, plan, journal, jobs):
    """The journal's results of these pictures as --format says. -> how many people"""
    people = 0

    def entries():
        nonlocal people
        for job in jobs:
            entry = journal.read(str(job.path)) | {"image_id": job.image_id, "categories": job.categories}
            people += len(entry["poses"])
            yield entry

    if options.format == "named":
        write(options.out / "keypoints.json", named_many(entries(), about(options, plan)))
    elif options.format == "coco":
        write(options.out / "keypoints.json", coco(entries(), options.boxes is not None))
    else:
        for job, entry in zip(jobs, entries(), strict=True):
            write(options.out / f"{job.name}_result.json", easy(entry, about(options, plan)))
    return people


def report_broken(options, broken, total):
    """Name the broken pictures on standard error and, all of them, in a file; an earlier such file goes."""
    path = options.out / BROKEN
    if not broken:
        path.unlink(missing_ok=True)
        return
    rows = [{"image": str(name), "reason": why} for name, why in broken.items()]
    write(path, [encode(rows, indent=1), b"\n"])
    say(f"{len(broken)} of {total} pictures could not be used:")
    for name, why in list(broken.items())[:SHOWN]:
        say(f"  {shown(name)}: {shown(why)}")
    say(f"all of them, with the reasons: {shown(path)}")
