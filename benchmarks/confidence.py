"""Does confidence keep its word? Every bar of its proof that needs no index, in known worlds.

    python -m benchmarks.confidence [--quick] [--output FILE] [--encoders FOLDER]

Calibration and test queries are disjoint; a figure is the mean over 20 draws of calibration
queries, each tested on at least 10,000 results of other queries. Tested results are spread as
judged ones are: 70 % over ranks 1 to 10, 30 % over ranks 11 to 200; the rows marked "first ten"
hold ranks 1 to 10 alone. Worlds, laws and seeds: `benchmarks.worlds`.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.judging import (
    N_ITEMS,
    Collections,
    Doubles,
    Ints,
    Place,
    Seen,
    asked,
    judged,
    pairs,
)
from benchmarks.machine import facts_of_run
from benchmarks.worlds import UNKNOWING, WORLDS, Encoder, Generator, World, trained_encoder
from prolip_search.confidence.calibration import ConfidenceModel
from prolip_search.confidence.cutoff import CutoffMode, cutoff_sizes, fit_cutoff, target_scores
from prolip_search.confidence.features import query_context
from prolip_search.confidence.fitting import fit
from prolip_search.confidence.logistic import sigmoid
from prolip_search.confidence.match import BAND_Z, MatchModel
from prolip_search.confidence.matches import MatchProbabilities, match_probabilities
from prolip_search.confidence.scoring import score
from prolip_search.metrics import auroc, brier_score, excess_aurc, smooth_ece, smooth_ece_floor

OUTPUT = Path(__file__).parent / "results" / "confidence.json"
FINGERPRINT = "0" * 64  # one encoder for each world, so none is mistaken for another
JUDGED_QUERIES = 60  # what `prolip-search calibrate` asks about; with more labels, more queries
TESTED_PER_QUERY = 10
MODES: tuple[CutoffMode, ...] = ("average", "confident")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table. spread: the standard deviation over draws."""

    bar: str
    world: str
    must: str
    measured: float
    passed: bool
    spread: float | None = None
    raw: float | None = None


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is measured: draws of calibration queries, and splits of pairs."""

    n_draws: int = 20
    n_splits: int = 200


class Table:
    """The rows of one world, as they are measured."""

    def __init__(self, world: str) -> None:
        self.world = world
        self.rows: list[Row] = []

    def add(
        self,
        bar: str,
        values: float | Doubles,
        *,
        at_most: float | None = None,
        at_least: float | None = None,
        raw: float | None = None,
    ) -> None:
        """Adds the mean of the values, which must lie within the limits, and prints it."""
        drawn = np.atleast_1d(np.asarray(values, dtype=np.float64))
        measured = float(drawn.mean())
        limits = [f"≥ {at_least:.3g}"] if at_least is not None else []
        limits += [f"≤ {at_most:.3g}"] if at_most is not None else []
        row = Row(
            bar=bar,
            world=self.world,
            must=", ".join(limits),
            measured=measured,
            # Comparisons that NaN fails.
            passed=(at_least is None or measured >= at_least)
            and (at_most is None or measured <= at_most)
            and not np.isnan(measured),
            spread=float(drawn.std()) if drawn.size > 1 else None,
            raw=raw,
        )
        self.rows.append(row)
        print(line(row), flush=True)


def line(row: Row) -> str:
    """A row as a line of the table."""
    raw = "" if row.raw is None else f"raw {row.raw:.3f}"
    verdict = "pass" if row.passed else "FAIL"
    return (
        f"{verdict}  {row.measured:7.3f}  {row.must:16} {row.world:10} {row.bar:66} {raw}".rstrip()
    )


@dataclass(frozen=True, eq=False)
class Tested:
    """Searches of test queries, and which of their results the figures are taken over."""

    seen: Seen
    query: Ints
    rank: Ints

    @classmethod
    def of(cls, seen: Seen, rng: np.random.Generator) -> Tested:
        query, rank, _ = asked(seen, rng, TESTED_PER_QUERY)
        return cls(seen, query, rank)

    @property
    def labels(self) -> NDArray[np.bool_]:
        return self.seen.is_match[self.query, self.rank - 1]

    @property
    def raw(self) -> Doubles:
        return sigmoid(self.seen.logits[self.query, self.rank - 1])

    def confidence(self, model: ConfidenceModel) -> Doubles:
        """Of the chosen results, as shown."""
        return self.shown(model)[self.query, self.rank - 1]

    def shown(self, model: ConfidenceModel) -> Doubles:
        """Of all candidates, as shown: [Q, n]; raises where the calibration gives none."""
        results = score(model, "text", self.seen.evidence).results
        assert results is not None, "a calibration of fifty answers has confidences"
        return results.confidence


def calibrated(
    world: World,
    pool: Seen,
    draw: int,
    n_judged: int,
    n_queries: int | None = None,
    in_rounds: bool = True,
) -> ConfidenceModel:
    """A calibration from one draw of queries of the pool and n_judged answers about them."""
    rng = world.rng(f"calibration {n_judged} {draw}")
    n_queries = max(JUDGED_QUERIES, n_judged // 4) if n_queries is None else n_queries
    chosen = pool[rng.choice(len(pool), n_queries, replace=False)]
    labels = judged(chosen, rng, n_judged, in_rounds=in_rounds)
    return fit({"text": labels}, fingerprint=FINGERPRINT, n_items=pool.evidence.n_items)


def measure_matches(table: Table, world: World, places: Collections, effort: Effort) -> None:
    """Confidences of results, in the collection they were calibrated on."""
    pool, tested = places.pool, Tested.of(places.test, world.rng("tested results"))
    labels, raw = tested.labels, tested.raw
    first_ten = places.test.is_match[:, :10].ravel()
    floor = smooth_ece_floor(tested.confidence(calibrated(world, pool, 0, 1000)), n_draws=5)
    raw_error = smooth_ece(raw, labels)
    for n_judged, bar in ((50, 0.06), (200, 0.04), (1000, 0.03)):
        models = [calibrated(world, pool, draw, n_judged) for draw in range(effort.n_draws)]
        confidences = [tested.confidence(model) for model in models]
        errors = np.array([smooth_ece(c, labels) for c in confidences])
        name = f"smECE, {n_judged} judged (a perfect predictor: {floor:.3f})"
        table.add(name, errors, at_most=bar, raw=raw_error)
        shown = [tested.shown(model) for model in models]
        errors = np.array([smooth_ece(s[:, :10].ravel(), first_ten) for s in shown])
        table.add(f"smECE, {n_judged} judged, first ten (no bar)", errors)
        if n_judged == 50:
            measure_few_queries(table, world, pool, tested, effort)
        if n_judged == 200:
            raw_brier, raw_auroc = brier_score(raw, labels), auroc(raw, labels)
            ratios = np.array([brier_score(c, labels) for c in confidences]) / raw_brier
            table.add("Brier ÷ raw, 200 judged", ratios, at_most=0.6, raw=1.0)
            values = np.array([auroc(c, labels) for c in confidences])
            least = max(0.92, raw_auroc + 0.10)
            table.add("AUROC across queries, 200 judged", values, at_least=least, raw=raw_auroc)
            measure_first(table, places.test, shown)
        if n_judged == 1000:
            first = places.test.is_match[:, 0]
            errors = np.array([smooth_ece(s[:, 0], first) for s in shown])
            table.add("rank 1 is right: smECE, 1000 judged", errors, at_most=0.06)
            measure_expected(table, places.test, models)


def measure_few_queries(
    table: Table, world: World, pool: Seen, tested: Tested, effort: Effort
) -> None:
    """As if somebody stopped after fifty answers, four about each query: what rounds are for."""
    models = [calibrated(world, pool, draw, 50, in_rounds=False) for draw in range(effort.n_draws)]
    errors = np.array([smooth_ece(tested.confidence(m), tested.labels) for m in models])
    table.add("smECE, 50 judged, four of each query (no bar)", errors)


def measure_first(table: Table, test: Seen, shown: list[Doubles]) -> None:
    """The confidence of rank 1 as "the first result is right"."""
    right, top = test.is_match[:, 0], test.logits[:, 0]
    values = np.array([auroc(s[:, 0], right) for s in shown])
    table.add("rank 1 is right: AUROC, 200 judged", values, at_least=0.88, raw=auroc(top, right))
    values = np.array([excess_aurc(s[:, 0], right) for s in shown])
    raw = excess_aurc(top, right)
    table.add("rank 1 is right: E-AURC, 200 judged", values, at_most=0.06, raw=raw)


def measure_expected(table: Table, test: Seen, models: list[ConfidenceModel]) -> None:
    """How far the expected matches lie from the truth, over queries that something matches."""
    some = test.n_matches > 0

    def factor(model: ConfidenceModel) -> float:
        match = model.of("text").match
        if match is None or not model.of("text").expects_matches:
            return float("nan")
        expected = match_probabilities(match, test.evidence).expected
        return float(np.exp(np.median(np.abs(np.log(expected[some] / test.n_matches[some])))))

    values = np.array([factor(model) for model in models])
    table.add("expected matches, 1000 judged: median factor off", values, at_most=1.8)


def measure_elsewhere(table: Table, world: World, places: Collections, effort: Effort) -> None:
    """The calibration of one collection, used as it is on others."""
    models = [calibrated(world, places.pool, draw, 200) for draw in range(effort.n_draws)]
    bars: tuple[tuple[Place, float], ...] = (
        ("a tenth of the items", 0.06),
        ("four times the items", 0.08),
        ("four near-copies of every image", 0.06),
        ("a collection of other topics", 0.08),
    )
    for place, bar in bars:
        tested = Tested.of(places.elsewhere(place), world.rng("tested results"))
        errors = np.array([smooth_ece(tested.confidence(m), tested.labels) for m in models])
        raw = smooth_ece(tested.raw, tested.labels)
        table.add(f"smECE without refit, 200 judged: {place}", errors, at_most=bar, raw=raw)


def measure_none(table: Table, world: World, places: Collections, effort: Effort) -> None:
    """Whether anything in the collection matches at all."""
    test, nothing = places.test, places.test.n_matches == 0
    found = []
    for draw in range(effort.n_draws):
        model = calibrated(world, places.pool, draw, 800, n_queries=200)
        probability = score(model, "text", test.evidence).none_probability
        assert probability is not None, "two hundred judged queries are enough for it"
        found.append(probability)
    raw = auroc(-test.logits[:, 0], nothing)
    values = np.array([auroc(p, nothing) for p in found])
    table.add("nothing matches: AUROC, 200 judged queries", values, at_least=0.90, raw=raw)
    errors = np.array([smooth_ece(p, nothing) for p in found])
    table.add("nothing matches: smECE, 200 judged queries", errors, at_most=0.06)


def measure_band(table: Table, world: World, places: Collections, effort: Effort) -> None:
    """Whether the band of a calibration holds what twenty times the labels would say."""
    half = len(places.pool) // 2
    many, few = places.pool[np.arange(half)], places.pool[np.arange(half, 2 * half)]
    tested = Tested.of(places.test, world.rng("tested results"))
    context = query_context(places.test.evidence.uncertainty, places.test.evidence.background)

    def middle_and_half(model: ConfidenceModel) -> tuple[Doubles, Doubles]:
        """In log odds, where nothing is cut: what is shown ends at 1 / (n + 2)."""
        match = model.of("text").match
        assert match is not None, "two hundred answers calibrate"
        parts = (f(places.test.logits, context) for f in (match.log_odds, match.log_odds_deviation))
        middle, deviation = (part[tested.query, tested.rank - 1] for part in parts)
        return middle, BAND_Z * deviation

    better, _ = middle_and_half(calibrated(world, many, 0, 4000))
    inside = []
    for draw in range(effort.n_draws):
        middle, half_width = middle_and_half(calibrated(world, few, draw, 200))
        inside.append(float((np.abs(better - middle) <= half_width).mean()))
    name = "band holds the confidence of 20 × the labels, 200 judged"
    table.add(name, np.array(inside), at_least=0.85, at_most=0.95)


def measure_cutoff(table: Table, world: World, places: Collections, effort: Effort) -> None:
    """Whether the line under the results keeps its promise, and how short lists are above it."""
    pairs_here = places.targets
    per_draw = max(1, effort.n_splits // effort.n_draws)
    covered: dict[tuple[CutoffMode, int], list[float]] = {
        (mode, n): [] for mode in MODES for n in (200, 1000)
    }
    lengths: list[float] = []
    raw_lengths: list[float] = []
    for draw in range(effort.n_draws):
        match = calibrated(world, places.pool, draw, 200).of("text").match
        assert match is not None, "two hundred answers calibrate"
        known = match_probabilities(match, pairs_here.evidence)
        scores = target_scores(known, pairs_here.evidence, pairs_here.target_logits)
        orders = [world.rng(f"split {draw} {i}").permutation(len(scores)) for i in range(per_draw)]
        for order in orders:
            for (mode, n), values in covered.items():
                limit = threshold_of(scores[order[:n]], mode)
                values.append(float((scores[order[n:]] <= limit).mean()))
        used, new = orders[0][:1000], orders[0][1000:]
        lengths.append(list_length(match, pairs_here, used, new))
        raw_lengths.append(list_length(None, pairs_here, used, new))
    for n in (200, 1000):
        name = f"coverage 0.9, average, {n} pairs: mean of splits"
        table.add(name, np.array(covered["average", n]), at_least=0.89, at_most=0.91)
        below = float((np.array(covered["confident", n]) < 0.9).mean())
        table.add(f"coverage 0.9, confident, {n} pairs: splits below", below, at_most=0.15)
    name = "median cutoff ÷ fixed rank of equal coverage, 1000 pairs"
    table.add(name, np.array(lengths), at_most=0.6, raw=float(np.mean(raw_lengths)))


def threshold_of(scores: Doubles, mode: CutoffMode) -> float:
    """Of a cutoff at coverage 0.9 with these pairs."""
    cutoff = fit_cutoff(scores)
    threshold = None if cutoff is None else cutoff.threshold(0.9, mode)
    assert threshold is not None, "two hundred pairs are enough for it"
    return threshold


def list_length(match: MatchModel | None, seen: Seen, used: Ints, new: Ints) -> float:
    """The median list over the fixed rank that holds as many targets."""
    known, tested = seen[used], seen[new]

    def scored(part: Seen) -> tuple[MatchProbabilities | None, Doubles]:
        of_part = None if match is None else match_probabilities(match, part.evidence)
        return of_part, target_scores(of_part, part.evidence, part.target_logits)

    limit = threshold_of(scored(known)[1], "average")
    probabilities, scores = scored(tested)
    coverage = float((scores <= limit).mean())
    fixed = np.quantile(tested.target_rank, coverage, method="inverted_cdf")
    return float(np.median(cutoff_sizes(probabilities, tested.evidence, limit)) / fixed)


def measure_unknowing(table: Table, world: World, effort: Effort) -> None:
    """An encoder that knows nothing gets flat confidences that are right on average."""
    generator = Generator(world)
    places = Collections.of(world, generator, trained_encoder(world, generator))
    tested = Tested.of(places.test, world.rng("tested results"))
    models = [calibrated(world, places.pool, draw, 1000) for draw in range(effort.n_draws)]
    errors = np.array([smooth_ece(tested.confidence(m), tested.labels) for m in models])
    raw = smooth_ece(tested.raw, tested.labels)
    table.add("encoder without information: smECE, 1000 judged", errors, at_most=0.05, raw=raw)


def measure_pairs_alone(table: Table, places: Collections) -> None:
    """Pairs say where targets are; of matches they say nothing."""
    model = fit({}, {"text": pairs(places.targets)}, fingerprint=FINGERPRINT, n_items=N_ITEMS)
    kind = model.of("text")
    pretends = float(kind.status == "own" or kind.match is not None)
    table.add("pairs without judgements: share with a confidence", pretends, at_most=0.0)


def encoder_of(world: World, generator: Generator, folder: Path | None) -> Encoder:
    """The world's encoder, trained, or read from the folder that an earlier run left it in."""
    file = None if folder is None else folder / f"{world.name}-{world.seed}.pt"
    if file is not None and file.is_file():
        encoder = Encoder()
        encoder.load_state_dict(torch.load(file, weights_only=True))
        return encoder.eval()
    print(f"training the encoder of {world.name} ({world.n_steps} steps)", flush=True)
    encoder = trained_encoder(world, generator)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(encoder.state_dict(), file)
    return encoder


