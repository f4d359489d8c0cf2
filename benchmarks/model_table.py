"""Writes docs/models.md: what every model of the registry costs at its published size, and where it comes from.

    python benchmarks/model_table.py [--only netvlad,lstm] [--batch-size 8] [--rounds 3]

Sizes and multiply-accumulates follow from the configs under configs/train/; forward passes are timed on this machine,
on all its cores, for clips of 300 frames (one for video-level records) in float32.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, its folder is what Python looks in

from yt8m_ray.config.document import load_document
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.inference.quantization.quantize import channel_axes, quantize_state
from yt8m_ray.models import MODELS, Model, build_model
from yt8m_ray.models.cost import count_macs, num_parameters
from yt8m_ray.schema import MAX_FRAMES, MEAN_PREFIX

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs" / "models.md"
CONFIGS = ROOT / "configs" / "train"
DEMO = ("demo_", "sample")
RECIPES = ("chain_video", "hierarchical_lstm_pair", "netvlad_distilled", "netvlad_ema")
"""Configs whose model has a row already, by another config."""

# Of each config that is no demo: where its model was published, and the GAP that its authors report for it, with what
# it was measured on. No public source gives the others'.
STARTER = "starter code (google/youtube-8m)"
WINNER = "1st place of 2018 (Skalic, Austin)"
YOU8M = "You8M, 5th place of 2017"
EFFICIENT = "Efficient Video Classification Using Fewer Frames (2019)"
NEXTVLAD = "NeXtVLAD (Lin et al. 2018)"
SEVENTH = "7th place of 2019 (ceshine)"
YOU8M_LEADERBOARD = "2017 private leaderboard, one checkpoint"
LOCAL_2018 = "2018 local validation"
SOURCES: dict[str, tuple[str, str]] = {
    "bidirectional_gru": (WINNER, ""),
    "bidirectional_lstm": (WINNER, ""),
    "branched_gru": (WINNER, ""),
    "cnn": (YOU8M, ""),
    "dbof": (f"{STARTER}; {WINNER}", ""),
    "deep_combine_chain": ("2nd place of 2017 (Wang et al.)", ".8088 (2017 validation)"),
    "frame_attention": (WINNER, ""),
    "frame_logistic": (STARTER, ""),
    "gated_dbof": (WINNER, ""),
    "gated_dbof_2019": (SEVENTH, ""),
    "gru_dbof": (YOU8M, ""),
    "hierarchical_lstm_student": (EFFICIENT, ""),
    "hierarchical_lstm_teacher": (EFFICIENT, ""),
    "light_vlad": (WINNER, ""),
    "logistic_video": (STARTER, ""),
    "lstm": (STARTER, ""),
    "lstm_pair": (YOU8M, ""),
    "mix_nextvlad": (NEXTVLAD, ".8872 / .8879 (2018 private / public leaderboard)"),
    "moe_starter": (STARTER, ""),
    "moe_video": (f"{STARTER}; hyper-parameters of our own", ""),
    "monn_2lw": (YOU8M, ""),
    "monn_3l": (YOU8M, ""),
    "monn_3lw": (YOU8M, f".823 ({YOU8M_LEADERBOARD}, the family)"),
    "monn_4ln": (YOU8M, ""),
    "netfv": (WINNER, ""),
    "netvlad": (WINNER, f".8507 ({LOCAL_2018}, by NeXtVLAD's authors)"),
    "netvlad_student": (EFFICIENT + ", announced", ""),
    "nextvlad": (NEXTVLAD, f".8723 ({LOCAL_2018})"),
    "nextvlad_2019": (SEVENTH, ""),
    "nextvlad_student": (EFFICIENT + ", announced", ""),
    "soft_dbof": (WINNER, ""),
    "you8m_gru": (YOU8M, f".812 ({YOU8M_LEADERBOARD})"),
    "you8m_lstm": (YOU8M, f".820 ({YOU8M_LEADERBOARD})"),
}

HEADER = """# Models

Every model of the registry, at the size of the run that won, with the 1,024 + 128 features and 3,862 classes of 2018
unless its config says otherwise. The config has the hyper-parameters; `yt8m train` takes it as it is.

