"""Figures that look into sets and networks: spectra, maximum logits, features of blocks, reliability, pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddcal.analysis.figures.block_features import choose_images, embed_networks, embedding_frame, plot_block_features
from ddcal.analysis.figures.max_logits import (
    max_logit_distributions,
    max_logits_frame,
    max_logits_summary,
    plot_max_logits,
)
from ddcal.analysis.figures.per_class import common_count, first_per_class
from ddcal.analysis.figures.spectrum import plot_spectra, spectrum, spectrum_frame, spectrum_summary
from ddcal.analysis.report.artefacts import Artefacts
from ddcal.analysis.report.cells import BACKBONE, Collected, Run, per_class
from ddcal.analysis.report.curves import BACKBONES, good_runs
from ddcal.analysis.report.drawings import Drawings, Drawn
from ddcal.analysis.report.methods import CROSS_ENTROPY, MTS

MDT = "distill.mask.ratio"
MASKED_RATIO = 0.5
"""The mask of Figure 3: half of an image, so that something is left to be sure of."""

FEATURE_IMAGES = 500
LOGIT_IMAGES = 2000
"""Test images of Figures 4 and 3."""

SHOWN_CALIBRATIONS = ("raw", "ts_train", "mts", "ts_val")


def draw_spectra(found: Collected, drawings: Drawings, artefacts: Artefacts, reduced: bool) -> None:
    """Put Figure 1 on the page: the singular values of every backbone's set with and without MDT."""
    runs, gaps = good_runs(found.runs("spectrum"))

    def draw() -> Drawn:
        sets = {run: artefacts.synthetic(run) for run in runs}
        count = common_count(one.classes for one in sets.values())
        spectra = []
        for run, one in sets.items():
            bases = run.settings["distill.rtp.bases"] if run.settings[BACKBONE] == "rtp" else None
            images = one.images[first_per_class(one.classes, count)]
            masked = run.settings[BACKBONE] != "real" and run.settings[MDT] > 0.0
            spectra.append(spectrum(images, run.settings[BACKBONE], masked=masked, bases=bases or None))
        caption = (
            f"The share of the sum of singular values that the largest ones hold, for sets of {count} images a class "
            "as the networks see them. A curve near the diagonal spreads its information evenly; one in the upper "
            "left corner is condensed into few directions. Dashed: with MDT. The area under the curve (0.5 on the "
            "diagonal) and the effective rank are one number each for it. Sets that RTP decodes from few bases "
            "cannot be as even as others."
        )
        figure = plot_spectra(spectra, title=f"Figure 1: {found.dataset}", reduced=reduced)
        return Drawn(figure, spectrum_frame(spectra), caption, (("summary", spectrum_summary(spectra)),))

    alt = f"Cumulative explained ratio of singular values of distilled sets of {found.dataset}, a curve a backbone"
    drawings.put(f"figure1-{found.dataset}", alt, runs, draw, gaps=gaps)


def draw_max_logits(found: Collected, drawings: Drawings, artefacts: Artefacts, reduced: bool) -> None:
    """Put Figure 3 on the page: the maximum logits of an FDNN and of DDNNs, on plain and on masked test images."""
    chosen: dict[str, Run] = {}
    gaps: list[str] = []
    wanted: Mapping[str, tuple[str, Mapping[str, Any]]] = {
        "FDNN": ("fdnn", MTS),
        "DDNN": ("features", {**CROSS_ENTROPY, MDT: 0.0}),
        "DDNN + MDT": ("features", {**CROSS_ENTROPY, MDT: 0.1}),
    }
    for name, (stem, where) in wanted.items():
        runs, why = good_runs(found.select(stem, where))
        if not runs and name == "DDNN":  # a dataset without the features' study
            runs, why = good_runs(
                found.select("ddnn", {**MTS, BACKBONE: "dsa", "distill.ipc": found.usual_ipc("ddnn")})
            )
        gaps += why if not runs else []
        if runs:
            chosen[name] = runs[0]

    def draw() -> Drawn:
        from ddcal.masking import mask_images
        from ddcal.networks import predict_logits
        from ddcal.seeding import generator

        logits = {}
        for name, run in chosen.items():
            test = artefacts.dataset(run).test.images[:LOGIT_IMAGES]
            masked = mask_images(test, MASKED_RATIO, generator(0, "analysis", "figure3", 0))
            logits[name, "plain"] = artefacts.logits(run)["test_logits"][0, :LOGIT_IMAGES]
            logits[name, f"masked {MASKED_RATIO:g}"] = predict_logits(artefacts.network(run), masked)
        distributions = max_logit_distributions(logits)
        count = distributions[0].count
        caption = (
            f"How large the largest logit is, over {count} test images: an FDNN and DDNNs (DSA; one network each), on "
            "images as they are and with half of their numbers masked. The paper finds the FDNN's spread out and the "
            "DDNN's concentrated."
        )
        figure = plot_max_logits(distributions, title=f"Figure 3: {found.dataset}", reduced=reduced)
        return Drawn(
            figure, max_logits_frame(distributions), caption, (("summary", max_logits_summary(distributions)),)
        )

    alt = f"Histograms of the maximum logit on {found.dataset}, FDNN beside DDNN, plain and masked images"
    drawings.put(f"figure3-{found.dataset}", alt, list(chosen.values()), draw, gaps=gaps)