def main() -> int:
    """Measures, prints and writes every row; the exit code says whether a bar failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="five draws instead of twenty")
    parser.add_argument("--output", type=Path, help=f"JSON; {OUTPUT.name} without --quick")
    parser.add_argument("--encoders", type=Path, help="keep the trained encoders in this folder")
    options = parser.parse_args()
    torch.set_num_threads(1)  # sums of several threads differ in their last bits
    effort = Effort(n_draws=5, n_splits=50) if options.quick else Effort()
    rows: list[Row] = []
    for world in WORLDS:
        generator = Generator(world)
        places = Collections.of(world, generator, encoder_of(world, generator, options.encoders))
        table = Table(world.name)
        measure_matches(table, world, places, effort)
        measure_elsewhere(table, world, places, effort)
        measure_none(table, world, places, effort)
        measure_band(table, world, places, effort)
        measure_cutoff(table, world, places, effort)
        measure_pairs_alone(table, places)
        rows += table.rows
    table = Table(UNKNOWING.name)
    measure_unknowing(table, UNKNOWING, effort)
    rows += table.rows
    output = options.output or (None if options.quick else OUTPUT)
    if output is not None:
        seeds = {world.name: world.seed for world in (*WORLDS, UNKNOWING)}
        content = {
            "run": facts_of_run(),
            "effort": asdict(effort),
            "seeds": seeds,
            "rows": [asdict(row) for row in rows],
        }
        output.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    failed = [row for row in rows if not row.passed]
    print(f"{len(rows)} rows, {len(failed)} failed")
    for row in failed:
        print(line(row))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
