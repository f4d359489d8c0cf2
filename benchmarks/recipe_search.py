"""Which recipe is the best on real video-level shards, and what averages, teachers and ensembles add to it.

    python benchmarks/recipe_search.py explore PLAN --data $DATA/v2_video [--fold 0] [--output FOLDER]
    python benchmarks/recipe_search.py final PLAN --data $DATA/v2_video [--seeds 0,1,2] [--output FOLDER]

`explore` trains on 48 of the 64 training shards and scores on the 16 whose index mod 4 is the fold. `final` trains on
all 64 and scores on the validation shards. A plan is a YAML file of `benchmarks/plans`:

    runs:      NAME: {config: FILE of configs/train, changes: [section.key=value, ...], averages: [half-lives in steps]}
    teachers:  NAME: {members: [NAMES of runs], folds: 4, seeds: [0, 1]}
               soft labels of the training videos, each by models that have not seen it
    students:  NAME: as a run, and {teacher: NAME}
    ensembles: NAME: [names of runs or students, `NAME@HALF_LIFE` for an average of theirs]

Ensembles are the mean of their members' probabilities, all seeds of all members. Needs no Ray. `--device cuda
--num-processes 8` runs several at a time. Each result is a line of `results.jsonl` in the output folder; a run that is
there already is not run again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, its folder is what Python looks in

from benchmarks.recipe_runs import METRICS, Shards, Task, kept_path, metrics_of, run_all, summary
from yt8m_ray.config.document import parse_yaml
from yt8m_ray.data.format.features import FeatureSpec
from yt8m_ray.schema import NUM_CLASSES_2018, VIDEO_FEATURES

SPEC = FeatureSpec(dict(VIDEO_FEATURES), num_classes=NUM_CLASSES_2018, max_frames=1)
NUM_FOLDS = 4


class Study:
    """Runs of a plan on one division into training and held-out shards.

    Args:
        plan: See the module.
        shards: All videos.
        train: Numbers of the shards to learn from.
        evaluate: Numbers of those to score.
        seeds: Of every run.
        options: Device, processes and the output folder.
    """

    def __init__(
        self,
        plan: dict[str, Any],
        shards: Shards,
        *,
        train: Sequence[int],
        evaluate: Sequence[int],
        seeds: Sequence[int],
        options: argparse.Namespace,
    ) -> None:
        self._plan = plan
        self._shards = shards
        self._train, self._evaluate = tuple(train), tuple(evaluate)
        self._seeds = seeds
        self._options = options
        self._folder = Path(options.output)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._results: dict[tuple[str, int], dict[str, Any]] = {}
        self._log = self._folder / "results.jsonl"
        if self._log.is_file():
            for line in self._log.read_text(encoding="utf-8").splitlines():
                self._keep(json.loads(line))

    def run(self) -> None:
        """Runs everything in the plan, and prints its tables."""
        runs, students = self._plan.get("runs", {}), self._plan.get("students", {})
        self._run_all(self._tasks(runs))
        print(self._table(list(runs)), self._ensembles(), sep="\n\n", flush=True)
        if not students:
            return
        for name, teacher in self._plan.get("teachers", {}).items():
            self._write_soft_labels(name, teacher)
        self._run_all(self._tasks(students))
        print(self._table([*runs, *students]), self._ensembles(), sep="\n\n", flush=True)

    def _tasks(self, runs: dict[str, Any]) -> list[Task]:
        return [self._task(name, entry, seed) for name, entry in runs.items() for seed in self._seeds]

    def _task(self, name: str, entry: dict[str, Any], seed: int, **changes: Any) -> Task:
        base = self._plan.get("runs", {}).get(entry.get("like"), {})
        teacher = entry.get("teacher")
        return Task(
            **{
                "name": name,
                "config": entry.get("config", base.get("config", "moe_video")),
                "changes": (*base.get("changes", ()), *entry.get("changes", ())),
                "seed": seed,
                "train": self._train,
                "evaluate": self._evaluate,
                "averages": tuple(entry.get("averages", base.get("averages", ()))),
                "keep": str(self._folder),
                "soft_labels": None if teacher is None else str(self._soft_labels_path(teacher)),
                **changes,
            }
        )

    def _run_all(self, tasks: Iterable[Task]) -> None:
        options = self._options
        left = [task for task in tasks if (task.name, task.seed) not in self._results]
        # The longest first would be better, if one knew.
        for result in run_all(left, self._shards, device=options.device, num_processes=options.num_processes):
            self._keep(result)
            with self._log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(result) + "\n")
            print(line_of(result), file=sys.stderr, flush=True)

    def _keep(self, result: dict[str, Any]) -> None:
        self._results[result["name"], result["seed"]] = result

    def _soft_labels_path(self, name: str) -> Path:
        return self._folder / f"soft-{name}.npy"

    def _write_soft_labels(self, name: str, teacher: dict[str, Any]) -> None:
        """Scores every training video by the members trained on the other parts; with folds 1 by those of all."""
        num_folds, seeds = teacher.get("folds", NUM_FOLDS), teacher.get("seeds", self._seeds)
        path = self._soft_labels_path(name)
        if path.is_file():
            return
        tasks = []
        for fold in range(num_folds):
            scored = self._train[fold::num_folds]
            learned = tuple(shard for shard in self._train if shard not in scored) or self._train
            for member in teacher["members"]:
                member_name, _, average = member.partition("@")
                entry = self._plan["runs"][member_name]
                if average:
                    entry = {**entry, "averages": [float(average)]}
                tasks += [
                    self._task(f"{name}.{fold}.{member_name}", entry, seed, train=learned, evaluate=scored)
                    for seed in seeds
                ]
        self._run_all(tasks)
        scores = np.zeros((len(self._shards.videos), SPEC.num_classes), np.float16)
        for fold in range(num_folds):
            rows = self._shards.rows(self._train[fold::num_folds])
            members = [
                kept_path(str(self._folder), f"{name}.{fold}.{member}", seed, average)
                for member, _, average in (text.partition("@") for text in teacher["members"])
                for seed in seeds
            ]
            scores[rows] = mean_of(members)
        np.save(path, scores)

    def _table(self, names: Sequence[str]) -> str:
        lines = ["| recipe | GAP by epoch (mean) | GAP | Hit@1 | PERR | mAP | s |", "|---|---|---|---|---|---|---|"]
        rows = []
        for name in names:
            found = [self._results[name, seed] for seed in self._seeds if "curves" in self._results[name, seed]]
            if not found:
                continue
            seconds = float(np.mean([result["seconds"] for result in found]))
            for average in found[0]["curves"]:
                curves = [result["curves"][average] for result in found]
                by_epoch = np.mean([[scores["gap"] for scores in curve] for curve in curves], axis=0)
                last = summary([curve[-1] for curve in curves])
                cells = " | ".join(text_of(*last[metric]) for metric in METRICS)
                epochs = " ".join(f"{gap:.4f}" for gap in by_epoch[-6:])
                title = f"{name}{f'@{average}' * bool(average)}"
                rows.append((last["gap"][0], f"| {title} | {epochs} | {cells} | {seconds:.0f} |"))
        return "\n".join(lines + [row for _, row in sorted(rows, reverse=True)])

    def _ensembles(self) -> str:
        lines = ["| ensemble | models | GAP | Hit@1 | PERR | mAP |", "|---|---|---|---|---|---|"]
        videos = self._shards.videos.select(self._shards.rows(self._evaluate))
        for name, members in self._plan.get("ensembles", {}).items():
            parts = [member.partition("@") for member in members]
            paths = [kept_path(str(self._folder), part[0], seed, part[2]) for part in parts for seed in self._seeds]
            if not all(path.is_file() for path in paths):
                continue  # its students come later
            scores = metrics_of(mean_of(paths), videos, SPEC.num_classes)
            cells = " | ".join(f"{scores[metric]:.4f}" for metric in METRICS)
            lines.append(f"| {name} | {len(paths)} | {cells} |")
        return "\n".join(lines)


def mean_of(paths: Sequence[Path]) -> np.ndarray:
    """Returns the mean of kept scores, float32 [N, C]."""
    total = np.load(paths[0]).astype(np.float32)
    for path in paths[1:]:
        total += np.load(path)
    return total / len(paths)


def text_of(mean: float, deviation: float) -> str:
    return f"{mean:.4f}" if np.isnan(deviation) else f"{mean:.4f} ({deviation:.4f})"


def line_of(result: dict[str, Any]) -> str:
    if "curves" not in result:
        return f"{result['name']}-{result['seed']}: failed"
    curves = [
        f"{f'@{average} ' * bool(average)}" + " ".join(f"{scores['gap']:.4f}" for scores in curve)
        for average, curve in result["curves"].items()
    ]
    return f"{result['name']}-{result['seed']} {result['seconds']:.0f} s: {'; '.join(curves)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["explore", "final"])
    parser.add_argument("plan")
    parser.add_argument("--data", required=True, help="the folder with train/ and validate/")
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--num-processes", type=int, default=1)
    parser.add_argument("--output", help="a folder; without it nothing is kept")
    options = parser.parse_args()
    plan = parse_yaml(Path(options.plan).read_text(encoding="utf-8"), where=options.plan)
    folders = ["train"] if options.kind == "explore" else ["train", "validate"]
    paths = [[str(path) for path in sorted((Path(options.data) / name).glob("*.tfrecord"))] for name in folders]
    started = time.perf_counter()
    shards = Shards.read([path for group in paths for path in group], SPEC)
    num_train = len(paths[0])
    if options.kind == "explore":
        evaluate = [number for number in range(num_train) if number % NUM_FOLDS == options.fold]
    else:
        evaluate = list(range(num_train, num_train + len(paths[1])))
    train = [number for number in range(num_train) if number not in evaluate]
    print(f"{len(shards.videos)} videos in {time.perf_counter() - started:.1f} s", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="yt8m_recipes_") as scratch:
        options.output = options.output or scratch
        seeds = [int(seed) for seed in options.seeds.split(",")]
        Study(plan, shards, train=train, evaluate=evaluate, seeds=seeds, options=options).run()


if __name__ == "__main__":
    main()
