"""`dnet-data`, also `python -m data_prep`: makes, imports and shows voxel archives."""

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from .archive import CATEGORIES, MAX_RESOLUTION, MAX_VOXELS, Archive, cache_dir, read_archive, sha256_of, write_archive
from .furniture import make_furniture
from .layouts import OCCUPIED, SUFFIXES, import_shapes, import_shard, merged
from .modelnet10 import URL, Recipe, assemble, fetch_zip, voxelize_zip
from .report import at_most, contact_sheet, describe, printable, text_picture
from .shards import Shard, gather, shard_path


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = _parser().parse_args(argv)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    try:
        code: int = arguments.run(arguments)
        return code
    except KeyboardInterrupt:
        print("dnet-data: interrupted; the same command goes on where it was", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except BrokenProcessPool:
        problem = "a worker process died, perhaps for want of memory; run the same command again with fewer --workers"
    except OSError as error:
        problem = str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            problem = f"{error.filename}: the disk is full; make room and run again, nothing half-written is kept"
    except MemoryError as error:
        problem = f"{error or 'out of memory'}: choose a lower --resolution or fewer shapes"
    except ValueError as error:
        problem = str(error)
    print(f"dnet-data: {printable(problem)}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dnet-data", description="Make, import and show archives of voxel shapes.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: object, text: str, out: str = "") -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        if out:
            sub.add_argument("--out", type=Path, metavar="FILE", help=f"archive to write (default: {out})")
        return sub

    def count(text: str) -> int:
        if not text.isdecimal():
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0")
        return int(text)

    def side(text: str) -> int:
        if not 1 <= count(text) <= MAX_RESOLUTION:
            raise argparse.ArgumentTypeError(f"{text} is not from 1 to {MAX_RESOLUTION}")
        return int(text)

    def shard(text: str) -> Shard:
        i, _, n = text.partition("/")
        if not 1 <= count(i) <= count(n):
            raise argparse.ArgumentTypeError(f"{text} is not I/N, with I from 1 to N, such as 1/8")
        return int(i), int(n)

    def sharded(sub: argparse.ArgumentParser, what: str) -> None:
        text = f"take every N-th {what} only, from the I-th; `dnet-data merge` makes the archive of all N"
        sub.add_argument("--shard", type=shard, metavar="I/N", help=text)

    sub = command("shapes", _shapes, "Make procedural furniture.", "furniture_<R>.npz in the cache folder")
    sub.add_argument("--resolution", type=side, default=32, metavar="R", help="voxels a side (default: 32)")
    sub.add_argument("--train", type=count, default=100, metavar="N", help="training shapes a category (default: 100)")
    sub.add_argument("--test", type=count, default=20, metavar="N", help="test shapes a category (default: 20)")
    sub.add_argument("--seed", type=count, default=0, metavar="S", help="the same seed makes the same shapes")

    text = "Fetch ModelNet10 (450 MB, free for research use) and voxelize it as 3D ShapeNets did."
    sub = command("modelnet10", _modelnet10, text, "modelnet10_<R>.npz in the cache folder")
    sub.add_argument("--zip", type=Path, metavar="FILE", help=f"the zip, if you have it (default: {URL})")
    sub.add_argument("--sha256", metavar="HASH", help="what the zip's hash must be (default: what it was at first)")
    sub.add_argument("--resolution", type=side, default=32, metavar="R", help="voxels a side (default: 32)")
    sub.add_argument("--padding", type=count, default=3, metavar="P", help="of them, empty on each side (default: 3)")
    text = "of each mesh, 30 degrees apart (default: 1)"
    sub.add_argument("--turns", type=int, choices=range(1, 13), default=1, metavar="1..12", help=text)
    sub.add_argument("--workers", type=side, metavar="N", help="processes (default: one for each core)")
    sharded(sub, "mesh")

    text = "Read other people's voxels: .npz, 3D ShapeNets .mat, .binvox and .npy files, and folders of them."
    sub = command("import", _import, text, "<name>_<R>.npz in the cache folder")
    sub.add_argument("paths", type=Path, nargs="+", metavar="PATH", help="files or folders")
    sub.add_argument("--layout", choices=["auto", *SUFFIXES], default="auto", help="what the files are (default: auto)")
    sub.add_argument(
        "--axes", metavar="yxz", help="the files' axes in order, - reverses: --axes=x-zy (default: by layout)"
    )
    sub.add_argument("--category", choices=CATEGORIES, metavar="NAME", help="of all shapes (default: what files say)")
    sub.add_argument(
        "--split", choices=("train", "test"), default="train", help="where files do not say (default: train)"
    )
    sub.add_argument(
        "--turns", choices=("first", "all"), default="first", help="of 3D ShapeNets' twelve (default: first)"
    )
    sub.add_argument("--resolution", type=side, metavar="R", help="pad with empty voxels to R a side, or cut them off")
    sub.add_argument(
        "--occupied", choices=OCCUPIED, help="which values are occupied (default: above-0.5, where that is clear)"
    )
    sub.add_argument("--key", action="append", default=[], help="array to read of .npz and .mat (may be repeated)")
    sub.add_argument("--name", help="of the dataset (default: from the first path)")
    sub.add_argument("--force", action="store_true", help="overwrite an archive in the cache folder")
    sharded(sub, "file")

    text = "Make the archive of all shards of a run, the same bytes that one machine makes."
    sub = command("merge", _merge, text, "the one the shards were made for, beside them")
    sub.add_argument("shards", type=Path, metavar="PATH", help="their folder, or the archive that they lie beside")

    sub = command("info", _info, "Show what an archive holds.")
    sub.add_argument("archive", type=Path, metavar="ARCHIVE")
    sub.add_argument("--png", type=Path, metavar="FILE", help="also draw a sheet of its shapes")
    return parser


def _shapes(arguments: argparse.Namespace) -> int:
    side, train, test, seed = arguments.resolution, arguments.train, arguments.test, arguments.seed
    if len(CATEGORIES) * (train + test) * side**3 > MAX_VOXELS:
        raise ValueError(f"{train} + {test} shapes a category at {side}^3 are too many for one archive")
    voxels, labels, split, names = make_furniture(side, train=train, test=test, seed=seed)
    manifest = {
        "dataset": "furniture",
        "source": f"dnet-data shapes --resolution {side} --train {train} --test {test} --seed {seed}",
        "sha256": None,
        "fill_rule": "solid",
        "padding": max(1, 3 * side // 32),
    }
    out = arguments.out or cache_dir() / f"furniture_{side}.npz"
    print(describe(write_archive(out, voxels, labels, split, names, manifest)))
    return _written(out)


def _modelnet10(arguments: argparse.Namespace) -> int:
    recipe = Recipe(arguments.resolution, arguments.padding, arguments.turns)
    path, sha256, shard = arguments.zip, arguments.sha256, arguments.shard
    if not path:
        if shard and not (cache_dir() / Path(URL).name).exists():
            raise ValueError(f"many shards do not fetch the zip at once: fetch {URL} first, and give --zip")
        path, sha256 = fetch_zip(cache_dir(), sha256=sha256)
    out = arguments.out or cache_dir() / f"modelnet10_{recipe.resolution}.npz"
    found = voxelize_zip(path, out, recipe, sha256=sha256, workers=arguments.workers, shard=shard)
    return _tell_meshes(path.name, out, *found, shard)


def _tell_meshes(
    source: str,
    out: Path,
    archive: Archive | None,
    failures: list[str],
    remarks: list[str],
    notes: list[str],
    shard: Shard | None = None,
) -> int:
    print(*at_most(notes), sep="\n")
    if remarks:
        print(
            f"{len(remarks)} meshes are odd, and voxelized as the official convention does:",
            *at_most(remarks, 5),
            sep="\n",
        )
    if failures:
        print(f"{len(failures)} meshes could not be voxelized:", *at_most(failures, 1000), sep="\n", file=sys.stderr)
    if shard:
        return _written(shard_path(out, shard))
    if archive is None:
        raise ValueError(f"{source}: no mesh could be voxelized")
    print(describe(archive))
    return _written(out)


def _import(arguments: argparse.Namespace) -> int:
    words = ("layout", "axes", "category", "split", "turns", "resolution", "name", "occupied")
    options = {word: getattr(arguments, word) for word in words} | {"keys": arguments.key}
    out = arguments.out
    if arguments.shard:
        if not out:
            raise ValueError("give --shard an --out, the archive that `dnet-data merge` is to make of all shards")
        return _written(import_shard(arguments.paths, out, arguments.shard, **options))
    found, problems, notes = import_shapes(arguments.paths, **options)
    out = out or cache_dir() / f"{found.manifest['dataset']}_{found.resolution}.npz"
    if not arguments.out and out.exists() and not arguments.force:
        raise ValueError(f"{out} exists: choose another --out or --name, or give --force")
    return _tell_import(out, found, problems, notes)


def _tell_import(out: Path, found: Archive, problems: list[str], notes: list[str]) -> int:
    archive = write_archive(out, found.packed, found.labels, found.split, found.names, found.manifest)
    print(*at_most(notes, 1000), sep="\n")
    if problems:
        print(f"{len(problems)} left out:", *at_most(problems, 1000), sep="\n", file=sys.stderr)
    print(describe(archive))
    return _written(out)


def _merge(arguments: argparse.Namespace) -> int:
    place = arguments.shards
    run, done = gather(place)
    out = arguments.out or (place if place.is_dir() else place.parent) / run["out"]
    if run["command"] == "import":
        return _tell_import(out, *merged(run, done))
    return _tell_meshes(run["source"], out, *assemble(run, done, out), run["notes"])


def _info(arguments: argparse.Namespace) -> int:
    archive = read_archive(arguments.archive)
    print(f"{arguments.archive}  {arguments.archive.stat().st_size:,} bytes, sha256 {sha256_of(arguments.archive)}")
    print(describe(archive))
    extra = {key: value for key, value in archive.manifest.items() if key not in ("dataset", "source", "fill_rule")}
    print("", printable("manifest    " + ", ".join(f"{key} {value}" for key, value in extra.items())), sep="\n")
    print("", text_picture(archive), sep="\n")
    if arguments.png:
        contact_sheet(archive, arguments.png)
        return _written(arguments.png)
    return 0


def _written(path: Path) -> int:
    print(f"written: {path} ({path.stat().st_size:,} bytes)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
