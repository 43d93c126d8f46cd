"""A few records of each family of datasets, with its real columns and types, and the rows they are to become.

`SAMPLES[preset]` is the records; `EXPECTED[preset]` is (last user turn or end of the prompt, completion, label) of each
row, in any order, and `SKIPPED[preset]` the reasons and numbers of completions left out.
"""

from typing import Any

from ktodata.sources.scores import SCORES

Record = dict[str, Any]


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def transcript(question: str, reply: str) -> str:
    return f"\n\nHuman: {question}\n\nAssistant: {reply}"


def shp(post: str, first: str, second: str, scores: tuple[int, int], *, label: int | None = None) -> Record:
    high, low = max(scores), min(scores)
    return {
        "post_id": post,
        "domain": "askculinary_train",
        "upvote_ratio": 0.98,
        "history": f"history of {post}",
        "c_root_id_A": "i1",
        "c_root_id_B": "i2",
        "created_at_utc_A": 1655113814,
        "created_at_utc_B": 1655104773,
        "score_A": scores[0],
        "score_B": scores[1],
        "human_ref_A": first,
        "human_ref_B": second,
        "labels": int(scores[0] > scores[1]) if label is None else label,
        "seconds_difference": 9041.0,
        "score_ratio": high / low,
    }


def message(name: str, parent: str | None, text: str, rank: float | None = None, **more: Any) -> Record:
    return {
        "message_id": name,
        "parent_id": parent,
        "user_id": "c3fe8c76-fc30-4fa7-b7f8-c492f5967d18",
        "created_date": "2023-02-05T14:23:50.983374+00:00",
        "text": text,
        "role": "assistant" if rank is not None or more.get("reply") else "prompter",
        "lang": more.get("lang", "en"),
        "review_count": 3,
        "review_result": True,
        "deleted": more.get("deleted", False),
        "rank": rank,
        "synthetic": False,
        "model_name": None,
        "detoxify": {"toxicity": 0.00044, "severe_toxicity": 3.252e-05},
        "message_tree_id": more.get("tree", "t1"),
        "tree_state": "ready_for_export",
        "emojis": {"name": ["+1"], "count": [1]},
        "labels": {"name": ["spam"], "value": [0.0], "count": [3]},
    }


def nested(text: str, *replies: Record, role: str = "prompter", rank: int | None = None, **more: Any) -> Record:
    found = {"message_id": text, "text": text, "role": role, "lang": "en", "deleted": False, **more}
    return found | ({"rank": rank} if rank is not None else {}) | {"replies": list(replies)}


def reply(text: str, rank: int | None, *replies: Record, **more: Any) -> Record:
    return nested(text, *replies, role="assistant", rank=rank, **more)


def ultrafeedback(question: str, good: str, bad: str, scores: tuple[float, float]) -> Record:
    return {
        "prompt": question,
        "prompt_id": "f0e37e9f7800261167ce91143f98f511f768847236f133f2d0aed60b444ebe57",
        "chosen": [user(question), assistant(good)],
        "rejected": [user(question), assistant(bad)],
        "messages": [user(question), assistant(good)],
        "score_chosen": scores[0],
        "score_rejected": scores[1],
    }


def argilla_ultrafeedback(question: str, good: str, bad: str, ratings: tuple[float, float]) -> Record:
    return {
        "source": "evol_instruct",
        "prompt": question,
        "chosen": [user(question), assistant(good)],
        "chosen-rating": ratings[0],
        "chosen-model": "gpt-4",
        "rejected": [user(question), assistant(bad)],
        "rejected-rating": ratings[1],
        "rejected-model": "alpaca-7b",
    }


def argilla_orca(question: str, *, status: str = "unchanged", gsm: bool = False, score: float = 9.0) -> Record:
    return {
        "system": "You are an AI assistant.",
        "input": question,
        "chosen": f"good {question}",
        "rejected": f"bad {question}",
        "generations": [f"good {question}", f"bad {question}"],
        "order": ["chosen", "rejected"],
        "labelling_model": "gpt-4-1106-preview",
        "labelling_prompt": [user("Judge.")],
        "raw_labelling_response": "9 8",
        "rating": [score, score - 1],
        "rationale": "because",
        "status": status,
        "original_chosen": f"good {question}",
        "original_rejected": f"bad {question}",
        "chosen_score": score,
        "in_gsm8k_train": gsm,
    }


