"""The loop: what a step does to the weights, what it writes down, and when it refuses to go on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from prolip_search.errors import ConfigError, TrainingDataError, TrainingError
from prolip_search.train.towers import gradients
from prolip_search.train.towers.loop import Step, train_towers
from prolip_search.train.towers.optimization import decays, schedule
from prolip_search.train.towers.processes import Processes
from tests.train.towers.tiny import (
    DrawnBatches,
    drawn_batch,
    tiny_config,
    tiny_masking,
    tiny_model,
    tiny_run,
)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def log(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_a_run_lowers_the_loss_and_logs_every_step(tmp_path: Path) -> None:
    seen: list[Step] = []
    tiny_run(tmp_path, tiny_config(seen_samples=240), report=seen.append)
    lines = log(tmp_path)
    assert [line["step"] for line in lines] == list(range(1, 31)) == [step.step for step in seen]
    assert lines[-1]["total"] < 0.7 * lines[0]["total"]
    names = {"ppcl", "image_in_text", "image_in_masked", "text_in_masked", "vib"}
    assert names < lines[0].keys()
    for line in lines:
        assert line["total"] == pytest.approx(sum(line[name] for name in names), rel=1e-5)
        assert line["uncertainty_image"] > 0
        assert line["uncertainty_text"] > 0
        assert line["gradient_norm"] > 0
    timings = [json.loads(line) for line in (tmp_path / "timings.jsonl").read_text().splitlines()]
    assert [line["step"] for line in timings] == list(range(1, 31))
    assert any((tmp_path / "tensorboard").iterdir())


def test_two_runs_alike_are_alike_to_the_byte(tmp_path: Path) -> None:
    models = [tiny_run(tmp_path / name) for name in ("one", "two")]
    first, second = ((tmp_path / name / "log.jsonl").read_bytes() for name in ("one", "two"))
    assert first == second
    for name, value in weights(models[0]).items():
        assert torch.equal(value, weights(models[1])[name])
    other = tiny_config(seed=4)
    tiny_run(tmp_path / "three", other)
    assert (tmp_path / "three" / "log.jsonl").read_bytes() != first


def test_reference_losses_are_another_run_with_the_released_terms(tmp_path: Path) -> None:
    tiny_run(tmp_path, tiny_config(losses="reference"))
    assert {"ppcl", "inclusion", "img_inclusion", "txt_inclusion", "vib"} < log(tmp_path)[0].keys()


@pytest.mark.parametrize(
    "execution",
    [
        {"precision": "bf16"},
        {"activation_checkpointing": True},
        {"accumulation": 4},
        {"accumulation": 2, "activation_checkpointing": True, "precision": "bf16"},
    ],
    ids=str,
)
def test_other_ways_of_running_come_close_to_the_plain_one(
    execution: dict[str, object], tmp_path: Path
) -> None:
    expected = weights(tiny_run(tmp_path / "plain"))
    found = weights(tiny_run(tmp_path / "other", tiny_config(execution=execution)))
    # An AdamW step is about the learning rate whatever the gradient's size, and bf16 flips some.
    tolerance = 5e-3 if "precision" in execution else 1e-3
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=tolerance)
    first, plain = log(tmp_path / "other")[0]["total"], log(tmp_path / "plain")[0]["total"]
    assert first == pytest.approx(plain, rel=0.02 if "precision" in execution else 1e-5)


@pytest.mark.slow
def test_compiled_towers_train_like_plain_ones(tmp_path: Path) -> None:
    expected = tiny_run(tmp_path / "plain", tiny_config(seen_samples=24))
    found = tiny_run(
        tmp_path / "compiled", tiny_config(seen_samples=24, execution={"compile": True})
    )
    for name, value in weights(expected).items():
        torch.testing.assert_close(weights(found)[name], value, rtol=0, atol=1e-3)


def test_the_average_is_what_comes_out_where_one_is_kept(tmp_path: Path) -> None:
    after: dict[int, dict[str, Tensor]] = {}
    config = tiny_config(optimizer={"ema_decay": 0.5})
    model = tiny_model()

    def keep(step: Step) -> None:
        after[step.step] = weights(model)

    expected = weights(model)
    train_towers(
        config, model, DrawnBatches(), tiny_masking(config), tmp_path,
        processes=Processes("cpu"), report=keep,
    )  # fmt: skip
    for step in range(1, 7):
        decay = min(0.5, step / (step + 10))
        for name, value in after[step].items():
            expected[name] = decay * expected[name] + (1 - decay) * value
    for name, value in weights(model).items():
        torch.testing.assert_close(value, expected[name])
    assert not torch.equal(weights(model)["visual.proj"], after[6]["visual.proj"])


def test_validation_sees_the_average_and_leaves_the_run_alone(tmp_path: Path) -> None:
    seen: list[Tensor] = []

    def validate(model: nn.Module) -> dict[str, float]:
        seen.append(weights(model)["visual.proj"])
        torch.rand(1)
        return {"rsum": float(len(seen))}

    config = tiny_config(validation_every=2, optimizer={"ema_decay": 0.9})
    model = tiny_run(tmp_path / "with", config, validate=validate)
    tiny_run(tmp_path / "without", tiny_config(optimizer={"ema_decay": 0.9}))
    assert log(tmp_path / "with") == log(tmp_path / "without")
    lines = (tmp_path / "with" / "validation.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": step, "rsum": float(step // 2)} for step in (2, 4, 6)
    ]
    assert torch.equal(seen[-1], weights(model)["visual.proj"])


def test_the_logit_scale_stays_within_its_bounds(tmp_path: Path) -> None:
    config = tiny_config(optimizer={"learning_rate": 0.5})
    model = tiny_model()
    with torch.no_grad():
        model.logit_scale.fill_(0.1)
    scales: list[float] = []
    train_towers(
        config, model, DrawnBatches(), tiny_masking(config), tmp_path, processes=Processes("cpu"),
        report=lambda step: scales.append(model.logit_scale.item()),
    )  # fmt: skip
    assert all(0 <= scale <= math.log(100) + 1e-6 for scale in scales)
    assert min(scales) == 0  # it would go on down


def test_weight_decay_pulls_at_matrices_embeddings_and_positions_only() -> None:
    decayed = {name for name, value in tiny_model().named_parameters() if decays(name, value)}
    assert {
        "visual.proj", "visual.positional_embedding", "visual.conv1.weight",
        "text.token_embedding.weight", "text.positional_embedding",
        "text.transformer.resblocks.0.attn.in_proj_weight", "visual.uncertainty_proj.weight",
    } <= decayed  # fmt: skip
    spared = {
        "logit_scale", "logit_bias", "visual.class_embedding", "text.unc_emb",
        "visual.ln_pre.weight", "text.ln_final.bias", "visual.uncertainty_proj.bias",
    }  # fmt: skip
    assert not spared & decayed


def test_the_schedule_warms_up_and_ends_near_nothing() -> None:
    rates = [schedule(step, 100, 10) for step in range(100)]
    assert rates[:10] == pytest.approx([step / 10 for step in range(1, 11)])
    assert rates[10] == 1
    assert rates[55] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(0.5 * (1 + math.cos(math.pi * 89 / 90)))
    assert schedule(0, 10, 0) == 1


def broken_terms(monkeypatch: pytest.MonkeyPatch, change: Callable[[int, Tensor], Tensor]) -> None:
    """From then on the total of each step is another."""
    step = 0
    as_ever = gradients.total_loss

    def total_loss(*args: object, **options: object) -> dict[str, Tensor]:
        nonlocal step
        step += 1
        terms = as_ever(*args, **options)  # type: ignore[arg-type]  # handed on
        return {**terms, "total": change(step, terms["total"])}

    monkeypatch.setattr(gradients, "total_loss", total_loss)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_the_run_before_it_spoils_the_weights(
    bad: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_terms(monkeypatch, lambda step, total: total * (bad if step == 5 else 1))
    with pytest.raises(TrainingError) as error:
        tiny_run(tmp_path)
    message = str(error.value)
    assert f"diverged at step 5: the loss is {bad}" in message
    assert "pair/0-0, pair/0-1" in message
    report = json.loads((tmp_path / "diverged.json").read_text())
    assert report["step"] == 5
    assert report["keys"] == [f"pair/0-{row}" for row in range(8)]
    assert len(log(tmp_path)) == 4
    # What was kept is whole, and the run goes on from it once the cause is gone.
    monkeypatch.undo()
    model = tiny_run(tmp_path, resume=True)
    tiny_run(tmp_path / "undisturbed")
    assert log(tmp_path) == log(tmp_path / "undisturbed")
    assert all(value.isfinite().all() for value in weights(model).values())


def test_a_loss_far_above_those_before_it_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = {"factor": 3, "window": 4}
    broken_terms(monkeypatch, lambda step, total: total * (9 if step == 6 else 1))
    with pytest.raises(TrainingError, match=r"step 6: the loss is .* more than 3 times the median"):
        tiny_run(tmp_path / "spike", tiny_config(divergence=watched))
    broken_terms(monkeypatch, lambda step, total: total)  # a spike within the window's start passes
    tiny_run(tmp_path / "off", tiny_config(divergence={"factor": 0}))


def test_a_batch_that_cannot_be_cut_or_filled_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="batch_size = 8 cannot be cut into 3 equal parts"):
        tiny_run(tmp_path / "cut", tiny_config(execution={"accumulation": 3}))

    class Few(DrawnBatches):
        def __iter__(self):  # type: ignore[no-untyped-def]
            yield drawn_batch(8, 0)
            yield drawn_batch(5, 1)

    with pytest.raises(TrainingDataError, match="A step takes 8 pairs, but it had 5"):
        tiny_run(tmp_path / "few", batches=Few())
    with pytest.raises(ConfigError, match=r"warmup_steps = 10 must be below the run's 6 steps"):
        tiny_config(optimizer={"warmup_steps": 10})
    with pytest.raises(ConfigError, match=r"execution.device = 'abacus' cannot be used"):
        Processes("abacus")


def test_without_tensorboard_a_run_says_so_once_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    tiny_run(tmp_path)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1
    assert "pip install 'prolip-search[train]'" in told[0]
    assert not (tmp_path / "tensorboard").exists()
