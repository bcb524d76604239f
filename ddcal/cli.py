"""The command line: each verb parses, calls and prints; heavy imports happen inside the verb that needs them."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from ddcal import __version__
from ddcal.config.loading import read_study, study_problems
from ddcal.config.places import is_url
from ddcal.config.searchers import trials_sentence
from ddcal.errors import BadInput, DivergedError, StoreError, TrackingError

if TYPE_CHECKING:
    from ddcal.pipeline.store import Store
    from ddcal.study.results import StudyResults
    from ddcal.study.runner import Hooks


class _Verbs(TyperGroup):
    """Runs any verb; turns the user's mistakes into a message and exit code 2, and Ctrl-C into 130."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BadInput as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(2) from None
        except (StoreError, DivergedError, TrackingError) as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Verbs,
    name="ddcal",
    help="Search, train and calibrate networks on distilled datasets, and replay the winner.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.PATH=VALUE", help="Replace a value of the study, for example search.trials=4."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Debug = Annotated[bool, typer.Option("--debug", help="Run the trials one after another in this process, without Ray.")]
Address = Annotated[
    str | None, typer.Option(metavar="ADDR", help="A Ray cluster's address; default: Ray on this machine.")
]
StorePlace = Annotated[
    str,
    typer.Argument(metavar="STORE", help="A store (folder or s3:// URL), or the output root that has it, like runs."),
]
StudyFolder = Annotated[Path, typer.Argument(metavar="DIR", help="A study's folder, for example runs/quickstart.")]


