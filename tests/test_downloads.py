"""Files of a hub that could run code when they are used."""

import pickle
import zipfile

import pytest

pytest.importorskip("rl_zoo3")

from sb3_rlx2.files import write_state
from sb3_rlx2.zoo.downloads import why_code


def archive(path, *names):
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, "content")


def test_pickles_are_found_by_content(tmp_path):
    path = tmp_path / "file"
    archive(path, "data", "policy.pth")
    assert why_code(path, "model.zip") == "holds pickled objects"
    archive(path, "evaluations.npz", "0.monitor.csv")
    assert why_code(path, "train_eval_metrics.zip") is None
    path.write_bytes(pickle.dumps([1]))
    assert why_code(path, "vec_normalize.pkl") == "holds pickled objects"
    path.write_text("anything")
    assert why_code(path, "model.zip") == "holds pickled objects"
    write_state(path, {"kind": "model"})
    assert why_code(path, "model.zip") is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("!!python/object/apply:collections.OrderedDict\n- - - algo\n    - rlx2_td3\n  - - seed\n    - 3\n", None),
        ("- - policy\n  - MlpPolicy\n- - normalize\n  - \"{'norm_obs': True, 'norm_reward': False}\"\n", None),
        ("{}", None),
        ("env_kwargs: !!python/tuple [1, 2]", None),
        ("- !!python/object/apply:os.system ['true']", "makes objects"),
        ("!!python/object/apply:collections.OrderedDict\n- - - a\n    - !!python/name:os.system ''\n", "makes objects"),
        ("a: !!python/object/new:collections.OrderedDict {state: [1]}", "makes objects"),
        ("!!python/object/apply:collections.OrderedDict\n- - - normalize\n    - __import__('os')\n", "has normalize"),
        ("normalize: dict(norm_obs=True)", "has normalize"),
        ("env_wrapper: gymnasium.wrappers.ClipAction", None),
        (
            "env_wrapper:\n- gymnasium.wrappers.RescaleAction: {a: -1}\n- subprocess.Popen: {args: [true]}",
            "subprocess",
        ),
        ("vec_env_wrapper: mine.Wrapper", "has vec_env_wrapper: mine.Wrapper"),
    ],
)
def test_settings_that_run_code_are_found(tmp_path, text, reason):
    (tmp_path / "file").write_text(text)
    found = why_code(tmp_path / "file", "config.yml")
    assert found is None if reason is None else reason in found
