"""How far audits can be trusted: are estimators valid, and does the gate tell right from wrong?

    python -m benchmarks.audits estimators
    python -m benchmarks.audits step
    python -m benchmarks.audits gate
    python -m benchmarks.audits page

Each of the first three writes its part of benchmarks/results/audits.json; the last writes
docs/audit.md from that. `gate` trains the digits demo for each run, with a bug planted or without,
audits it, and goes on where it was cut off.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import typer
from rich.progress import track

from benchmarks import machine
from benchmarks.pages import between
from benchmarks.planted import BUGS, correct
from benchmarks.results import FOLDER, load
from deniable.audit.estimators import Family, from_scores
from deniable.audit.gate import audit
from deniable.audit.guesses import from_one_run, guesses_for
from deniable.audit.mechanism import one_step
from deniable.audit.tradeoff import gaussian_epsilon
from deniable.runfolder import write_json
from deniable.settings import Settings
from deniable.training import begin, fit

RESULTS = FOLDER / "audits.json"
PAGE = Path(__file__).parent.parent / "docs" / "audit.md"
DELTA, CONFIDENCE, DRAWS = 1e-5, 0.95, 200_000
Measure = Callable[[np.random.Generator, float], float]

app = typer.Typer(add_completion=False)


# -- mechanisms of known epsilon -------------------------------------------------------------------


def gaussian(generator: np.random.Generator, mu: float, inside: np.ndarray) -> np.ndarray:
    """Scores of a Gaussian mechanism: 1 deviation of noise, moved by mu."""
    return generator.normal(size=len(inside)) + mu * inside


def randomized_response(
    generator: np.random.Generator, epsilon: float, inside: np.ndarray
) -> np.ndarray:
    """The coin itself, told truly with probability 1 / (1 + exp(-epsilon)): the worst of all."""
    truly = generator.random(len(inside)) < 1 / (1 + np.exp(-epsilon))
    return np.where(truly, inside, ~inside) + 1e-6 * generator.random(len(inside))


def measures(draws: int) -> dict[str, tuple[Family, Callable[..., float]]]:
    """Every estimator, by name, from coins and scores to a bound."""
    found: dict[str, tuple[Family, Callable[..., float]]] = {}
    for family in Family:
        for way in ("union", "split"):

            def counted(
                coins: np.ndarray,
                scores: np.ndarray,
                _: float,
                delta: float,
                f: Family = family,
                w: Any = way,
            ) -> float:
                return from_scores(
                    scores[coins], scores[~coins], delta=delta, family=f, thresholds=w
                ).epsilon

            found[f"thresholds by {way}, {family.value}"] = family, counted

        def guessed(
            coins: np.ndarray, scores: np.ndarray, claim: float, delta: float, f: Family = family
        ) -> float:
            count = _guesses(draws, claim, delta)
            return from_one_run(coins, scores, delta=delta, family=f, guesses=count).epsilon

        def searched(
            coins: np.ndarray, scores: np.ndarray, _: float, delta: float, f: Family = family
        ) -> float:
            counts = [draws // 50, draws // 20, draws // 5]
            return from_one_run(coins, scores, delta=delta, family=f, guesses=counts).epsilon

        found[f"one run, guesses by the claim, {family.value}"] = family, guessed
        found[f"one run, best of 3 numbers, {family.value}"] = family, searched
    return found


_guesses = cache(guesses_for)


def cases() -> list[tuple[str, float, float]]:
    """Mechanisms by kind and parameter, with their true epsilon."""
    return [
        ("null", 0.0, 0.0),
        *(("gaussian", mu, gaussian_epsilon(mu, DELTA)) for mu in (0.5, 1.0, 2.0)),
        *(("randomized response", epsilon, epsilon) for epsilon in (1.0, 3.0)),
    ]


def validity(
    case: tuple[str, float, float], name: str, repetitions: int, draws: int
) -> dict[str, Any]:
    """How often an estimator is above the truth, and how near it comes.

    Args:
        case: one of `cases`.
        name: of the estimator, as in `measures`.
        repetitions: how often.
        draws: with and without the unit together; or canaries.
    """
    kind, parameter, truth = case
    measure, found = measures(draws)[name][1], []
    for repetition in range(repetitions):
        generator = np.random.default_rng([repetition, *name.encode()])
        coins = generator.random(draws) < 0.5
        draw = randomized_response if kind == "randomized response" else gaussian
        delta = 0.0 if kind == "randomized response" else DELTA
        found.append(measure(coins, draw(generator, parameter, coins), truth, delta))
    return {
        "mechanism": kind,
        "parameter": parameter,
        "epsilon": truth,
        "estimator": name,
        "repetitions": repetitions,
        "draws": draws,
        "above": int(np.sum(np.array(found) > truth + 1e-9)),
        "mean": float(np.mean(found)),
        "quantiles": [float(each) for each in np.quantile(found, [0.05, 0.5, 0.95])],
    }


@app.command()
def estimators(repetitions: int = 1000, draws: int = 2000, out: Path = RESULTS) -> None:
    """Validity and power on mechanisms of known epsilon; goes on where it was cut off."""
    rows = _kept(out).get("estimators", [])
    done = {(row["mechanism"], row["parameter"], row["estimator"]) for row in rows}
    for case in track(cases(), "estimators"):
        for name, (family, _) in measures(draws).items():
            if case[0] == "randomized response" and family is Family.GAUSSIAN:
                continue  # its assumption does not hold
            if (case[0], case[1], name) not in done:
                rows.append(validity(case, name, repetitions, draws))
                _keep(out, "estimators", rows)


# -- one released step -----------------------------------------------------------------------------


@app.command()
def step(repetitions: int = 100, out: Path = RESULTS) -> None:
    """The mechanism test at sigma 0.5, 1 and 2: do bounds bracket the truth? Can go on."""
    rows = _kept(out).get("step", [])
    for sigma in (0.5, 1.0, 2.0)[len(rows) :]:
        truth, found = gaussian_epsilon(1 / sigma, DELTA), []
        started = time.perf_counter()
        for _ in track(range(repetitions), f"sigma {sigma:g}"):
            found.append(one_step(sigma, delta=DELTA, confidence=CONFIDENCE, draws=DRAWS).epsilon)
        rows.append(
            {
                "noise_multiplier": sigma,
                "epsilon": truth,
                "repetitions": repetitions,
                "above": sum(each > truth for each in found),
                "least": min(found),
                "mean": float(np.mean(found)),
                "share": min(found) / truth,
                "seconds": (time.perf_counter() - started) / repetitions,
            }
        )
        _keep(out, "step", rows)


# -- the gate --------------------------------------------------------------------------------------


def trained_and_audited(folder: Path, **settings: Any) -> dict[str, Any]:
    """The digits demo with its audit, in a folder: what was found, and how long the audit took."""
    run = begin(Settings.choose("digits", audit=True, **settings), folder)
    assert fit(run)
    started = time.perf_counter()
    found = audit(folder)
    whole = {each.name: each.bound for each in found.findings if each.kind == "whole run"}
    return {
        "holds": found.holds,
        "refuted": [each.name for each in found.failed()],
        "claim": found.claim,
        "lower": {name: each.epsilon for name, each in whole.items() if each is not None},
        "accuracy": run.record["results"]["test_accuracy"],
        "seconds": time.perf_counter() - started,
    }


@app.command()
def gate(runs: int = 100, bugs: int = 10, out: Path = RESULTS) -> None:
    """The digits demo, so often without a bug and so often with each of them."""
    kept = _kept(out).get("gate", {})
    for name, plant in {"correct": correct, **BUGS}.items():
        rows = kept.setdefault(name, [])
        for index in track(range(len(rows), runs if name == "correct" else bugs), name):
            with plant(index), tempfile.TemporaryDirectory() as folder:
                rows.append(trained_and_audited(Path(folder) / "run"))
            _keep(out, "gate", kept)


# -- the page --------------------------------------------------------------------------------------


@app.command()
def page(out: Path = RESULTS) -> None:
    """Write the tables of docs/audit.md again, from the results and nothing else."""
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), _kept(out)), encoding="utf-8")


def written(text: str, results: dict[str, Any]) -> str:
    """The page with its tables."""
    parts = [
        section(results)
        for name, section in (
            ("estimators", _of_estimators),
            ("step", _of_step),
            ("gate", _of_gate),
        )
        if name in results
    ]
    return between(text, "audits", "\n".join(parts).rstrip("\n"))


def _of_estimators(results: dict[str, Any]) -> str:
    rows = results["estimators"]
    cases: dict[tuple[str, float], dict[str, Any]] = {}
    for row in rows:
        cases.setdefault((row["mechanism"], row["parameter"]), {})[row["estimator"]] = row
    names = list(dict.fromkeys(row["estimator"] for row in rows))
    heads = [f"{_CASES[kind].format(value)}" for kind, value in cases]
    truths = [f"{next(iter(each.values()))['epsilon']:.2f}" for each in cases.values()]
    lines = [
        f"Every estimator at 95% confidence, {rows[0]['repetitions']:,} times on "
        f"{rows[0]['draws']:,} scores of mechanisms whose epsilon is known: the median bound, and "
        "in how many of the repetitions it was above the truth (allowed are "
        f"{rows[0]['repetitions'] // 20}). Delta is 1e-5, and 0 for randomized response.",
        "",
        "| estimator | " + " | ".join(heads) + " |",
        "| --- |" + " ---: |" * len(heads),
        "| *true epsilon* | " + " | ".join(truths) + " |",
    ]
    for name in names:
        cells = [
            f"{each[name]['quantiles'][1]:.2f} ({each[name]['above']})" if name in each else "–"
            for each in cases.values()
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", _made(results, "estimators"), ""])


_CASES = {
    "null": "no signal",
    "gaussian": "Gaussian, mu {:g}",
    "randomized response": "randomized response, {:g}",
}


def _of_step(results: dict[str, Any]) -> str:
    rows = results["step"]
    lines = [
        f"One step through the real path, {rows[0]['repetitions']} times each at 95% confidence, "
        f"{DRAWS:,} draws with and without a worst-case unit:",
        "",
        "| noise multiplier | true epsilon | mean bound | least bound | least, of the truth "
        "| above the truth | seconds |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row['noise_multiplier']:g} | {row['epsilon']:.3f} | {row['mean']:.3f} "
        f"| {row['least']:.3f} | {100 * row['share']:.0f}% | {row['above']} of "
        f"{row['repetitions']} | {row['seconds']:.1f} |"
        for row in rows
    ]
    return "\n".join([*lines, "", _made(results, "step"), ""])


def _of_gate(results: dict[str, Any]) -> str:
    lines = [
        "The digits demo at epsilon 3 with 4,802 gradient canaries (a quarter of the weights), "
        "trained and audited anew each time, as it is and with a bug planted:",
        "",
        "| code | audits | refuted | by, most often | lower bound, nothing assumed "
        "| lower bound, if Gaussian | seconds |",
        "| --- | ---: | ---: | --- | ---: | ---: | ---: |",
    ]
    for name, rows in results["gate"].items():
        refuted = [row for row in rows if not row["holds"]]
        often = Counter(each for row in refuted for each in row["refuted"])
        bounds = [
            [row["lower"][each] for row in rows if each in row["lower"]]
            for each in ("gradient canaries", "gradient canaries, if Gaussian")
        ]
        shown = [f"{min(b):.2f} to {max(b):.2f}" if b else "–" for b in bounds]
        which = often.most_common(1)[0][0] if often else "–"
        seconds = float(np.median([row["seconds"] for row in rows]))
        lines.append(
            f"| {name} | {len(rows)} | {len(refuted)} | {which} | {shown[0]} | {shown[1]} "
            f"| {seconds:.1f} |"
        )
    return "\n".join([*lines, "", _made(results, "gate"), ""])


def _made(results: dict[str, Any], part: str) -> str:
    made = results[f"{part} made"]
    return (
        f"`python -m benchmarks.audits {part}`, {made['date']}, on {made['machine']['cpu']}, "
        f"{made['machine']['threads']} thread, torch {made['machine']['torch']}."
    )


def _kept(out: Path) -> dict[str, Any]:
    return load(out) or {}


def _keep(out: Path, part: str, rows: Any) -> None:
    made = machine.header("benchmarks.audits", "cpu") | machine.moment()
    write_json(out, _kept(out) | {part: rows, f"{part} made": made})


if __name__ == "__main__":
    app()
