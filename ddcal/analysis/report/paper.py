"""The report on the paper: its studies are run where they are missing, and its tables and figures put on one page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ddcal.analysis.report.artefacts import Artefacts
from ddcal.analysis.report.cells import Collected
from ddcal.analysis.report.comparison_table import put_comparison, put_overview
from ddcal.analysis.report.curves import draw_ipc, draw_masks, draw_ratio
from ddcal.analysis.report.drawings import Drawings
from ddcal.analysis.report.network_figures import (
    draw_features,
    draw_max_logits,
    draw_paper_reliability,
    draw_spectra,
)
from ddcal.analysis.report.page import Page
from ddcal.analysis.report.progress import ReportProgress
from ddcal.analysis.report.running import load_finished, run_missing
from ddcal.analysis.report.runs_table import FULL_SCALE, put_facts, put_runs
from ddcal.analysis.report.solvers import draw_solvers
from ddcal.analysis.report.studies import STEMS, ReportStudy, study_names
from ddcal.analysis.report.tables import ddnn_rows, put_table, table1_rows, table2_rows

FIGURES, TABLES = "figures", "tables"
"""Folders of the files beside the page."""


@dataclass(frozen=True)
class PaperReport:
    """What `paper_report` has made.

    Attributes:
        page: The page's file.
        gaps: How many numbers and figures are missing on it.
        completed: Whether at least one trial behind it came to its end.
    """

    page: Path
    gaps: int
    completed: bool


def paper_report(
    studies: Sequence[ReportStudy],
    output: Path,
    scale: str,
    progress: ReportProgress,
    *,
    debug: bool = False,
    address: str | None = None,
) -> PaperReport:
    """Run the studies that are missing and write ``index.html`` with its figures and tables.

    Args:
        studies: From `paper_studies`.
        output: The folder of the page, the studies and their store.
        scale: Its name; all but ``gpu`` are marked as reduced.
        progress: Is told what happens.
        debug: As in `ddcal.study.run_study`.
        address: As in `ddcal.study.run_study`.

    Raises:
        BadInput: if the folder has studies of other settings.
        KeyboardInterrupt: on Ctrl-C; the same call goes on.
    """
    root = output.absolute()
    try:
        run_missing(studies, root, progress, debug=debug, address=address)
    except KeyboardInterrupt:
        progress.stopped()
        raise
    progress.say("drawing")
    datasets = list(dict.fromkeys(study.dataset for study in studies))
    found = [Collected(one, {stem: load_finished(study_names(one, stem), root) for stem in STEMS}) for one in datasets]
    page = Page(f"Calibration of distilled-data networks: {', '.join(datasets)}", root)
    _introduction(page, found, scale)
    _sections(page, found, root, reduced=scale != FULL_SCALE)
    page.heading("The trials behind the numbers")
    page.text(
        "Every number above links to the trials that it is the mean of: the number itself to the first, the small "
        "figures after it to the others. The last column hands a trial on as a folder that anyone can replay."
    )
    behind = [study for one in found for stem in STEMS for study in one.studies[stem]]
    put_runs(page, behind, output)
    return PaperReport(page.write(), page.missing, any(study.completed for study in behind))


def _introduction(page: Page, found: Sequence[Collected], scale: str) -> None:
    page.text(
        'The tables and figures of "Rethinking Data Distillation: Do Not Overlook Calibration" (ICCV 2023) as ddcal '
        "measures them. FDNN: a network trained on the full data; DDNN: one trained on a distilled set; IPC: images "
        "per class; MTS: masked temperature scaling, after training; MDT: masking while distilling; TS: temperature "
        "scaling. ECE is the expected calibration error (top-1, 10 equal-width bins); 0 is perfect, and a perfectly "
        "calibrated network still shows its noise floor."
    )
    studies = [study for one in found for each in one.studies.values() for study in each]
    put_facts(page, studies, scale, ", not beside the paper's")


def _sections(page: Page, found: Sequence[Collected], root: Path, *, reduced: bool) -> None:
    artefacts, tables = Artefacts(), root / TABLES
    drawings = Drawings(root / FIGURES, page)

    page.heading("Table 1: accuracy of MTS, TS with images held out, and MDT")
    page.text(
        "What calibration costs in accuracy: MTS trains on the whole distilled set, temperature scaling has to hold "
        "out a tenth of it, MDT masks images while they are distilled. None of these has seen a real label beyond "
        "the training images that were distilled."
    )
    put_table(page, "table1", [row for one in found for row in table1_rows(one)], tables, reduced=reduced)

    page.heading("Table 2: ECE of networks trained on full data")
    page.text(
        "All losses on one common split; temperatures are fitted on real `val` images, which MTS masks at a low ratio "
        "(r = 0.1 in `studies/paper/fdnn.yaml`): at r = 0 it is TS."
    )
    put_table(page, "table2", [row for one in found for row in table2_rows(one, artefacts)], tables, reduced=reduced)

    page.heading("Accuracy of DDNNs beside the published ones")
    put_table(page, "ddnn", [row for one in found for row in ddnn_rows(one)], tables, reduced=reduced)

    page.heading("Which calibration wins on distilled data?")
    page.text(
        "Every calibration on the same networks, the lowest ECE first; bold: the lowest of those that have used no "
        "real label. The interval is the 95 % interval of the mean over seeds (random subsets, or distilled sets; "
        "Student's t, cut at 0). Temperature scaling and MTS leave the accuracy as it is; other losses and held-out "
        "images change the network."
    )
    put_overview(page, found, artefacts)
    for one in found:
        put_comparison(page, one, artefacts, tables, reduced=reduced)

    for title, draw in (
        ("Figure 1: singular values of distilled sets", lambda one: draw_spectra(one, drawings, artefacts, reduced)),
        ("Figure 2: ECE against images per class", lambda one: draw_ipc(one, drawings, reduced)),
        ("Figure 3: maximum logits", lambda one: draw_max_logits(one, drawings, artefacts, reduced)),
        ("Figure 4: features of every block", lambda one: draw_features(one, drawings, artefacts, reduced)),
        ("ECE against the mask ratio", lambda one: draw_ratio(one, drawings, reduced)),
        ("Units and draws of the mask", lambda one: draw_masks(one, drawings, reduced)),
        ("The paper's optimiser beside the bounded one", lambda one: draw_solvers(one, drawings, artefacts, reduced)),
        ("Reliability diagrams", lambda one: draw_paper_reliability(one, drawings, artefacts)),
    ):
        page.heading(title)
        for one in found:
            page.heading(one.dataset, 3)
            draw(one)
