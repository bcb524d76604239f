"""Broken study files through the command line: exit code 2, and a message that names the file, the key and the cure."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from ddcal.cli import app
from ddcal.config import StudyConfig, TrialConfig
from ddcal.config.resolved import resolve

HEAD = "name: broken\nobjectives: {val/nll: min}\n"
GOOD = HEAD + "space:\n  distill.ipc: {choice: [1, 10]}\n"
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)

BROKEN = [
    ("empty", "", ["the file is empty"]),
    ("comment-only", "# nothing\n", ["the file is empty"]),
    ("list", "[1, 2]", ["the file holds [1, 2]", "mapping"]),
    ("scalar", "hello", ["the file holds 'hello'"]),
    ("binary", b"\x00\xff\xfe\x01", ["not UTF-8 text"]),
    ("control-characters", b"name: \x00\x01", ["not valid YAML"]),
    ("too-large", b"#" * 1_000_001, ["larger than"]),
    ("syntax", "name: [1, 2\n", ["not valid YAML"]),
    ("tab", "name: a\n\tb: c\n", [":2:", "not valid YAML: the line begins with a tab; YAML is indented with spaces"]),
    ("tabs", "name: a\nbase:\n\tseed: 1\n\tdata: {}\n", [":3: base:", "begins with a tab (and line 4)"]),
    ("equals", "name = a\nobjectives: {val/nll: min}\n", [":2:", "line 1 has =", "write name: a"]),
    ("no-space", HEAD + "base: {distill: {ipc:1}}\n", ["base.distill.ipc:1", "a space behind it: ipc: 1"]),
    ("list-study", "- name: a\n- base: {}\n", ["without them, name: …, base: …"]),
    ("list-base", HEAD + "base:\n- seed: 1\n- train: {}\n", [":3: base: [", "dashes", "seed: …, train: …"]),
    ("list-space", HEAD + "space: [train.lr]\n", [":3: space: ['train.lr']", "train.lr: [1, 5]"]),
    ("list-objectives", "name: a\nobjectives: [val/nll]\n", [":2: objectives: [", "val/nll: min"]),
    ("list-constraints", HEAD + "constraints: [val/accuracy > 0.5]\n", ["constraints: [", 'val/accuracy: "> 0.5"']),
    ("value-in-space", HEAD + "space: {train.epochs: 3}\n", ["space.train.epochs: 3", "[3, …]", "base.train.epochs"]),
    ("short-choice", HEAD + "space:\n  distill.ipc: [1, 0]\n", [":4: space.distill.ipc.choice: 0", "at least 1"]),
    ("list-word", HEAD + "base: {evaluate: {also: conformal}}\n", ["must be a list: [conformal]"]),
    ("when-word", HEAD + "space: {train.lr: {uniform: [0, 1], when: {distill.ipc: 5}}}\n", ["must be a list: [5]"]),
    (
        "setting-at-top",
        HEAD + "seed: 3\ndistill: {ipc: 3}\n",
        [":3: seed: 3", "base.seed", ":4: distill", "base.distill"],
    ),
    ("two-documents", GOOD + "---\nname: b\n", [":5:", "second document"]),
    (
        "python-tag",
        GOOD + "description: !!python/object/apply:os.system [ls]\n",
        [":5:", "description", "python/object"],
    ),
    ("deep-lists", "a: " + "[" * 10_000, ["nested deeper than"]),
    ("deep-mappings", "{a: " * 10_000, ["nested deeper than"]),
    ("alias-bomb", BOMB, ["aliases counted"]),
    ("alias-to-itself", "a: &a [*a]\n", ["not complete before it"]),
    ("alias-unknown", "a: *nowhere\n", ["a: *nowhere refers"]),
    ("duplicate-key", GOOD + "name: again\n", [":5: name", "given twice"]),
    ("duplicate-dotted", HEAD + "base: {distill.ipc: 1, distill: {ipc: 2}}\n", ["base.distill.ipc", "given twice"]),
    ("key-number", HEAD + "base: {1: 2}\n", ["'1' is a key here", "keys must be text"]),
    ("key-list", HEAD + "base: {[1]: 2}\n", ["keys must be text"]),
    ("nan", HEAD + "base: {train: {lr: .nan}}\n", ["base.train.lr: '.nan' is not allowed", "finite"]),
    ("inf", HEAD + "base: {train: {lr: 1e999}}\n", ["base.train.lr: '1e999' is not allowed", "finite"]),
    (
        "beyond-float32",
        HEAD + "base: {train: {weight_decay: 1.0e+300}, distill: {mtt: {label_lr: 1.0e+300}}}\n",
        ["base.train.weight_decay: 1e+300 is not allowed", "base.distill.mtt.label_lr: 1e+300 is not allowed", "below"],
    ),
    ("huge-int", HEAD + "search: {trials: " + "9" * 5000 + "}\n", ["search.trials", "ordinary size"]),
    ("missing-name", "objectives: {val/nll: min}\n", ["name: missing"]),
    ("missing-objectives", "name: x\n", ["objectives: missing", "val/nll"]),
    ("empty-objectives", "name: x\nobjectives: {}\n", [":2: objectives", "must not be empty"]),
    ("bad-name", "name: a/b\nobjectives: {val/nll: min}\n", [":1: name: 'a/b'", "letter or digit"]),
    ("unknown-section", GOOD + "serach: {trials: 3}\n", ["serach", "did you mean 'search'?"]),
    ("unknown-search-key", GOOD + "search: {trails: 3}\n", ["search.trails", "did you mean 'trials'?"]),
    ("section-is-scalar", GOOD + "search: 3\n", ["search: 3 is not allowed", "mapping"]),
    ("text-for-int", GOOD + "search: {trials: many}\n", ["search.trials: 'many'", "whole number"]),
    ("bool-for-int", GOOD + "search: {trials: true}\n", ["search.trials: True", "whole number"]),
    ("yes-for-bool", HEAD + "base: {data: {zca: yes}}\n", ["base.data.zca: 'yes'", "true or false"]),
    ("concurrency-zero", GOOD + "search: {concurrency: 0}\n", ["search.concurrency: 0", "at least 1"]),
    ("gpu-negative", GOOD + "resources: {gpu: -1}\n", ["resources.gpu: -1", "at least 0"]),
    ("gpu-word", GOOD + "resources: {gpu: half}\n", ["resources.gpu: 'half'", "a number of at least 0", "or auto"]),
    ("gpu-yes", GOOD + "resources: {gpu: true}\n", ["resources.gpu: True", "a number of at least 0", "or auto"]),
    ("on-oom", GOOD + "resources: {on_oom: retry}\n", ["resources.on_oom: 'retry'", "record, grow"]),
    (
        "store-gs",
        GOOD + "storage: {store: 'gs://bucket/x'}\n",
        ["storage.store", "gs:// is not supported", "s3://BUCKET"],
    ),
    ("store-bucket", GOOD + "storage: {store: 's3://My_Bucket/x'}\n", ["storage.store", "'My_Bucket' is not a bucket"]),
    ("store-option", GOOD + "storage: {store: 's3://abc?endpoint=x'}\n", ["did you mean 'endpoint_override'?"]),
    ("store-scheme", GOOD + "storage: {store: 's3://abc?scheme=ftp'}\n", ["'ftp' must be http or https"]),
    (
        "store-endpoint",
        GOOD + "storage: {store: 's3://abc?endpoint_override=http://h'}\n",
        ["must be HOST or HOST:PORT"],
    ),
    ("store-secret", GOOD + "storage: {store: 's3://key:secret@abc/x'}\n", ["credentials do not belong in a study"]),
    ("store-twice", GOOD + "storage: {store: 's3://abc?region=a&region=b'}\n", ["region is given twice"]),
    ("store-dots", GOOD + "storage: {store: 's3://abc/x/../y'}\n", ["prefix 'x/../y'"]),
    ("output-s3", GOOD + "storage: {output: 's3://abc/x/../y'}\n", ["storage.output", "the prefix 'x/../y'"]),
    ("cache-s3", GOOD + "storage: {cache: 's3://abc/x'}\n", ["storage.cache", "this must be a folder"]),
    ("unknown-searcher", GOOD + "search: {searcher: tpee}\n", ["did you mean 'tpe'?"]),
    ("base-unknown-key", HEAD + "base: {ipc: 10}\n", [":3: base.ipc", "did you mean 'distill.ipc'?"]),
    ("base-unknown-dataset", HEAD + "base: {data: {name: cifar}}\n", ["base.data.name: 'cifar'", "'cifar10'", "npz"]),
    ("two-gpus-for-a-trial", HEAD + "resources: {gpu: 2}\n", ["resources.gpu", "a trial computes on one GPU"]),
    ("base-unknown-backbone", HEAD + "base: {distill.backbone: dsaa}\n", ["base.distill.backbone", "'dsa'", "full"]),
    ("base-ipc-zero", HEAD + "base:\n  distill:\n    ipc: 0\n", [":5: base.distill.ipc: 0", "at least 1"]),
    (
        "base-ratio-negative",
        HEAD + "base: {distill.mask.ratio: -0.1}\n",
        ["base.distill.mask.ratio: -0.1", "at least 0"],
    ),
    ("base-ratio-above-1", HEAD + "base: {calibrate: {mask.ratio: 1.1}}\n", ["base.calibrate.mask.ratio", "at most 1"]),
    ("base-text-for-section", HEAD + "base: {distill: dsa}\n", ["base.distill: 'dsa'", "mapping"]),
    ("base-list", HEAD + "base: [1]\n", ["base: [1]", "mapping"]),
    (
        "t-default",
        HEAD + "base: {calibrate: {method: mts, t_max: 0.9}}\n",
        ["calibrate.t_min (1, the default of 'mts') must be below calibrate.t_max (0.9)"],
    ),
    (
        "t-default-of-max",
        HEAD + "base: {calibrate: {method: ts_val, t_min: 30}}\n",
        ["t_min (30)", "t_max (20"],
    ),
    ("base-t-order", HEAD + "base: {calibrate: {t_min: 5, t_max: 2}}\n", ["base.calibrate.t_min", "(5)", "(2)"]),
    (
        "base-holdout-zero",
        HEAD + "base: {calibrate.method: ts_holdout}\n",
        ["base.calibrate.method", "train.holdout is 0"],
    ),
    ("base-no-val", HEAD + "base: {data.validation_fraction: 0}\n", ["base.data.validation_fraction: 0", "above 0"]),
    (
        "unknown-loss",
        HEAD + "base: {train.loss: focl}\n",
        ["base.train.loss: 'focl'", "cross_entropy, mixup, label_smoothing, focal", "did you mean 'focal'?"],
    ),
    ("loss-settings", HEAD + "base: {train.focal: 3}\n", ["base.train.focal: 3", "mapping"]),
    ("loss-key", HEAD + "base: {train.mixup.beta: 1}\n", ["base.train.mixup.beta", "(the keys here: alpha)"]),
    ("mixup-zero", HEAD + "base: {train.mixup.alpha: 0}\n", ["base.train.mixup.alpha: 0", "above 0"]),
    (
        "smoothing-whole",
        HEAD + "base: {train.label_smoothing.epsilon: 1}\n",
        ["base.train.label_smoothing.epsilon: 1", "below 1"],
    ),
    ("gamma-negative", HEAD + "base: {train.focal.gamma: -1}\n", ["base.train.focal.gamma: -1", "at least 0"]),
    (
        "two-gammas",
        HEAD + "base: {train.focal: {gamma: 2, sample_dependent: true}}\n",
        ["base.train.focal.gamma", "gamma is 2 but sample_dependent is true, whose gammas are 5 and 3", "leave gamma"],
    ),
    (
        "corner-gammas",
        HEAD + "base: {train.focal.sample_dependent: true}\nspace: {train.focal.gamma: {uniform: [1, 5]}}\n",
        ["space.train.focal.gamma", "sample_dependent"],
    ),
    ("space-list", HEAD + "space: [1]\n", ["space: [1]", "mapping"]),
    (
        "space-unknown",
        HEAD + "space: {distil.ipc: {choice: [1]}}\n",
        ["space.distil.ipc", "did you mean 'distill.ipc'?"],
    ),
    ("space-section", HEAD + "space: {evaluate: {choice: [1]}}\n", ["space.evaluate", "evaluate.bins"]),
    ("space-nested", HEAD + "space: {train: {lr: {uniform: [0.1, 1]}}}\n", ["space.train.lr", "not nested"]),
    ("space-reversed", HEAD + "space: {train.lr: {uniform: [1, 0.1]}}\n", ["space.train.lr", "[1, 0.1]", "below"]),
    ("space-log-zero", HEAD + "space: {train.lr: {loguniform: [0, 0.1]}}\n", ["space.train.lr", "above 0"]),
    ("space-one-bound", HEAD + "space: {train.lr: {uniform: [1]}}\n", ["space.train.lr.uniform", "[low, high]"]),
    (
        "space-two-kinds",
        HEAD + "space: {train.lr: {uniform: [1, 2], choice: [1]}}\n",
        ["space.train.lr", "exactly one"],
    ),
    ("space-unknown-kind", HEAD + "space: {train.lr: {normal: [1, 2]}}\n", ["space.train.lr.normal", "loguniform"]),
    ("choice-empty", HEAD + "space: {distill.ipc: {choice: []}}\n", ["space.distill.ipc.choice", "must not be empty"]),
    (
        "choice-list",
        HEAD + "space: {distill.ipc: {choice: [[1]]}}\n",
        ["space.distill.ipc.choice.0", "must be text, a number"],
    ),
    (
        "choice-equal",
        HEAD + "space: {train.holdout: {choice: [0, 0.0]}}\n",
        [":3: space.train.holdout.choice: 0.0", "this equals 0: keep one of them"],
    ),
    (
        "base-list-item",
        HEAD + "base: {distill.file.mean: [{}, {}], distill.file.std: [1, -1]}\n",
        [":3: base.distill.file.mean", "must be a number", "base.distill.file.std", "above 0"],
    ),
    (
        "paper-bad-base",
        HEAD + "base: {distill.backbone: [dsaa], distill.ipc: ten}\n"
        "space: {train.epochs: {int: [1, 2000]}}\nsearch: {enqueue: [paper]}\n",
        [":3: base.distill.backbone: ['dsaa']", ":3: base.distill.ipc: 'ten'"],
    ),
    (
        "choice-wrong",
        HEAD + "space: {distill.backbone: {choice: [dsb]}}\n",
        ["space.distill.backbone.choice: 'dsb'", "dsa"],
    ),
    (
        "choice-ipc-zero",
        HEAD + "space: {distill.ipc: {choice: [0, 1]}}\n",
        ["space.distill.ipc.choice: 0", "at least 1"],
    ),
    (
        "uniform-over-int",
        HEAD + "space: {train.epochs: {uniform: [1, 9]}}\n",
        ["space.train.epochs.uniform", "int: [low"],
    ),
    (
        "int-over-text",
        HEAD + "space: {train.augment: {int: [1, 9]}}\n",
        ["space.train.augment.int", "choice: [none, dsa, crop_flip]"],
    ),
    ("seed-range", HEAD + "space: {seed: {int: [0, 9]}}\n", ["space.seed.int", "choice: [0, 1, 2]"]),
    (
        "ratio-range",
        HEAD + "space: {distill.mask.ratio: {uniform: [0, 2]}}\n",
        ["space.distill.mask.ratio.uniform: 2.0"],
    ),
    (
        "when-unknown",
        GOOD + "  train.lr: {uniform: [0.1, 1], when: {distill.ipx: [1]}}\n",
        ["when.distill.ipx", "'distill.ipc'"],
    ),
    (
        "when-impossible",
        GOOD + "  train.lr: {uniform: [0.1, 1], when: {distill.ipc: [2]}}\n",
        ["when.distill.ipc: 2", "1, 10"],
    ),
    (
        "when-itself",
        GOOD + "  train.lr: {choice: [1, 2], when: {train.lr: [1]}}\n",
        ["when.train.lr", "depend on itself"],
    ),
    (
        "when-circle",
        GOOD + "  seed: {choice: [1], when: {train.lr: [1]}}\n  train.lr: {choice: [1], when: {seed: [1]}}\n",
        ["circle", "seed", "train.lr"],
    ),
    (
        "corner-t-order",
        HEAD + "base: {calibrate.t_max: 10}\nspace:\n  calibrate.t_min: {uniform: [1, 20]}\n",
        [":5: space.calibrate.t_min", "t_min (20)", "t_max (10)"],
    ),
    (
        "corner-both-t",
        HEAD + "space:\n  calibrate.t_min: {uniform: [1, 20]}\n  calibrate.t_max: {uniform: [10, 30]}\n",
        ["calibrate.t_min=20.0, calibrate.t_max=10.0"],
    ),
    (
        "space-folds-of-one-image",
        HEAD + "space: {calibrate.method: {choice: [mts, ts_cv]}, distill.ipc: {choice: [1, 10]}}\n",
        ["space.calibrate.method", "calibrate.method='ts_cv', distill.ipc=1", "at least 2", "give one of them a when"],
    ),
    (
        "base-folds-of-real-data",
        HEAD + "base: {calibrate.method: mts_distilled, distill.backbone: full}\n",
        ["base.calibrate.method", "use 'ts_val' there"],
    ),
    (
        "corner-holdout",
        HEAD + "space: {calibrate.method: {choice: [mts, ts_holdout]}}\n",
        ["space.calibrate.method", "calibrate.method='ts_holdout'", "train.holdout is 0"],
    ),
    (
        "corner-ipc",
        HEAD + "base: {train.holdout: 0.1}\nspace: {distill.ipc: {int: [1, 10]}}\n",
        ["space.distill.ipc: distill.ipc=1", "train.holdout 0.1"],
    ),
    (
        "space-no-val",
        HEAD + "space: {data.validation_fraction: {choice: [0, 0.3]}}\n",
        ["space.data.validation_fraction"],
    ),
    ("objective-unknown", "name: x\nobjectives: {val/eec: min}\n", ["objectives.val/eec", "'val/ece'"]),
    ("objective-bare", "name: x\nobjectives: {ece: min}\n", ["objectives.ece", "did you mean 'val/ece'?"]),
    ("objective-test", "name: x\nobjectives: {test/ece: min}\n", ["objectives.test/ece", "refused", "'val/ece'"]),
    (
        "objective-direction",
        "name: x\nobjectives: {val/accuracy: min}\n",
        ["objectives.val/accuracy: 'min'", "use max"],
    ),
    ("objective-word", "name: x\nobjectives: {val/nll: less}\n", ["objectives.val/nll: 'less'", "min, max"]),
    (
        "constraint-text",
        GOOD + "constraints: {val/accuracy: '> 0.3'}\n",
        ["constraints.val/accuracy", "'> 0.3'", ">= 0.3"],
    ),
    (
        "constraint-unquoted",
        GOOD + "constraints:\n  val/accuracy: >= 0.5\n",
        [":6: constraints.val/accuracy: not valid YAML", 'put the comparison in quotes, ">= 0.5"'],
    ),
    (
        "constraint-unquoted-in-braces",
        GOOD + "constraints: {val/nll: <= 1, val/accuracy: >=0.5}\n",
        [":5: constraints.val/accuracy: not valid YAML", 'put the comparison in quotes, ">=0.5"'],
    ),
    ("text-unquoted", GOOD + "description: @home\n", [":5: description: not valid YAML", "goes in quotes"]),
    ("tracking-python", GOOD + "tracking: {uri: None}\n", [":5: tracking.uri: 'None'", "write none for no tracking"]),
    ("tracking-false", GOOD + "tracking: {uri: False}\n", [":5: tracking.uri: False", "write none for no tracking"]),
    ("store-python", GOOD + "storage: {store: None}\n", [":5: storage.store: 'None'", "write null, or leave it out"]),
    ("root-python", HEAD + "base: {data.root: None}\n", [":3: base.data.root: 'None'", "write null"]),
    (
        "searched-root-python",
        HEAD + "space: {data.root: {choice: [None, x]}}\n",
        [":3: space.data.root.choice: 'None'", "write null"],
    ),
    (
        "constraint-infinite",
        GOOD + "constraints: {val/accuracy: '>= 1e999'}\n",
        ["constraints.val/accuracy", "comparison"],
    ),
    (
        "constraint-percent",
        GOOD + "constraints: {val/accuracy: '>= 50'}\n",
        [":5: constraints.val/accuracy: '>= 50'", "accuracy is a share from 0 to 1: write >= 0.5"],
    ),
    (
        "constraint-percent-of-accuracy-missed",
        GOOD + "constraints: {val/ece: '>= 12.5'}\n",
        ["ece is a share from 0 to 1: write >= 0.125"],
    ),
    (
        "constraint-negative",
        GOOD + "constraints: {val/accuracy: '<= -1'}\n",
        ["constraints.val/accuracy: '<= -1'", "no trial can meet it: accuracy lies between 0 and 1"],
    ),
    (
        "constraint-above-all",
        GOOD + "constraints: {val/brier: '>= 2.1', val/accuracy: '>= 150'}\n",
        ["brier lies between 0 and 2", "accuracy lies between 0 and 1"],
    ),
    (
        "constraint-nll",
        GOOD + "constraints: {val/nll: '<= -0.1'}\n",
        ["no trial can meet it: nll is at least 0"],
    ),
    ("constraint-number", GOOD + "constraints: {val/accuracy: 0.5}\n", ["must be text", 'for example ">= 0.5"']),
    ("constraint-number-of-ece", GOOD + "constraints: {val/ece: 0.1}\n", ["must be text", 'for example "<= 0.1"']),
    ("constraint-huge", GOOD + f"constraints: {{val/nll: 1{'0' * 400}}}\n", ["val/nll: '1000", "of ordinary size"]),
    ("constraint-word", GOOD + "constraints: {val/acc: '>= 0.5'}\n", ["did you mean 'val/accuracy'?"]),
    ("name-number", "name: 007\nobjectives: {val/nll: min}\n", ["name: 7", "must be text: put it in quotes"]),
    ("constraint-test", GOOD + "constraints: {test/accuracy: '>= 0.3'}\n", ["constraints.test/accuracy", "refused"]),
    (
        "asha-no-metric",
        "name: x\nobjectives: {val/nll: min, val/ece: min}\nscheduler: {name: asha}\n",
        ["scheduler.metric"],
    ),
    (
        "scheduler-test",
        GOOD + "scheduler: {name: asha, metric: test/nll}\n",
        ["scheduler.metric: 'test/nll'", "refused"],
    ),
    (
        "enqueue-unknown",
        GOOD + "search: {enqueue: [{distill.ipx: 1}]}\n",
        ["search.enqueue.0.distill.ipx", "'distill.ipc'"],
    ),
    (
        "enqueue-range",
        GOOD + "search: {enqueue: [{}, {distill.ipc: 5}]}\n",
        ["search.enqueue.1.distill.ipc: 5", "1, 10"],
    ),
    (
        "scheduler-unknown",
        GOOD + "scheduler: {name: ahsa}\n",
        ["scheduler.name: 'ahsa'", "did you mean 'asha'?"],
    ),
    ("scheduler-list", GOOD + "scheduler: {name: foo}\n", ["must be one of none, asha, median, moasha\n"]),
    ("hyperband", GOOD + "scheduler: {name: hyperband}\n", ["scheduler.name: 'hyperband'", "pauses", "use asha"]),
    (
        "moasha-one-objective",
        GOOD + "scheduler: {name: moasha}\n",
        ["scheduler.name: 'moasha'", "there is one, val/nll", "use asha"],
    ),
    (
        "moasha-metric",
        "name: x\nobjectives: {val/nll: min, val/ece: min}\nscheduler: {name: moasha, metric: val/nll}\n",
        ["scheduler.metric: 'val/nll'", "moasha does not use it: it reads grace, reduction"],
    ),
    (
        "median-no-metric",
        "name: x\nobjectives: {val/nll: min, val/ece: min}\nscheduler: {name: median}\n",
        ["scheduler.metric: missing", "one of val/nll, val/ece, or use moasha"],
    ),
    (
        "median-reduction",
        GOOD + "scheduler: {name: median, reduction: 3}\n",
        ["scheduler.reduction: 3.0", "it reads metric, grace"],
    ),
    ("no-scheduler-grace", GOOD + "scheduler: {grace: 0.5}\n", ["scheduler.grace: 0.5", "it stops no trial"]),
    (
        "grid-continuous",
        HEAD + "search: {searcher: grid}\nspace: {train.lr: {loguniform: [0.1, 1]}}\n",
        [
            ":4: space.train.lr.loguniform: [0.1, 1.0]",
            "grid takes choice, int only: list the values",
            "use tpe, random",
        ],
    ),
    (
        "cma-es-choice",
        HEAD + "search: {searcher: cma-es}\nspace: {distill.ipc: {choice: [1, 10]}}\n",
        [":4: space.distill.ipc.choice: [1, 10]", "cma-es takes int, loguniform, uniform only", "use tpe,", "gp, grid"],
    ),
    (
        "cma-es-two-objectives",
        "name: x\nobjectives: {val/nll: min, val/ece: min}\nsearch: {searcher: cma-es}\n",
        [":3: search.searcher: 'cma-es'", "one objective and there are val/nll, val/ece; use tpe, random, nsga2, gp"],
    ),
    (
        "cma-es-constraint",
        HEAD + "constraints: {val/accuracy: '>= 0.3'}\nsearch: {searcher: cma-es}\n",
        ["search.searcher: 'cma-es'", "knows no constraints and there is one on val/accuracy; use tpe"],
    ),
    (
        "gp-conditions",
        GOOD + "  train.lr: {uniform: [0.1, 1], when: {distill.ipc: [1]}}\nsearch: {searcher: gp}\n",
        [":5: space.train.lr.when", "gp cannot search under conditions; use tpe, random, nsga2\n"],
    ),
    (
        "paper-outside",
        GOOD + "  distill.iterations: {int: [10, 100]}\nsearch: {enqueue: [{}, paper]}\n",
        [":6: search.enqueue.1: 'paper'", "published distill.iterations of dsa is 1000", "from 10 to 100"],
    ),
    ("enqueue-word", GOOD + "search: {enqueue: [papr]}\n", ["search.enqueue.0: 'papr'", "the word paper"]),
    ("plateau-zero", GOOD + "stop: {plateau: 0}\n", ["stop.plateau: 0", "at least 1"]),
    ("enqueue-scalar", GOOD + "search: {enqueue: [3]}\n", ["search.enqueue.0: 3", "mapping"]),
    (
        "distill-late-name",
        HEAD + "trial: distill\nspace: {train.lr: {choice: [1]}}\n",
        ["space.train.lr", "trial: ddnn"],
    ),
    ("distill-full", HEAD + "trial: distill\nbase: {distill.backbone: full}\n", ["base.distill.backbone: 'full'"]),
    ("distill-no-probe", HEAD + "trial: distill\nbase: {distill.probe.points: 0}\n", ["base.distill.probe.points: 0"]),
]


@pytest.mark.parametrize(("content", "fragments"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN])
def test_broken_file_is_explained(tmp_path, content, fragments):
    file = tmp_path / "broken.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    result = CliRunner().invoke(app, ["validate", str(file)])
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    for fragment in ["broken.yaml", *fragments]:
        assert fragment in result.output
    assert all(line.startswith(str(file)) for line in result.output.splitlines()), "one line a problem"


@pytest.mark.parametrize(
    ("override", "fragments"),
    [
        ("foo", ["write --set key.path=value"]),
        ("=3", ["write --set key.path=value"]),
        ("search..trials=3", ["write --set key.path=value"]),
        ("search.trials=[1", ["search.trials", "not valid YAML"]),
        ("search.trials=.nan", ["search.trials", "finite"]),
        ("search.trials=!!python/name:os.system", ["search.trials", "tag"]),
        ("search.trials=0", ["search.trials: 0", "at least 1"]),
        ("search.trails=4", ["search.trails", "did you mean 'trials'?"]),
        ("name.x=4", ["name is 'broken'", "no keys inside"]),
        ("base.distill.ipx=4", ["base.distill.ipx", "did you mean 'ipc'?"]),
        ("search.enqueue.7.distill.ipc=1", ["no position"]),
        ("space.distill.ipc.choice=[0]", ["space.distill.ipc.choice: 0", "at least 1"]),
        ("seed=1", ["(--set seed=1): seed: unknown key", "write base.seed"]),
        ("distill.ipc=1", ["(--set distill.ipc=1)", "write base.distill.ipc"]),
        ("trials=1", ["(--set trials=1)", "did you mean 'search.trials'?"]),
    ],
)
def test_broken_override_is_named(tmp_path, override, fragments):
    file = tmp_path / "good.yaml"
    file.write_text(GOOD + "search: {enqueue: [{distill.ipc: 10}]}\n")
    result = CliRunner().invoke(app, ["validate", str(file), "--set", override])
    assert result.exit_code == 2
    for fragment in ["good.yaml", f"--set {override}", *fragments]:
        assert fragment in result.output


def test_good_file_gets_one_line(tmp_path):
    file = tmp_path / "good.yaml"
    file.write_text(GOOD)
    result = CliRunner().invoke(app, ["validate", str(file), "--set", "search.trials=4"])
    assert (result.exit_code, result.output) == (0, f"{file}: ok (4 trials over 1 names)\n")


@pytest.mark.parametrize(
    ("trials", "line"),
    [
        (3, "the first 3 of 6 grid points over 2 names: search.trials 3 ends it there"),
        (6, "6 grid points over 2 names; search.trials 6 is enough for all"),
        (99, "6 grid points over 2 names; search.trials 99 is enough for all"),
    ],
)
def test_a_grid_is_counted(tmp_path, trials, line):
    file = tmp_path / "good.yaml"
    file.write_text(GOOD + f"  seed: {{choice: [0, 1, 2]}}\nsearch: {{searcher: grid, trials: {trials}}}\n")
    result = CliRunner().invoke(app, ["validate", str(file)])
    assert (result.exit_code, result.output) == (0, f"{file}: ok ({line})\n")


def test_all_that_a_searcher_and_a_scheduler_cannot_is_listed_with_the_rest(tmp_path):
    file = tmp_path / "one.yaml"
    file.write_text(
        "name: x\nobjectives: {val/nll: min, val/ece: min}\nconstraints: {val/accuracy: '>= 0.3'}\n"
        "space:\n  distill.backbone: {choice: [dc, real]}\n"
        "  distill.mask.ratio: {uniform: [0, 0.5], when: {distill.backbone: [dc]}}\n  distil.ipc: {choice: [1]}\n"
        "search: {searcher: cma-es}\nscheduler: {name: asha}\nstop: {plateau: -1}\n"
    )
    result = CliRunner().invoke(app, ["validate", str(file), "--json"])
    problems = json.loads(result.output)[0]["problems"]
    assert [problem["path"] for problem in problems] == [
        "space.distill.backbone.choice",
        "space.distill.mask.ratio.when",
        "space.distil.ipc",
        "search.searcher",
        "search.searcher",
        "scheduler.metric",
        "stop.plateau",
    ]


def test_missing_file_and_directory(tmp_path):
    result = CliRunner().invoke(app, ["validate", str(tmp_path / "absent.yaml"), str(tmp_path)])
    assert result.exit_code == 2
    assert "absent.yaml: no such file" in result.output
    assert f"{tmp_path}: is a folder" in result.output


def test_all_problems_of_all_files_are_listed(tmp_path):
    first, second, good = (tmp_path / name for name in ("first.yaml", "second.yaml", "good.yaml"))
    first.write_text(HEAD + "search: {trials: 0}\nspace: {distil.ipc: {choice: [1]}}\nbase: {train: {lr: -1}}\n")
    second.write_text("name: x\nname: y\nobjectives: {test/nll: min}\nspace: {train.lr: {uniform: [2, 1]}}\n")
    good.write_text(GOOD)
    result = CliRunner().invoke(app, ["validate", str(first), str(second), str(good), "--json"])
    entries = json.loads(result.output)
    assert result.exit_code == 2
    assert [[problem["path"] for problem in entry["problems"]] for entry in entries] == [
        ["search.trials", "space.distil.ipc", "base.train.lr"],
        ["name", "objectives.test/nll", "space.train.lr"],
        [],
    ]
    assert [entry["ok"] for entry in entries] == [False, False, True]
    assert entries[0]["problems"][0]["line"] == 3


def test_what_follows_from_a_reported_problem_is_not_reported(tmp_path):
    file = tmp_path / "one.yaml"
    file.write_text(
        HEAD
        + "base: {calibrate.method: ts_holdout}\nsearch: {enqueue: [{train.holdout: 0.1}]}\nspace:\n"
        + "  train.holdout: {uniform: [0.3, 0.1]}\n  train.lr: {choice: [1], when: {train.holdout: [0.2]}}\n"
    )
    result = CliRunner().invoke(app, ["validate", str(file)])
    assert len(result.output.splitlines()) == 1
    assert ":6: space.train.holdout" in result.output


def run_python(*arguments, cwd):
    return subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False)


def test_the_command_itself(tmp_path):
    (tmp_path / "good.yaml").write_text(GOOD)
    (tmp_path / "deep.yaml").write_text("[" * 10_000)
    main = "import sys; from ddcal.cli import main; main()"
    result = run_python("-c", main, "validate", "good.yaml", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (0, "good.yaml: ok (16 trials over 1 names)\n")
    result = run_python("-c", main, "validate", "deep.yaml", "absent.yaml", cwd=tmp_path)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 2
    assert run_python("-c", main, "--help", cwd=tmp_path).returncode == 0
    assert run_python("-c", main, "--version", cwd=tmp_path).stdout.startswith("ddcal ")


@pytest.mark.parametrize("module", ["ddcal.config", "ddcal.cli"])
def test_import_is_light(tmp_path, module):
    code = f"import sys, {module}; print(sorted({{'torch', 'ray', 'mlflow', 'pandas', 'optuna'}} & set(sys.modules)))"
    assert run_python("-c", code, cwd=tmp_path).stdout == "[]\n"


def test_validate_of_a_large_space_is_quick(tmp_path):
    names = ["train.lr", "train.momentum", "train.weight_decay", "distill.mask.ratio", "calibrate.mask.ratio"]
    names += ["distill.matching.image_lr", "distill.matching.network_lr", "distill.matching.image_momentum"]
    space = "".join(f"  {name}: {{uniform: [0.1, 0.9]}}\n" for name in names)
    choices = [
        "calibrate.method: [mts, ts_holdout, none]",
        "distill.backbone: [dc, dsa, real]",
        "network.norm: [instance, none]",
    ]
    space += "".join("  {}: {{choice: {}}}\n".format(*choice.split(": ")) for choice in choices)
    file = tmp_path / "large.yaml"
    file.write_text(
        HEAD + "space:\n" + space + "  train.holdout: {uniform: [0.0, 0.5], when: {calibrate.method: [ts_holdout]}}\n"
    )
    result = CliRunner().invoke(app, ["validate", str(file)])  # all combinations would take for ever
    assert len(result.output.splitlines()) == 1, "the one rule is reported once"
    assert "calibrate.method='ts_holdout', train.holdout=0.0" in result.output


def test_interrupt_and_bad_input_end_without_traceback(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("ddcal.cli.launch.study_problems", interrupted)
    result = CliRunner().invoke(app, ["validate", "x.yaml"])
    assert (result.exit_code, result.output) == (130, "interrupted\n")

    def refused(*_):
        from ddcal.config import ConfigError, Problem

        raise ConfigError([Problem("a.b", "3", "must be 4", file="x.yaml", line=2)])

    monkeypatch.setattr("ddcal.cli.launch.study_problems", refused)
    result = CliRunner().invoke(app, ["validate", "x.yaml"])
    assert (result.exit_code, result.output) == (2, "x.yaml:2: a.b: 3 is not allowed: must be 4\n")


@pytest.mark.parametrize("text", [">= 1", ">= 0", "<= 0", ">= -1", "<= 50"])
def test_a_bound_that_can_be_met_is_taken(tmp_path, text):
    file = tmp_path / "study.yaml"
    file.write_text(GOOD + f"constraints: {{val/accuracy: '{text}', val/nll: '>= 50'}}\n")
    assert CliRunner().invoke(app, ["validate", str(file)]).exit_code == 0


def test_a_temperature_bound_is_checked_against_the_default_of_full_data(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text(HEAD + "base: {distill.backbone: full, calibrate: {method: mts, t_max: 0.9}}\n")
    result = CliRunner().invoke(app, ["validate", str(file)])
    assert result.exit_code == 0, result.output
    config = TrialConfig.model_validate({"distill": {"backbone": "full"}, "calibrate": {"t_max": 0.9}})
    assert resolve(config).calibrate.bounds == (0.05, 0.9)
    with pytest.raises(ValueError, match="t_min"):
        TrialConfig.model_validate({"distill": {"backbone": "full"}, "calibrate": {"t_max": 0.04}})


def test_a_recorded_study_with_a_bound_that_cannot_be_met_is_read():
    study = StudyConfig.model_validate(
        {"name": "x", "objectives": {"val/nll": "min"}, "constraints": {"val/ece": ">= 5"}}
    )
    assert study.parsed_constraints[0].bound == 5.0
