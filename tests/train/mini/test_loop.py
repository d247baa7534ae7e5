"""The training loop: it learns, and a stopped run goes on as if it had not been stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from prolip_search.encoders.mini_towers import combine
from prolip_search.errors import TrainingError
from prolip_search.train.mini.loop import Step, reference_terms, schedule, train_heads
from prolip_search.train.reference_losses import reference_total_loss
from tests.train.mini.synthetic import SMALL, random_features, small_heads

# A run in a process of its own, which kills itself after the seventh of its twelve steps.
KILLED = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
import torch
from prolip_search.train.mini.loop import train_heads
from tests.train.mini.synthetic import SMALL, random_features, small_heads
torch.set_num_threads(1)
config = replace(SMALL, epochs=6)
def report(step):
    if step.step == 7:
        os.kill(os.getpid(), signal.SIGKILL)
train_heads(config, random_features(config), small_heads(config), Path(sys.argv[1]), report=report)
"""


def logged(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_training_lowers_the_loss_and_logs_every_step(tmp_path: Path) -> None:
    config = replace(SMALL, epochs=20, dropout=0.0, input_dropout=0.0)
    steps: list[Step] = []
    train_heads(config, random_features(config), small_heads(config), tmp_path, report=steps.append)
    totals = [line["total"] for line in logged(tmp_path)]
    assert len(totals) == steps[-1].n_steps == 40
    assert sum(totals[-6:]) < 0.8 * sum(totals[:6])
    assert all(line["ppcl"] > 0 for line in logged(tmp_path))


def test_the_released_losses_are_those_of_their_module() -> None:
    torch.manual_seed(0)
    image, text, masked, short = (
        (normalize(torch.randn(6, 8, dtype=torch.float64), dim=1), -3 - torch.rand(6, 8).double())
        for _ in range(4)
    )
    terms = reference_terms((image, text), (image, masked), (text, short))
    released = reference_total_loss(
        image, text, logit_scale=5.0, logit_bias=-3.0, masked_images=masked, masked_texts=short
    )
    for ours, theirs in (
        ("image_in_text", "inclusion"),
        ("image_in_masked", "img_inclusion"),
        ("text_in_masked", "txt_inclusion"),
        ("vib", "vib"),
    ):
        torch.testing.assert_close(terms[ours], released[theirs], rtol=1e-12, atol=0)


def test_a_run_with_the_released_losses_takes_them(tmp_path: Path) -> None:
    config = replace(SMALL, epochs=1, losses="reference", dropout=0.0, input_dropout=0.0)
    train_heads(config, random_features(config), small_heads(config), tmp_path / "released")
    train_heads(
        replace(config, losses="correct"),
        random_features(config),
        small_heads(config),
        tmp_path / "correct",
    )
    released, correct = logged(tmp_path / "released")[0], logged(tmp_path / "correct")[0]
    assert released["ppcl"] == correct["ppcl"]  # the same batch, weights and formula
    for term in ("image_in_text", "image_in_masked", "text_in_masked", "vib"):
        assert 0 < released[term] < correct[term] / 2


def test_a_killed_run_resumes_with_the_same_losses_to_the_bit(tmp_path: Path) -> None:
    config = replace(SMALL, epochs=6)
    root = Path(__file__).parents[3]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "killed")],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        timeout=600,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # how a sum is split decides its last bit
    try:
        whole = train_heads(
            config, random_features(config), small_heads(config), tmp_path / "whole"
        )
        resumed = train_heads(
            config,
            random_features(config),
            small_heads(config),
            tmp_path / "killed",
            resume=True,
        )
    finally:
        torch.set_num_threads(n_threads)
    assert logged(tmp_path / "killed") == logged(tmp_path / "whole")
    assert len(logged(tmp_path / "whole")) == 12
    state = resumed.heads.state_dict()
    assert all(torch.equal(v, state[name]) for name, v in whole.heads.state_dict().items())
    assert (whole.logit_scale, whole.logit_bias) == (resumed.logit_scale, resumed.logit_bias)


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    first = train_heads(SMALL, random_features(SMALL), small_heads(SMALL), tmp_path)
    log = (tmp_path / "log.jsonl").read_text()
    again = train_heads(SMALL, random_features(SMALL), small_heads(SMALL), tmp_path, resume=True)
    assert (tmp_path / "log.jsonl").read_text() == log
    state = again.heads.state_dict()
    assert all(torch.equal(v, state[name]) for name, v in first.heads.state_dict().items())


def test_resuming_under_another_configuration_is_refused(tmp_path: Path) -> None:
    train_heads(SMALL, random_features(SMALL), small_heads(SMALL), tmp_path)
    other = replace(SMALL, learning_rate=1e-3)
    with pytest.raises(TrainingError, match=r"learning_rate = 0\.002 there, 0\.001 here"):
        train_heads(other, random_features(other), small_heads(other), tmp_path, resume=True)


def test_a_damaged_checkpoint_is_one_clear_error(tmp_path: Path) -> None:
    train_heads(SMALL, random_features(SMALL), small_heads(SMALL), tmp_path)
    checkpoint = tmp_path / "checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(TrainingError, match="cannot be read"):
        train_heads(SMALL, random_features(SMALL), small_heads(SMALL), tmp_path, resume=True)


def test_fewer_photos_than_a_batch_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="lower photos_per_batch"):
        train_heads(SMALL, random_features(SMALL, 3), small_heads(SMALL), tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    features = random_features(SMALL)
    features.captions.tokens.fill_(float("inf"))
    with pytest.raises(TrainingError, match="at step 0"):
        train_heads(SMALL, features, small_heads(SMALL), tmp_path)


def test_learning_rate_rises_then_falls_to_zero() -> None:
    shares = [schedule(step, 100, 0.1) for step in range(100)]
    assert shares[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert max(shares) == 1
    assert shares[10:] == sorted(shares[10:], reverse=True)
    assert 0 < shares[-1] < 1e-3


def test_distance_of_combined_members_is_the_mean_of_theirs() -> None:
    from prolip_search.distances import Arrays, csd

    generator = torch.Generator().manual_seed(0)

    def members(n: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [
            (
                torch.nn.functional.normalize(torch.randn(n, 5, generator=generator), dim=1),
                torch.randn(n, 5, generator=generator) - 4,
            )
            for _ in range(3)
        ]

    one, two = members(4), members(6)
    each = [csd(Arrays(*a), Arrays(*b)) for a, b in zip(one, two, strict=True)]
    whole = csd(Arrays(*combine(one)), Arrays(*combine(two)))
    torch.testing.assert_close(whole, torch.stack(each).mean(dim=0))