def draw_features(found: Collected, drawings: Drawings, artefacts: Artefacts, reduced: bool) -> None:
    """Put Figure 4 on the page: t-SNE of the features of every block, four losses with and without MDT."""
    runs, gaps = good_runs(found.runs("features"))

    def draw() -> Drawn:
        dataset = artefacts.dataset(runs[0])
        places = choose_images(dataset.test.labels, FEATURE_IMAGES)
        images, labels = dataset.test.images[places], dataset.test.labels[places]
        networks = [(artefacts.network(run), run.settings["train.loss"], run.settings[MDT] > 0.0) for run in runs]
        embeddings = embed_networks(networks, images, labels)
        caption = (
            f"Features of {len(labels)} test images after every block of the first network, in the plane (PCA to 50 "
            "dimensions, then t-SNE; every panel on its own, so only groups mean something, not places). A row a loss; "
            "left without, right with MDT. Colours are classes. The paper finds that DDNNs separate classes in early "
            "blocks already, and later with MDT."
        )
        names = list(dataset.class_names)
        figure = plot_block_features(embeddings, class_names=names, title=f"Figure 4: {found.dataset}", reduced=reduced)
        return Drawn(figure, embedding_frame(embeddings), caption)

    alt = f"t-SNE of the features of every block on {found.dataset}, a row a loss, left without and right with MDT"
    drawings.put(f"figure4-{found.dataset}", alt, runs, draw, gaps=gaps)


def draw_reliability(run: Run, name: str, title: str, drawings: Drawings, artefacts: Artefacts) -> None:
    """Put the reliability diagrams of a trial's first network on the page: raw, ts_train, its own, ts_val."""

    count = run.trial.config.train.networks
    named = f"{title}; network 1 of {count}"

    def draw() -> Drawn:
        import pandas

        from ddcal.calibration import plot_reliability

        found = {
            calibration: bins_from(values) for calibration, values in artefacts.evaluation(run)["reliability"].items()
        }
        known = [one for one in SHOWN_CALIBRATIONS if one in found]
        order = [*(one for one in known if one != "ts_val"), *(one for one in found if one not in known)]
        order += ["ts_val"] if "ts_val" in found else []
        rows = [
            {"calibration": one, "bin": place, "count": int(found[one].counts[place]),
             "accuracy": float(found[one].accuracy[place]), "confidence": float(found[one].confidence[place])}
            for one in order
            for place in range(len(found[one].counts))
        ]  # fmt: skip
        others = f"; tables have the mean of all {count}" if count > 1 else ""
        caption = (
            "Confidence against accuracy on the test images, one panel a calibration, of the trial's first network"
            f"{others}. On the dashed line the network is right as often as it says; vermillion is over-confident, "
            "yellow under-confident; bins that hold almost no images (below 10, or 1 %) are pale. Below: the share of "
            "the images in each bin."
        )
        return Drawn(plot_reliability({one: found[one] for one in order}, named), pandas.DataFrame(rows), caption)

    drawings.put(name, f"Reliability diagrams: {named}", [run], draw)


def draw_paper_reliability(found: Collected, drawings: Drawings, artefacts: Artefacts) -> None:
    """Put the reliability diagrams of the first seed's networks at 10 images a class on the page."""
    ipc = found.usual_ipc("ddnn")
    for backbone in BACKBONES:
        runs, gaps = good_runs(found.select("ddnn", {**MTS, BACKBONE: backbone, "distill.ipc": ipc}))
        if runs:
            title = f"{found.dataset}, {backbone}, {per_class(ipc)}"
            draw_reliability(runs[0], f"reliability-{found.dataset}-{backbone}", title, drawings, artefacts)
        else:
            drawings.page.gaps(gaps or [f"no network of {found.dataset}, {backbone}, was run"])


def draw_set(run: Run, drawings: Drawings, artefacts: Artefacts, caption: str) -> None:
    """Put the picture of a trial's distilled set on the page."""
    from ddcal.pipeline.distilled_picture import DistilledPictures

    key = (run.trial.keys or {}).get("distill")
    if key is None:
        return
    pictures = DistilledPictures(drawings.folder / "sets")
    png: Path | None = pictures.picture(artefacts.store_of(run), key, run.trial.config.data.model_dump(mode="json"))
    if png is None:
        drawings.page.gaps([f"the set of {run.trial.trial_key} is not in the store: run that trial again"])
    else:
        drawings.page.picture(png, f"The distilled images of {run.trial.trial_key}, a row a class", caption, runs=[run])


def bins_from(values: Mapping[str, Any]) -> Any:
    """Return the reliability bins that an evaluation has kept as lists."""
    import numpy as np

    from ddcal.calibration import ReliabilityBins

    def numbers(name: str) -> Any:
        return np.array([np.nan if one is None else one for one in values[name]], dtype=float)

    arrays = {name: numbers(name) for name in values}
    arrays["counts"] = arrays["counts"].astype(np.int64)
    return ReliabilityBins(**arrays)