"""
COLUMNS = """| model | config | published by | parameters | MACs a video | fp32 MB | int8 MB | videos/s | GAP reported |
|---|---|---|--:|--:|--:|--:|--:|---|
"""
FOOTER = """
Parameters count what is trained; MB (10^6 bytes) also the moving statistics, int8 as `yt8m export` stores it. MACs are
multiply-accumulates of matrix products and convolutions in one forward pass over a clip of {frames} frames, of which
the config's sampling may take fewer. Videos a second: eval mode, float32, batches of {batch}, {cores} cores of {cpu},
the best of {rounds}; a shared machine. Written by `python benchmarks/model_table.py`.
"""


@dataclass(frozen=True)
class Cost:
    """What one model costs.

    Attributes:
        num_parameters: Trained values.
        num_macs: Multiply-accumulates of a forward pass over one clip.
        float_bytes, int8_bytes: Of all its tensors, as trained and as exported.
        videos_per_s: Forward passes in eval mode.
    """

    num_parameters: int
    num_macs: int
    float_bytes: int
    int8_bytes: int
    videos_per_s: float


def published_configs() -> dict[str, TrainConfig]:
    """Returns the configs of the table by file name."""
    paths = [path for path in CONFIGS.glob("*.yaml") if not path.name.startswith(DEMO) and path.stem not in RECIPES]
    return {path.stem: load_document(path, TrainConfig) for path in sorted(paths)}


def build(config: TrainConfig) -> Model:
    """Returns the model of a config in eval mode."""
    sizes, num_classes = config.data.feature_sizes, config.data.num_classes
    return build_model(config.model, feature_sizes=sizes, num_classes=num_classes).eval()


def clips_of(config: TrainConfig, num_clips: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns random full-length clips of the kind that a config reads."""
    is_video_level = all(name.startswith(MEAN_PREFIX) for name in config.data.features)
    num_frames = 1 if is_video_level else MAX_FRAMES
    frames = torch.randn(num_clips, num_frames, sum(config.data.feature_sizes))
    return torch.nn.functional.normalize(frames, dim=2), torch.full((num_clips,), num_frames)


def bytes_of(tensors: dict[str, torch.Tensor]) -> int:
    """Returns the bytes of all tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


@torch.no_grad()
def measure(config: TrainConfig, *, batch_size: int, rounds: int) -> Cost:
    """Returns what the model of a config costs."""
    torch.manual_seed(0)
    model = build(config)
    clips = clips_of(config, batch_size)
    model(*clips)
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        model(*clips)
        seconds.append(time.perf_counter() - started)
    state = model.state_dict()
    return Cost(
        num_parameters=num_parameters(model),
        num_macs=count_macs(model, num_frames=clips[0].shape[1]),
        float_bytes=bytes_of(state),
        int8_bytes=bytes_of(quantize_state(state, channel_axes(model))),
        videos_per_s=batch_size / min(seconds),
    )


def row_of(stem: str, config: TrainConfig, cost: Cost) -> str:
    """Returns a line of the table."""
    source, gap = SOURCES[stem]
    cells = (
        f"`{config.model.name}`",
        f"[{stem}](../configs/train/{stem}.yaml)",
        source,
        f"{cost.num_parameters:,}",
        f"{cost.num_macs / 1e9:,.3f} G",
        f"{cost.float_bytes / 1e6:,.1f}",
        f"{cost.int8_bytes / 1e6:,.1f}",
        f"{cost.videos_per_s:,.1f}" if cost.videos_per_s < 1000 else f"{cost.videos_per_s:,.0f}",
        gap or "not reported",
    )
    return f"| {' | '.join(cells)} |"


def cpu_name() -> str:
    """Returns the processor's own name."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))


def main() -> None:
    """Writes the table, or prints some of its lines."""
    parser = argparse.ArgumentParser(description="Writes docs/models.md.")
    parser.add_argument("--only", help="configs, separated by commas: prints their lines and writes nothing")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    configs = published_configs()
    chosen = (
        options.only.split(",") if options.only else sorted(configs, key=lambda stem: (configs[stem].model.name, stem))
    )
    missing = set(MODELS.names()) - {config.model.name for config in configs.values()}
    if missing:
        sys.exit(f"no config under configs/train for {', '.join(sorted(missing))}")
    rows = []
    for stem in chosen:
        rows.append(
            row_of(stem, configs[stem], measure(configs[stem], batch_size=options.batch_size, rounds=options.rounds))
        )
        print(rows[-1], flush=True)
    if not options.only:
        footer = FOOTER.format(
            frames=MAX_FRAMES, batch=options.batch_size, cores=os.cpu_count(), cpu=cpu_name(), rounds=options.rounds
        )
        TARGET.write_text(HEADER + COLUMNS + "\n".join(rows) + "\n" + footer, encoding="utf-8")
        print(TARGET, file=sys.stderr)


if __name__ == "__main__":
    main()