store_app = typer.Typer(cls=_Verbs, help="Look after the artefact store.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(store_app, name="store")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ddcal {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def validate(
    studies: Annotated[list[Path], typer.Argument(metavar="STUDY...", help="The study files to check.")],
    overrides: Overrides = None,
    data: Annotated[bool, typer.Option("--data", help="Look for the files of the data sets too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check study files and print every mistake in them."""
    reports = [(file, *study_problems(file, overrides or ())) for file in studies]
    if data:
        from ddcal.study.data_check import with_data_problems

        reports = [(file, *with_data_problems(file, study, problems)) for file, study, problems in reports]
    for file, study, problems in [] if as_json else reports:
        if study is not None:
            typer.echo(f"{file}: ok ({trials_sentence(study)})")
        for problem in problems:
            typer.echo(str(problem), err=True)
    if as_json:
        entries = [
            {"file": str(file), "ok": study is not None, "problems": [asdict(problem) for problem in problems]}
            for file, study, problems in reports
        ]
        typer.echo(json.dumps(entries, indent=2))
    if any(study is None for _, study, _ in reports):
        raise typer.Exit(2)


@app.command()
def run(
    study_file: Annotated[Path, typer.Argument(metavar="STUDY", help="The study file.")],
    overrides: Overrides = None,
    debug: Debug = False,
    output: Annotated[
        Path | None, typer.Option(metavar="ROOT", help="The output root; the study goes to ROOT/<name>.")
    ] = None,
    address: Address = None,
    trials: Annotated[
        int | None, typer.Option(metavar="N", help="The number of trials, as --set search.trials=N.")
    ] = None,
) -> None:
    """Run a study and name its winner."""
    extra = [] if trials is None else [f"search.trials={trials}"]
    study = read_study(study_file, [*(overrides or ()), *extra])

    from ddcal.study.console import StudyProgress, make_console, print_summary
    from ddcal.study.runner import run_study

    console = make_console()
    with StudyProgress(console) as progress:
        results = run_study(study, output=output, address=address, debug=debug, hooks=with_pictures(progress.hooks))
    print_summary(results, console)
    if not results.completed:
        raise typer.Exit(1)


def with_pictures(hooks: Hooks) -> Hooks:
    """Return the hooks with the drawing of the study's pictures at its end."""

    def draw(results: StudyResults) -> None:
        from ddcal.analysis.study_figures import draw_at_end

        draw_at_end(results)

    return replace(hooks, on_end=draw)


@app.command()
def plan(
    study_file: Annotated[Path, typer.Argument(metavar="STUDY", help="The study file.")],
    overrides: Overrides = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Measure a few steps of each kind of stage, to estimate the time.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option(metavar="ROOT", help="The output root, whose store and disk count.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tell what a study would cost; nothing of it is run."""
    study = read_study(study_file, overrides or ())

    from ddcal.study.console import make_console
    from ddcal.study.plan import make_plan
    from ddcal.study.plan_tables import print_plan, probe_progress

    with probe_progress(make_console(stderr=True)) as on_probe:
        planned = make_plan(study, output=output, probe=probe, on_probe=on_probe)
    if as_json:
        typer.echo(json.dumps(asdict(planned), indent=2))
    else:
        print_plan(planned, make_console(), str(study_file))


@app.command()
def resume(
    directory: StudyFolder,
    trials: Annotated[int | None, typer.Option(metavar="N", help="Extend the study to N trials in all.", min=1)] = None,
    debug: Debug = False,
    address: Address = None,
) -> None:
    """Go on with a stopped or killed study."""
    from ddcal.study.console import StudyProgress, make_console, print_summary
    from ddcal.study.runner import resume_study

    console = make_console()
    with StudyProgress(console) as progress:
        results = resume_study(
            directory, trials=trials, address=address, debug=debug, hooks=with_pictures(progress.hooks)
        )
    print_summary(results, console)
    if not results.completed:
        raise typer.Exit(1)


@app.command()
def status(directory: StudyFolder, as_json: AsJson = False) -> None:
    """Tell how far a study is."""
    from ddcal.study.console import make_console, print_status
    from ddcal.study.status import study_status

    report = study_status(directory)
    if as_json:
        typer.echo(json.dumps(asdict(report), indent=2))
    else:
        print_status(report, make_console())


@app.command()
def sync(directory: StudyFolder) -> None:
    """Send to MLflow what it does not have yet."""
    from ddcal.study.tracking import sync_study

    typer.echo(sync_study(directory))


@app.command()
def pareto(
    directory: StudyFolder,
    to: Annotated[
        Path | None, typer.Option(metavar="PNG", help="The picture; default: DIR/figures/pareto.png.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the Pareto front and draw it."""
    from ddcal.analysis.study_figures import FIGURES, plot_pareto
    from ddcal.study.console import make_console, pareto_table
    from ddcal.study.results import load_study, trial_rows

    results = load_study(directory)
    results.write()
    picture = plot_pareto(results, to or directory / FIGURES / "pareto.png")
    if as_json:
        typer.echo(json.dumps(trial_rows(results.study, results.pareto), indent=2))
    else:
        make_console().print(pareto_table(results))
        typer.echo(f"{picture}  {directory / 'pareto.csv'}")


@app.command()
def plots(
    directory: StudyFolder,
    to: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where the pictures go; default: DIR/figures.")
    ] = None,
) -> None:
    """Draw a study: front, history, parallel coordinates, importances."""
    from ddcal.analysis.study_figures import draw_study
    from ddcal.study.results import load_study

    for picture in draw_study(load_study(directory), to):
        typer.echo(picture)


@app.command()
def compare(
    directories: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Folders of studies, or output roots with all their studies.")
    ],
    to: Annotated[Path | None, typer.Option(metavar="PNG", help="Draw the Pareto fronts into one picture.")] = None,
    as_csv: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write the table, one row a study.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Put studies beside each other."""
    from ddcal.analysis.comparison import compare_studies, comparison_table, find_studies, write_comparison
    from ddcal.analysis.comparison_figure import plot_fronts
    from ddcal.study.console import make_console

    studies = find_studies(directories)
    found = compare_studies(studies)
    picture = None if to is None else plot_fronts(studies, list(found.facts), to)
    if as_csv is not None:
        write_comparison(found, as_csv)
    if as_json:
        typer.echo(json.dumps({"studies": found.facts, "warnings": found.warnings}, indent=2))
    else:
        make_console().print(comparison_table(found))
    for warning in found.warnings:
        typer.echo(f"not comparable: {warning}", err=True)
    for written in filter(None, (picture, as_csv)):
        typer.echo(str(written), err=as_json)


@app.command()
def importance(directory: StudyFolder, as_json: AsJson = False) -> None:
    """Tell which searched names matter."""
    from ddcal.study.console import importance_table, make_console
    from ddcal.study.importance import caution, importances
    from ddcal.study.results import load_study

    found = importances(load_study(directory))
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in found], indent=2))
    else:
        make_console().print(importance_table(found))
        note = caution(found)
        if note is not None:
            typer.echo(note, err=True)


@app.command()
def confirm(
    directory: StudyFolder,
    top: Annotated[int, typer.Option(metavar="K", min=1, help="How many leaders, by val/nll.")] = 3,
    seeds: Annotated[int, typer.Option(metavar="N", help="How many fresh seeds each.")] = 5,
    debug: Debug = False,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Run the leaders of a study on fresh seeds."""
    from ddcal.study.confirm import confirm as confirm_leaders
    from ddcal.study.console import StudyProgress, confirmation_table, make_console
    from ddcal.study.results import load_study

    console = make_console(stderr=as_json)
    with StudyProgress(console) as progress:
        found = confirm_leaders(
            load_study(directory),
            top=top,
            seeds=seeds,
            debug=debug,
            address=address,
            hooks=with_pictures(progress.hooks),
        )
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in found], indent=2))
    else:
        console.print(confirmation_table(found))


@store_app.command("ls")
def store_ls(root: StorePlace, as_json: AsJson = False) -> None:
    """List the artefacts of a store, and who refers to them."""
    from ddcal.pipeline.upkeep import list_entries
    from ddcal.study.console import make_console, store_table
    from ddcal.study.references import referred_keys

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
        typer.echo(f"{stage}/{key}: {fault}", err=True)
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
        typer.Option("--forget", metavar="FOLDER", help="A folder on another machine that refers no more."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and remove nothing.")] = False,
) -> None:
    """Remove artefacts that no study and no export refers to; with --study, those of one study."""
    from ddcal.pipeline.upkeep import prune_store
    from ddcal.study.references import all_but, forget, other_machines, referred_keys

    store = existing_store(root)
    most = None if max_size is None else int(max_size * 1e9)
    for folder in forgotten or ():
        if not any(one.endswith(f": {folder}") for one in other_machines(store)):
            raise BadInput(f"--forget {folder}: no other machine's study or export there uses {root}")
        if not dry_run:
            forget(store, folder)
    kept = referred_keys(store) if study is None else all_but(store, study)
    removed = prune_store(store, kept, older_than=older_than, max_bytes=most, dry_run=dry_run)
    size = sum(entry.bytes for entry in removed) / 1e6
    for one in other_machines(store):
        typer.echo(f"kept for another machine, {one} (--forget its folder once that is gone)", err=True)
    typer.echo(f"{'would remove' if dry_run else 'removed'} {len(removed)} artefacts, {size:.1f} MB")


def existing_store(root: str) -> Store:
    """Return the artefact store at ``root``, an ``s3://`` URL or a folder, or at ``root/store``; it must exist."""
    from ddcal.pipeline.store import open_store

    if is_url(root):
        store = open_store(root)
        store.check()
        return store
    for place in (Path(root), Path(root) / "store"):
        if any((place / stage).is_dir() for stage in ("distill", "train")):
            return open_store(place)
    raise BadInput(
        f"{root} is not an artefact store, nor an output root that has one "
        "(of a study with a store elsewhere, give storage.store of its study.yaml)"
    )


@app.command()
def export(
    directory: StudyFolder,
    to: Annotated[Path, typer.Option(metavar="OUT", help="The new folder to write.")],
    trial: Annotated[
        str | None, typer.Option(metavar="ID", help="A trial's number or key; default: the winner.")
    ] = None,
    pareto: Annotated[
        bool, typer.Option("--pareto", help="Export the whole Pareto front, one folder a trial.")
    ] = False,
    register: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Register it as a version of this model in the study's MLflow, too."),
    ] = None,
) -> None:
    """Write the winner as a folder that replays."""
    from ddcal.study.export import export_trial, exported_already
    from ddcal.study.results import load_study

    if trial is not None and pareto:
        raise BadInput("--trial and --pareto exclude each other: give one of them")
    results = load_study(directory)
    if register is not None:
        from ddcal.study.registry import check_registry

        check_registry(results, register)
    chosen = results.pareto if pareto else [results.trial(trial) if trial is not None else results.best]
    if not chosen or chosen[0] is None:
        typer.echo(
            f"{directory}: no trial is feasible, so there is no winner; --trial ID exports one all the same", err=True
        )
        raise typer.Exit(1)
    for one in chosen:
        assert one is not None
        target = to / one.trial_key if pareto else to
        if register is None or not exported_already(results, one, target):
            target = export_trial(results, one, target)
            typer.echo(f"{one.trial_key} -> {target}    next: ddcal replay {to / one.trial_key if pareto else to}")
        if register is not None:
            from ddcal.study.registry import register_export

            version, new = register_export(results, one, target, register)
            typer.echo(f"{one.trial_key} is version {version} of {register}{'' if new else ', as before'}")


@app.command()
def replay(
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="An export's folder.")],
    use_store: Annotated[
        str | None, typer.Option("--use-store", metavar="STORE", help="Take finished stages from this artefact store.")
    ] = None,
    ignore_versions: Annotated[
        bool, typer.Option("--ignore-versions", help="Go on although numeric packages have other versions.")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="List every metric, also those that are equal.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run an export again and compare everything."""
    from ddcal.study.console import comparison_table, make_console
    from ddcal.study.replay import replay as replay_run

    comparisons = replay_run(folder, store=use_store, ignore_versions=ignore_versions)
    different = [item for item in comparisons if not item.same]
    if as_json:
        typer.echo(json.dumps([asdict(item) | {"same": item.same} for item in comparisons], indent=2))
    else:
        console = make_console()
        console.print(comparison_table(comparisons, everything))
        equal = len(comparisons) - len(different)
        console.print(f"{equal} of {len(comparisons)} metrics and artefacts equal")
    if different:
        typer.echo("different: " + ", ".join(item.name for item in different), err=True)
        raise typer.Exit(1)


@app.command()
def ui(
    directory: StudyFolder,
    port: Annotated[int, typer.Option(metavar="PORT", help="The port on 127.0.0.1.")] = 5000,
) -> None:
    """Show a study in MLflow's UI on this machine."""
    from ddcal.study.ui import serve

    serve(directory, port, typer.echo)


def main() -> None:
    """Run the command line; the entry point of the ``ddcal`` script."""
    app()
