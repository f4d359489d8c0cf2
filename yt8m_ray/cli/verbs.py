"""The verbs of `yt8m`, in the order of the work."""

VERBS = {
    "Data": {
        "download": "fetch YouTube-8M's shards",
        "inspect": "verify and summarise shards",
        "synthesize": "write synthetic shards that can be learned",
        "truth": "write the labels of shards as a CSV file",
    },
    "Training": {
        "configs": "list the configs that come along, or copy one",
        "train": "train one run, or continue it",
        "tune": "search hyper-parameters",
        "tune-dashboard": "show a search in a browser",
        "find-lr": "the learning-rate range test of a run",
        "cross-validate": "train all folds of a run",
        "distill": "write a teacher's scores for students to learn from",
        "boost": "weigh videos by a model's errors for the next model",
        "average": "average the weights of several checkpoints",
        "import-weights": "make a checkpoint of published TensorFlow weights",
        "report": "write the report of a run again",
    },
    "Models": {
        "evaluate": "exact metrics over every video",
        "predict": "write the best classes of each video",
        "merge": "average, convert and score prediction files",
        "export": "make a quantized ensemble of checkpoints: a bundle",
        "describe": "print what a bundle is",
        "register": "put a bundle into MLflow",
    },
    "Service": {
        "serve": "answer over HTTP",
        "release": "say or change which model answers",
    },
    "Tour": {
        "demo": "the whole way once, from shards to an answer over HTTP",
    },
}
"""One line for each verb, by group."""

NAMES = [name for verbs in VERBS.values() for name in verbs]