def helpsteer(prompt: str, response: str, helpfulness: int, verbosity: int = 2) -> Record:
    return {
        "prompt": prompt,
        "response": response,
        "helpfulness": helpfulness,
        "correctness": 4,
        "coherence": 4,
        "complexity": 2,
        "verbosity": verbosity,
    }


def safe_pair(question: str, safe: tuple[bool, bool], better: int, safer: int) -> Record:
    replies = {f"response_{n}": f"{question} reply {n}" for n in (0, 1)}
    more: Record = {}
    for n in (0, 1):
        more |= {
            f"is_response_{n}_safe": safe[n],
            f"response_{n}_harm_category": {"Privacy Violation": not safe[n], "White-Collar Crime": False},
            f"response_{n}_severity_level": 0 if safe[n] else 2,
            f"response_{n}_sha256": "0" * 64,
        }
    ids = {"better_response_id": better, "safer_response_id": safer}
    return {"prompt": question, **replies, "prompt_source": "Alpaca3-70B", **more, **ids}


HALOS: Record = {"reward": 0.5, "type": "binary_feedback"}
SAMPLES: dict[str, list[Record]] = {
    "hh-rlhf": [{"chosen": transcript("q1", "good"), "rejected": transcript("q1", "bad")}],
    "hh-rlhf-red-team": [
        {
            "min_harmlessness_score_transcript": -2.07,
            "num_params": "52B",
            "model_type": "rlhf",
            "rating": rating,
            "task_description": "bypass",
            "task_description_harmlessness_score": -1.2,
            "red_team_member_id": 46,
            "is_upworker": True,
            "tags": None,
            "transcript": transcript(f"q{rating}", f"a{rating}"),
        }
        for rating in (0.0, 1.0, 2.0, 3.0, 4.0)
    ],
    "shp": [
        shp("p1", "wins", "loses", (30, 10)),
        shp("p1", "close", "closer", (11, 10)),
        shp("p2", "a", "b", (4, 20)),
    ],
    "oasst": [
        message("m1", None, "q"),
        message("m2", "m1", "best", 0.0),
        message("m3", "m1", "middle", 1.0),
        message("m4", "m1", "worst", 2.0),
        message("m5", "m2", "and then?"),
        message("m6", "m5", "alone", 0.0),
        message("n1", None, "other", tree="t2", lang="de"),
        message("n2", "n1", "deleted", 0.0, tree="t2", lang="de", deleted=True),
        message("n3", "n1", "gut", 1.0, tree="t2", lang="de"),
        message("n4", "n1", "schlecht", 2.0, tree="t2", lang="de"),
        message("n5", "n1", "unranked", reply=True, tree="t2", lang="de"),
    ],
    "oasst-trees": [
        {
            "message_tree_id": "t1",
            "tree_state": "ready_for_export",
            "prompt": nested(
                "q",
                reply("best", 0, nested("and then?", reply("alone", 0))),
                reply("worst", 2),
                reply("middle", 1),
            ),
        }
    ],
    "ultrafeedback": [
        ultrafeedback("q1", "good", "bad", (8.5, 3.0)),
        ultrafeedback("q2", "x", "y", (7.0, 7.0)),
        ultrafeedback("q3", "bit better", "bit worse", (7.0, 6.5)),
    ],
    "ultrafeedback-argilla": [
        argilla_ultrafeedback("q1", "good", "bad", (5.0, 1.0)),
        argilla_ultrafeedback("q2", "x", "y", (4.0, 4.0)),
    ],
    "ultrafeedback-trl": [
        {
            "chosen": [user("q1"), assistant("good")],
            "rejected": [user("q1"), assistant("bad")],
            "score_chosen": 8.0,
            "score_rejected": 4.0,
        }
    ],
    "kto-mix": [
        {
            "prompt": "q1",
            "completion": [user("q1"), assistant("good")],
            "label": True,
            "rating": 5.0,
            "dataset": "argilla/ultrafeedback-binarized-preferences-cleaned",
        },
        {"prompt": "q2", "completion": [assistant("bad")], "label": False, "rating": 2.0, "dataset": "x"},
    ],
    "capybara-kto": [
        {
            "prompt": "q2",
            "completion": [user("q1"), assistant("a1"), user("q2"), assistant("good")],
            "label": True,
            "rating": 5,
            "model": "capybara",
            "source": "Airoboros",
        },
        {
            "prompt": "someone else's",
            "completion": [user("q1"), assistant("a1")],
            "label": True,
            "rating": 5,
            "model": "capybara",
            "source": "Airoboros",
        },
    ],
    "orca-pairs": [
        {"system": "Be kind.", "question": "q1", "chosen": "good", "rejected": "bad"},
        {"system": "", "question": "q2", "chosen": "fine", "rejected": "poor"},
    ],
    "orca-pairs-argilla": [argilla_orca("q1"), argilla_orca("q2", status="tie"), argilla_orca("q3", gsm=True)],
    "helpsteer2": [
        helpsteer("q1", "good", 3),
        helpsteer("q1", "bad", 1, verbosity=4),
        helpsteer("q2", "middling", 2),
        helpsteer("q3\n<extra_id_1>Assistant\na3\n<extra_id_1>User\nq4", "great", 4),
    ],
    "pku-saferlhf": [safe_pair("q1", (True, False), 1, 0), safe_pair("q2", (True, True), 0, 1)],
    "tulu-3": [
        {
            "id": "d1",
            "source": "ultrafeedback",
            "prompt": "q2",
            "chosen": [user("q1"), assistant("a1"), user("q2"), assistant("good")],
            "rejected": [user("q1"), assistant("a1"), user("q2"), assistant("bad")],
        }
    ],
    "dahoas": [{"prompt": "\n\nHuman: q1\n\nAssistant:", "response": " good", "chosen": " good", "rejected": " bad"}],
    "reviewer2": [{"prompt": "q1", "chosen": "good", "rejected": "bad"}],
    "pairs": [{"prompt": "q1", "chosen": "good", "rejected": "bad"}],
    "scored-pairs": [
        {
            "dataset": "capybara",
            "chosen": [user("q1"), assistant("good")],
            "rejected": [user("q1"), assistant("bad")],
            "chosen_rating": 5.0,
            "rejected_rating": 3.0,
        }
    ],
    "llama-factory-dpo": [
        {
            "conversations": [{"from": "human", "value": "q1"}],
            "chosen": {"from": "gpt", "value": "good"},
            "rejected": {"from": "gpt", "value": "bad"},
        }
    ],
    "llama-factory-kto": [
        {"messages": [user("q1"), assistant("good")], "label": True},
        {"messages": [user("q1"), assistant("bad")], "label": False},
    ],
    "axolotl-kto": [
        {"system": "Be kind.", "prompt": "q1", "completion": "good", "label": True},
        {"system": "Be kind.", "prompt": "q1", "completion": "bad", "label": False},
    ],
    "axolotl-dpo": [{"system": "Be kind.", "instruction": "q1", "chosen_response": "good", "rejected_response": "bad"}],
    "halos-kto": [
        {"prompt_id": "1", "prompt": [user("q1")], "output": [assistant(reply)], "label": label, **HALOS}
        for reply, label in (("good", 1), ("bad", 0))
    ],
    "halos-pairs": [
        {
            "prompt_id": "1",
            "prompt": [user("q1")],
            "output_A": [assistant("bad")],
            "output_B": [assistant("good")],
            "label": 0,
            "type": "pairwise_feedback",
        }
    ],
    "rows": [
        {"prompt": "q1", "completion": "good", "label": True},
        {"prompt": "q1", "completion": "bad", "label": False},
    ],
}
# The same layouts with columns that a record may have or not, and by the other names that columns may have: for tests
# of what may be in them.
VARIANTS: dict[str, list[Record]] = {
    "shp": [{key: value for key, value in shp("p3", "a", "b", (30, 10)).items() if key != "score_ratio"}],
    "oasst": [
        {"message_id": "r1", "message_tree_id": "r1", "text": "q", "role": "prompter"},
        {"message_id": "r2", "text": "q", "role": "prompter"},
    ],
    "oasst-trees": [{"prompt": nested("q", reply("best", 0), reply("worst", 1))}],
    "orca-pairs": [
        {"system": None, "question": "q1", "chosen": [assistant("good")], "rejected": [assistant("bad")]},
        {"system": "Be kind.", "input": "q1", "chosen": "good", "rejected": "bad"},
    ],
    "pku-saferlhf": [
        {"prompt": "q1", "response_0": "a", "response_1": "b", "better_response_id": 0, "safer_response_id": 1}
    ],
    "pairs": [
        {"chosen": [user("q1"), assistant("good")], "rejected": [user("q1"), assistant("bad")], "system": "Be kind."},
        {"prompt": [user("q1")], "chosen": [assistant("good")], "rejected": [assistant("bad")], "system": None},
        {"prompt": [user("q1")], "chosen": "good", "rejected": "bad"},
        {"prompt": None, "chosen": transcript("q1", "good"), "rejected": transcript("q1", "bad")},
    ],
    "scored-pairs": [
        {"chosen": [user("q1"), assistant("good")], "rejected": [user("q1"), assistant("bad")], first: 5.0, second: 3.0}
        for first, second in SCORES
    ],
    "orca-pairs-argilla": [
        {"question" if name == "input" else name: value for name, value in argilla_orca("q4").items()},
    ],
    "axolotl-kto": [
        {"system": None, name: "q1", "completion": "good", "label": True} for name in ("instruction", "question")
    ],
    "axolotl-dpo": [{"input": "q1", "chosen": "good", "rejected": "bad"}],
    "llama-factory-dpo": [
        {
            "instruction": "q1",
            "input": "more of it",
            "system": "Be kind.",
            "history": [["q0", "a0"]],
            "chosen": "good",
            "rejected": "bad",
        },
        {"messages": [user("q1")], "system": "Be kind.", "chosen": assistant("good"), "rejected": assistant("bad")},
    ],
    "llama-factory-kto": [
        {
            "instruction": "q1",
            "input": "",
            "system": "",
            "history": [["q0", "a0"], ["q00", "a00"]],
            "output": "good",
            "kto_tag": True,
        },
        {"conversations": [user("q1"), assistant("good")], "system": "Be kind.", "label": True},
        {"conversations": [user("q1"), assistant("good")], "kto_tag": True},
        {"messages": [user("q1"), assistant("good")], "kto_tag": False},
    ],
    "rows": [
        {
            "prompt": [user("q1")],
            "completion": [assistant("good")],
            "label": True,
            "system": "Be kind.",
            "source": "s",
            "origin": "pair",
            "strategy": "",
            "parent_id": "",
            "id": "x",
            "prompt_id": "y",
        }
    ],
}
PAIR = [("q1", "good", True), ("q1", "bad", False)]
TRANSCRIPT = "\n\nHuman: {}\n\nAssistant:"
EXPECTED: dict[str, list[tuple[str, str, bool]]] = {
    name: PAIR for name in SAMPLES if name not in ("hh-rlhf", "hh-rlhf-red-team", "shp", "oasst", "helpsteer2")
} | {
    "hh-rlhf": [(TRANSCRIPT.format("q1"), " good", True), (TRANSCRIPT.format("q1"), " bad", False)],
    "hh-rlhf-red-team": [
        (TRANSCRIPT.format(f"q{rating}"), f" a{rating}", rating < 2) for rating in (0.0, 1.0, 3.0, 4.0)
    ],
    "shp": [
        ("history of p1", "wins", True),
        ("history of p1", "loses", False),
        ("history of p2", "b", True),
        ("history of p2", "a", False),
    ],
    "oasst": [("q", "best", True), ("q", "worst", False), ("other", "gut", True), ("other", "schlecht", False)],
    "oasst-trees": [("q", "best", True), ("q", "worst", False)],
    "ultrafeedback": [*PAIR, ("q3", "bit better", True), ("q3", "bit worse", False)],
    "kto-mix": [("q1", "good", True), ("q2", "bad", False)],
    "capybara-kto": [("q2", "good", True)],
    "orca-pairs": [*PAIR, ("q2", "fine", True), ("q2", "poor", False)],
    "orca-pairs-argilla": [("q1", "good q1", True), ("q1", "bad q1", False)],
    "helpsteer2": [*PAIR, ("q4", "great", True)],
    "pku-saferlhf": [
        ("q1", "q1 reply 0", True),
        ("q1", "q1 reply 1", False),
        ("q2", "q2 reply 0", True),
        ("q2", "q2 reply 1", True),
    ],
    "tulu-3": [("q2", "good", True), ("q2", "bad", False)],
    "dahoas": [(TRANSCRIPT.format("q1"), " good", True), (TRANSCRIPT.format("q1"), " bad", False)],
}
SKIPPED: dict[str, dict[str, int]] = {
    "hh-rlhf-red-team": {"middle rating": 1},
    "shp": {"ratio too small": 2},
    "oasst": {"middle rank": 1, "no other reply to compare with": 1, "deleted": 1, "not ranked": 1},
    "oasst-trees": {"middle rank": 1, "no other reply to compare with": 1},
    "ultrafeedback": {"tie": 2},
    "ultrafeedback-argilla": {"tie": 2},
    "capybara-kto": {"prompts differ": 1},
    "orca-pairs-argilla": {"tie": 2, "in GSM8K": 2},
    "helpsteer2": {"middle rating": 1},
}
