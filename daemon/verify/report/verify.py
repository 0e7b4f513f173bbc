"""Verifies a report of unknown origin: each artifact by itself, and all files against the manifest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from daemon.verify.report.archive import MANIFEST, MANIFESTS, sum_of
from daemon.verify.report.artifact import FileSum, Manifest, has_own_fields
from daemon.verify.report.contents import Content, Problem, of_archive, of_folder
from daemon.verify.report.validate import validate


class Verdict(Struct, frozen=True):
    """`files`: how many were read. Without problems, all of them are in order."""

    files: int
    problems: list[Problem]


def verify_folder(folder: Path, *, strict: bool) -> Verdict:
    """Verifies the artifacts of the folder, and each archive in it. `strict`: it must have a manifest, too."""
    verdict = verify_files(folder, strict=strict)
    files, problems = verdict.files, list(verdict.problems)
    for archive in sorted(folder.glob("archive/[!.]*")):
        inner = verify_archive(archive, strict=strict)
        files += inner.files
        problems += [
            each._replace(file=f"archive/{archive.name}" + ("" if each.file == archive.name else f": {each.file}"))
            for each in inner.problems
        ]
    return Verdict(files, problems)


def verify_files(folder: Path, *, strict: bool) -> Verdict:
    """The same without the archives."""
    return _verify(of_folder(folder), folder.name or str(folder), strict=strict, packed=False)


def verify_archive(archive: Path, *, strict: bool) -> Verdict:
    """Verifies the artifacts of the zip. It must have a manifest, unless all of them are of another producer."""
    return _verify(of_archive(archive), archive.name, strict=strict, packed=True)


def _verify(contents: Iterable[Content], name: str, *, strict: bool, packed: bool) -> Verdict:
    problems: list[Problem] = []
    sealed = strict
    sums: dict[str, FileSum] = {}
    manifest: Manifest | None = None
    seen = 0
    for content in contents:
        if isinstance(content, Problem):
            problems.append(content)
            continue
        file, data = content
        seen += 1
        found = [*validate(file, data, strict=strict)]
        problems += found
        if file in MANIFESTS:
            manifest = None if found else msgspec.json.decode(data, type=Manifest)
        else:
            sums[file] = sum_of(data)
            sealed |= packed and (bool(found) or has_own_fields(msgspec.json.decode(data)))
    if manifest is not None:
        problems += _against(manifest, sums, {problem.file for problem in problems})
    elif sealed and not any(problem.file in (*MANIFESTS, name) for problem in problems):
        problems.append(Problem(MANIFEST, "", "is missing"))
    if not seen and not problems:
        problems.append(Problem(name, "", "holds no artifact"))
    return Verdict(seen, problems)


def _against(manifest: Manifest, sums: dict[str, FileSum], named: set[str]) -> Iterator[Problem]:
    """`named`: files that have a problem already, so they may not have been read."""
    for file, sum_ in manifest.files.items():
        if file not in sums:
            if file not in named:
                yield Problem(file, "", "is missing; the manifest names it")
        elif sums[file] != sum_:
            yield Problem(file, "", "was changed: its SHA-256 is not the manifest's")
    for file in sorted(sums.keys() - manifest.files.keys()):
        yield Problem(file, "", "was added: the manifest does not name it")
