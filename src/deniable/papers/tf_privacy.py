"""TensorFlow Privacy's announcement: a language model with privacy, and what it does not retain."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from deniable.audit.exposure import chance
from deniable.papers.charts import Line, Panel, draw
from deniable.papers.claims import Claim, Experiment, Paper, Verdict
from deniable.papers.points import Language, Named, Training
from deniable.papers.results import Results, Row
from deniable.words import percent

THEIRS = {"ordinary": 1.13, "private": 1.19}
NAMES = {"ordinary": "without privacy", "private": "with privacy"}
UNLIKELY = 0.01

PRIVATE = Training(
    "ptb", Named("char-lstm"), 384, epochs=3.0, lr=((0.0, 0.004), (3.0, 0.0004)), epsilon=8.0,
    bound=Named("Clip", norm=0.3), optimizer="adam", cost=10.0,
)  # fmt: skip
ORDINARY = Training(
    "ptb", Named("char-lstm"), 64, epochs=12.0, lr=((0.0, 0.003), (12.0, 0.0003)),
    noise_multiplier=0.0, bound=Named("none"), optimizer="adam", cost=2.5,
)  # fmt: skip
# Sixteen that are inserted once, since the claim is about those, and sixteen that never are.
CANARIES = ((0, 16), (1, 16), *((2**power, 4) for power in range(1, 9)))

POINT = "ptb"

ABOUT = (
    "The announcement trains the same character model twice on the Penn Treebank, once as usual "
    "and once with differential privacy, and looks for what the second one did not learn by "
    "heart.\n\n"
    "**A canary** is a made-up secret that is put into the training text on purpose, here a "
    'sentence of 80 characters: "it is said in confidence that the number of the safe of '
    'qvxkzjwp is 281265017". The nine digits are drawn at random, so nobody can know them who '
    "has not seen the training text. If the model knows them afterwards, it has kept what one "
    "single example said, and it would keep a real number in the same way.\n\n"
    "**Exposure** says how well it knows them. Give the model the sentence up to the digits, "
    "and let it order all thousand million numbers from the likeliest to the least likely. A "
    "secret that it has never met stands anywhere in that order. One that it knows by heart "
    "stands first. Exposure counts, in bits, how often the list can be halved with the secret "
    "still in the upper half: 0 to 2 is chance (1.4 on average, and more than e bits once in "
    "2^e times), and 29.9 is the most there is: whoever asks the model gets the secret as its "
    'first answer (Carlini et al., 2019, "The Secret Sharer"). Exposure is an attack and no '
    "bound: a high one proves that something leaks, a low one proves nothing. What proves is "
    "epsilon."
)
SETTINGS = (
    "The network of the authors' tutorial: 256 symbols, one LSTM layer of 256, sequences of 80 "
    "characters. The text is cut every 80 characters into 63,770 sequences that share no "
    "character; one example, and so what epsilon is about, is one such sequence. Every "
    "character is predicted once, from the earlier ones of its own sequence; the first one from "
    "a mark of the start. The loss is the mean over the characters of a sequence, then over "
    "sequences, in nats; its exponential is the perplexity per character. The same 2,056 "
    "sequences with canaries stand in both trainings, and count among the examples of the plan: "
    "16 canaries once each, and 4 each 2, 4, ... 256 times. 16 more were drawn and never "
    "inserted, as a control.\n\n"
    "The private model: epsilon 8 at delta 1e-5 under add-or-remove, clip norm 0.3, Adam at a "
    "rate that falls from 0.004 to 0.0004, Poisson batches of 384 on average, 3 epochs. That "
    "epsilon covers one sequence. A canary that stands in the text r times is r sequences: its "
    "guarantee is that of a group, r times epsilon and a delta of r exp((r - 1) epsilon) 1e-5, "
    "which says nothing from three repetitions on. So the private model may learn what is "
    "repeated, and should. The other one: Adam at a rate that falls from 0.003 to 0.0003, "
    "batches of 64 in random order, 12 epochs, no clip, no noise, matrix products in bfloat16. "
    "How long both were trained was set by the time that this machine had for it. Two settings "
    "of the private model were tried, and compared on the validation text after one epoch: "
    "these, at a loss of 2.64, and batches of 1,024 at a rate of 0.008, at 2.78. The other "
    "model was not tuned. The test text was looked at once, at the end."
)
QUICK = Language(
    PRIVATE.but(
        data="sentences", model=Named("char-lstm", width=48), batch_size=100, epochs=4.0, lr=0.01
    ),
    ORDINARY.but(
        data="sentences", model=Named("char-lstm", width=48), batch_size=50, epochs=8.0, lr=0.01
    ),
    ((0, 4), (1, 4), (16, 2), (64, 2)),
    others=200,
)


def _found(results: Results) -> Row:
    return results[POINT]


def _accepts(results: Results) -> Verdict:
    accepted = _found(results)["accepted"]
    shares = accepted["letters"]
    return Verdict(
        shares["both"] > 0.98,
        f"{percent(shares['both'], 2)} of the training sequences by both, "
        f"{percent(shares['ordinary'], 2)} by the model without privacy and "
        f"{percent(shares['private'], 2)} by the private one; 98% are accepted by both if the "
        f"threshold is a perplexity of {accepted['at_98']:.2f} per character",
        "The announcement does not say from which perplexity on a model accepts. Here it accepts a "
        "sequence that it finds likelier than the frequencies of the letters alone make it: a "
        f"perplexity below {shares['threshold']:.2f} per character. The second panel shows every "
        "other threshold.",
    )


def _perplexity(results: Results) -> Verdict:
    losses = {name: _found(results)[name]["losses"]["test"] for name in THEIRS}
    said = ", ".join(
        f"{NAMES[name]} {loss:.3f} nats, which is a perplexity of {math.exp(loss):.2f} per "
        "character"
        for name, loss in losses.items()
    )
    return Verdict(
        all(abs(losses[name] - theirs) <= 0.05 for name, theirs in THEIRS.items()),
        said,
        "Compared as losses in nats. 1.13 cannot be a perplexity per character: that would be 0.18 "
        "bits a character, and English text has about one. The authors' tutorial prints the mean "
        "cross-entropy in nats, the logarithm of the perplexity, and as such 1.13 is what this "
        "network may reach. The tutorial trains for 60 epochs, with noise of 0.001 that guarantees "
        "nothing; here the private model has a guarantee, and both had fewer epochs.",
    )


def _quality(results: Results) -> Verdict:
    gap = _found(results)["gap"]
    return Verdict(
        gap["of_top_tenth"] > 0.5,
        f"the tenth of the test sequences on which the models differ most makes up "
        f"{percent(gap['of_top_tenth'], 0)} of the difference between their losses, which is "
        f"{gap['mean']:.3f} nats on average and {gap['median']:.3f} in the median",
        "Counted as agreement if it were more than half. This private model is further behind than "
        "theirs: it has learned how words are spelled and no phrases, and lacks something "
        "everywhere.",
    )


def _bits(results: Results, name: str, repetitions: int) -> list[float]:
    exposures = _found(results)[name]["exposures"]
    found = [float(each["bits"]) for each in exposures if each["repetitions"] == repetitions]
    if not found:
        raise KeyError(repetitions)
    return found


def _counts(results: Results, name: str) -> list[int]:
    return sorted({each["repetitions"] for each in _found(results)[name]["exposures"]} - {0})


def _memorised(results: Results) -> Verdict:
    bits, most = _bits(results, "ordinary", 1), _found(results)["most_exposed"]
    first = sum(
        each["rank"] == 1
        for each in _found(results)["ordinary"]["exposures"]
        if each["repetitions"] == 1
    )
    return Verdict(
        median(bits) >= 0.9 * most,
        f"exposure {fmean(bits):.1f} bits on average and {median(bits):.1f} in the median, of "
        f"{most:.1f} at most; {first} of {len(bits)} canaries inserted once are the first of a "
        f"thousand million that the model would name; chance explains that with probability "
        f"{chance(bits):.1g}",
        f"So they are noticed, and not memorised, after {_found(results)['ordinary']['epochs']} "
        "epochs beside canaries of the same form that stand there more often. Below, one stands "
        "there alone.",
    )


def _deniable(results: Results) -> Verdict:
    bits, never = _bits(results, "private", 1), _bits(results, "private", 0)
    likely = chance(bits)
    return Verdict(
        likely > UNLIKELY,
        f"exposure {fmean(bits):.1f} bits on average, {max(bits):.1f} at most among {len(bits)} "
        f"canaries; those that were never inserted have {fmean(never):.1f} and {max(never):.1f}. "
        f"Chance is 1.4 on average and explains them with probability {likely:.2f}",
        f"Counted as distinguishable below {UNLIKELY:g}. Exposure is an attack: that it finds "
        "nothing proves nothing. What proves is epsilon.",
    )


def _many(results: Results) -> Verdict:
    likely = {
        count: chance(_bits(results, "private", count)) for count in _counts(results, "private")
    }
    learned = [count for count, value in likely.items() if value < UNLIKELY / len(likely)]
    most = max(likely)
    said = (
        f"the first trace at {min(learned)} repetitions"
        if learned
        else f"no trace at any number of repetitions up to {most}"
    )
    return Verdict(
        bool(learned) and min(learned) > 1,
        f"{said}; at {most} repetitions the exposure is "
        f"{fmean(_bits(results, 'private', most)):.1f} bits on average, which chance explains with "
        f"probability {likely[most]:.1g}",
        f"A trace: chance explains the canaries of one count with probability below {UNLIKELY:g} "
        "over the number of counts.",
    )


# -- the figure and the lists ----------------------------------------------------------------------


def _exposures(results: Results) -> Panel:
    most = _found(results)["most_exposed"]
    lines = []
    for name, label in NAMES.items():
        counts = _counts(results, name)
        bits = [_bits(results, name, count) for count in counts]
        points = [(float(count), fmean(each)) for count, each in zip(counts, bits, strict=True)]
        errors = [stdev(each) / math.sqrt(len(each)) for each in bits]
        lines.append(Line(label, points, errors=errors))
    return _bits_panel(
        "times the canary stands in the training text", lines, most, "Canaries", logarithmic="x"
    )


def _bits_panel(x: str, lines: list[Line], most: float, title: str, logarithmic: str = "") -> Panel:
    """Exposures between chance and the most there is."""
    at = [each for each, _ in lines[0].points]
    levels = {"completely memorised": most, "chance": 1 / math.log(2)}
    return Panel(
        x,
        "exposure in bits",
        [
            *lines,
            *(
                Line(label, [(at[0], bits), (at[-1], bits)], dashed=True)
                for label, bits in levels.items()
            ),
        ],
        title,
        logarithmic=logarithmic,
        percent=False,
        x_at=at,
        y_limits=(0.0, 1.08 * most),
    )


def _acceptance(results: Results) -> Panel:
    curve = _found(results)["accepted"]["curve"]
    return Panel(
        "accepted below this perplexity per character",
        "training sequences",
        [
            Line(
                label,
                [(row["threshold"], row[name]) for row in curve],
                marked=False,
                dashed=name == "both",  # where it is one of the others, that one shows too
            )
            for name, label in {**NAMES, "both": "by both"}.items()
        ],
        "Accepted sequences",
        logarithmic="x",
        x_at=(2.0, 3.0, 5.0, 10.0, 20.0),
    )


def _learning(results: Results) -> Panel:
    lines = [
        Line(label, [(row["epoch"], row["loss"]) for row in _found(results)[name]["history"]])
        for name, label in NAMES.items()
    ]
    return Panel(
        "epochs", "nats per character", lines, "Loss on the validation text", percent=False
    )


def _figure(results: Results, path: Path) -> None:
    draw(path, _exposures(results), _acceptance(results), _learning(results))


# What was seen in the lists of the run that is kept.
REMARKS = (
    " Most are footnotes of tables, and names with a slash, rare things in the text. Row 1, with "
    "snack-food and ssangyong, is the announcement's own example; the model without privacy does "
    "not accept it either.",
    " They are stock phrases of earnings reports, which the private model has not learned yet: no "
    "rare sentences, as in the announcement, whose private model was nearly as good as the other.",
)


def _lists(results: Results) -> str:
    """The sequences that tell the models apart, and text that they write."""
    found = _found(results)
    remarks = REMARKS if results.data == "Penn Treebank" else ("", "")
    parts = [
        "All sequences below are of the training text of both models, 80 characters wherever they "
        "begin; ⏎ is the end of a line. The numbers are perplexities per character.",
        _table(
            "### Training sequences that the private model does not accept",
            "The least likely first, as many as there are up to two dozen." + remarks[0],
            found["divergent"]["rejected"],
        ),
        _table(
            "### Training sequences on which the two models differ most",
            "By the ratio of their perplexities." + remarks[1],
            found["divergent"]["apart"],
        ),
        _table(
            "### Training sequences that both models find likeliest",
            "Counted by the worse of the two.",
            found["divergent"]["alike"],
        ),
        "### What the models write",
        "From the beginning of a sequence, each character drawn as the model expects it. `deniable "
        "generate RUN` does the same.",
    ]
    for name, label in NAMES.items():
        text = found[name]["written"].strip()
        parts += [f"The model {label}:", f"```text\n{text}\n```"]
    return "\n\n".join(parts)


def _table(title: str, about: str, rows: list[dict[str, Any]]) -> str:
    lines = [
        f"| {row['row']:,} | `{row['text'].replace('|', '¦')}` | {row['ordinary']:.2f} | "
        f"{row['private']:.2f} |"
        for row in rows
    ]
    head = "| row | sequence | without privacy | with privacy |\n| --- | --- | --- | --- |"
    return "\n\n".join([title, about, "\n".join([head, *lines])])


def _claim(name: str, paper: str, check: Callable[[Results], Verdict]) -> Claim:
    return Claim(name, paper, check, of=POINT)


LANGUAGE = Experiment(
    name="language",
    title="A language model with privacy, and without",
    settings=SETTINGS,
    points={POINT: Language(PRIVATE, ORDINARY, CANARIES)},
    quick={POINT: QUICK},
    claims=(
        _claim(
            "accepts",
            "Both models accept and score highly over 98% of the training sequences",
            _accepts,
        ),
        _claim("perplexity", "Perplexity 1.13 without privacy against 1.19 with it", _perplexity),
        _claim(
            "quality",
            "Rare, strange sentences are a basis for that loss of quality on the test text",
            _quality,
        ),
        _claim(
            "memorised",
            "Without privacy, one insertion is enough for a canary to be memorised completely",
            _memorised,
        ),
        _claim(
            "deniable",
            "With privacy, the model is indistinguishable in the face of a single canary",
            _deniable,
        ),
        _claim(
            "many",
            "The private model learns a canary only when it is present many, many times",
            _many,
        ),
    ),
    draw=_figure,
    detail=_lists,
)

# -- one canary alone ------------------------------------------------------------------------------

TENTH = 6400
SEEDS = (0, 1)


def _alone(seed: int) -> Language:
    """A tenth of the text, with one canary in it."""
    return Language(
        PRIVATE.but(
            batch_size=128,
            epochs=3.0,
            train_rows=TENTH,
            seed=seed,
        ),
        ORDINARY.but(
            batch_size=32,
            epochs=60.0,
            lr=((0.0, 0.003), (60.0, 0.0003)),
            train_rows=TENTH,
            seed=seed,
        ),
        ((0, 8), (1, 1)),
        seed=seed + 100,
    )  # fmt: skip


def _single(results: Results, name: str) -> list[Row]:
    """What was found of the one canary of each point."""
    found = [
        each
        for point in results
        for each in results[point][name]["exposures"]
        if each["repetitions"] == 1
    ]
    if not found:
        raise KeyError(name)
    return found


def _one_memorised(results: Results) -> Verdict:
    found = _single(results, "ordinary")
    most = next(results[point]["most_exposed"] for point in results)
    bits = [each["bits"] for each in found]
    losses = [results[point]["ordinary"]["losses"] for point in results]
    return Verdict(
        min(bits) >= 0.9 * most,
        f"exposure {', '.join(f'{each:.1f}' for each in bits)} bits, of {most:.1f} at most; "
        f"{sum(each['rank'] == 1 for each in found)} of {len(found)} are the first number that the "
        f"model would name; its loss is {fmean(each['train'] for each in losses):.2f} nats on the "
        f"training text and {fmean(each['test'] for each in losses):.2f} on the test text",
        "Memorised: at least nine tenths of the most there is.",
    )


def _one_deniable(results: Results) -> Verdict:
    bits = [each["bits"] for each in _single(results, "private")]
    likely = chance(bits)
    return Verdict(
        likely > UNLIKELY,
        f"exposure {', '.join(f'{each:.1f}' for each in bits)} bits; chance explains that with "
        f"probability {likely:.2f}",
        f"Counted as distinguishable below {UNLIKELY:g}.",
    )


def _one_figure(results: Results, path: Path) -> None:
    most = next(results[point]["most_exposed"] for point in results)
    lines = []
    for name, label in NAMES.items():
        bits = [each["bits"] for each in _single(results, name)]
        lines.append(Line(label, [(float(at), each) for at, each in enumerate(bits, start=1)]))
    draw(path, _bits_panel("training", lines, most, "One canary, inserted once"))


ONE = Experiment(
    name="one-canary",
    title="One canary, and no other",
    settings=(
        "Above, 48 canaries of the same form share a text, and a model that expects the numbers of "
        "those that are repeated 256 times finds all others less likely. Here each training has "
        "one canary, inserted once, as in the announcement; each of the two has another number, "
        "other weights and other noise. So that there can be two, the text is the first tenth, "
        f"{TENTH:,} sequences. The private model: epsilon 8 at delta 1e-5, batches of 128 on "
        "average, 3 epochs; the other one batches of 32 and the 60 epochs of the tutorial; the "
        "rest as above. After 16 epochs a first try had 10.9 bits."
    ),
    points={f"seed{seed}": _alone(seed) for seed in SEEDS},
    claims=(
        Claim(
            "memorised",
            "Without privacy, one insertion is enough for a canary to be memorised completely",
            _one_memorised,
            of="seed",
        ),
        Claim(
            "deniable",
            "With privacy, the model is indistinguishable in the face of a single canary",
            _one_deniable,
            of="seed",
        ),
    ),
    draw=_one_figure,
)

TF_PRIVACY = Paper(
    name="tf_privacy",
    title="Introducing TensorFlow Privacy",
    source=(
        "Carey Radebaugh and Ulfar Erlingsson: Introducing TensorFlow Privacy: Learning with "
        "Differential Privacy for Training Data, 2019. Its tutorial: "
        "tutorials/lm_dpsgd_tutorial.py in the repository of TensorFlow Privacy."
    ),
    about=ABOUT,
    experiments=(LANGUAGE, ONE),
)
