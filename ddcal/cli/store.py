"""Verbs that look after the artefact store."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ddcal.cli.base import AsJson, Verbs, app
from ddcal.config.places import is_url
from ddcal.errors import BadInput, ResourceError, StoreError, one_line

if TYPE_CHECKING:
    from ddcal.store.base import Store

StorePlace = Annotated[
    str,
    typer.Argument(metavar="STORE", help="A store (folder or s3:// URL), or the output root that has it, like runs."),
]
store_app = typer.Typer(cls=Verbs, help="Look after the artefact store.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(store_app, name="store")


@store_app.command("ls")
def store_ls(root: StorePlace, as_json: AsJson = False) -> None:
    """List the artefacts of a store, and who refers to them."""
    from ddcal.cli.console import make_console, store_table
    from ddcal.pipeline.upkeep import list_entries
    from ddcal.study.record.references import referred_keys

    store = existing_store(root)
    entries, references = list(list_entries(store)), referred_keys(store)
    if as_json:
        rows = [asdict(entry) | {"references": sorted(references.get(entry.key, ()))} for entry in entries]
        typer.echo(json.dumps(rows, indent=2))
    else:
        make_console().print(store_table(entries, references))


@store_app.command("verify")
def store_verify(root: StorePlace) -> None:
    """Read every artefact and compare it with its sha256."""
    from ddcal.pipeline.upkeep import verify_store

    checked = list(verify_store(existing_store(root)))
    faults = [(stage, key, fault) for stage, key, fault in checked if fault is not None]
    for stage, key, fault in faults:
        typer.echo(one_line(f"{stage}/{key}: {fault}"), err=True)  # the key is a folder's name
    typer.echo(f"{len(checked) - len(faults)} of {len(checked)} artefacts are whole")
    if faults:
        raise typer.Exit(1)


@store_app.command("prune")
def store_prune(
    root: StorePlace,
    older_than: Annotated[
        float, typer.Option("--older-than", metavar="DAYS", min=0.0, help="Only what is older than this.")
    ] = 0.0,
    max_size: Annotated[
        float | None, typer.Option("--max-size", metavar="GB", min=0.0, help="Only until the store is below this.")
    ] = None,
    study: Annotated[
        Path | None,
        typer.Option("--study", metavar="DIR", help="Remove what this study alone uses, and nothing else."),
    ] = None,
    forgotten: Annotated[
        list[str] | None,
        typer.Option(
            "--forget",
            metavar="FOLDER",
            help="A study's or export's folder that is gone: what is noted for it counts no more.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and remove nothing.")] = False,
) -> None:
    """Remove artefacts that no study and no export refers to; with --study, those of one study.

    What a study or an export has noted counts until --forget, also when its folder cannot be found.
    """
    from ddcal.pipeline.upkeep import prune_store
    from ddcal.study.record.references import all_but, forget, kept_for_notes, referred_keys

    store = existing_store(root)
    most = None if max_size is None else int(max_size * 1e9)
    for folder in forgotten or ():
        if not forget(store, folder, dry_run=dry_run):
            raise BadInput(
                f"--forget {folder}: nothing is noted in {root} for a folder of that name that is not there "
                "(one that is there counts until it is removed; --study removes what it alone uses)"
            )

    def kept() -> Collection[str]:
        return referred_keys(store, forgotten or ()) if study is None else all_but(store, study)

    removed = prune_store(store, kept, older_than=older_than, max_bytes=most, dry_run=dry_run)
    size = sum(entry.bytes for entry in removed) / 1e6
    for one, count in kept_for_notes(store, forgotten or ()):
        typer.echo(
            f"kept {count} artefacts noted for {one.said}: if it is gone for good, "
            f"ddcal store prune {shlex.quote(root)} --forget {shlex.quote(one.folder)} releases them",
            err=True,
        )
    typer.echo(f"{'would remove' if dry_run else 'removed'} {len(removed)} artefacts, {size:.1f} MB")


def existing_store(root: str) -> Store:
    """Return the artefact store at ``root``, an ``s3://`` URL or a folder, or at ``root/store``.

    Raises:
        BadInput: if there is none, or it cannot be reached.
    """
    from ddcal.pipeline.stages import STAGES
    from ddcal.store.opening import open_store

    if is_url(root):
        store = open_store(root)
        try:
            store.check()
        except StoreError as error:
            raise ResourceError(str(error)) from error
        return store
    for place in (Path(root) / "store", Path(root)):  # a study in an output root may be called like a stage
        if any((place / stage).is_dir() for stage in STAGES):
            return open_store(place)
    raise BadInput(
        f"{root} is not an artefact store, nor an output root that has one "
        "(of a study with a store elsewhere, give storage.store of its study.yaml)"
    )
