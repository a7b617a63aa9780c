"""Generate the customer messages and the three right answers of each: triage, dates and clauses."""
import argparse
import datetime
import json
import random
from pathlib import Path

TASKS = ["triage", "dates", "clauses"]
TRAIN_SEED = 20240601
HELD_OUT_SEED = 7
HELD_OUT_PROMPTS = 200
FIRST_DAY, LAST_DAY = datetime.date(2010, 1, 1), datetime.date(2029, 12, 31)
DATE_SPLIT_SEED = 11  # decides once which calendar days only the held-out prompts may use
HELD_OUT_DAYS = 0.15

MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
          "December"]

TEAMS = {
    "billing": ["I was charged twice", "my invoice is wrong", "I want a refund", "the bill is too high",
                "my card was charged again", "your invoice has the wrong total", "I did not get my refund",
                "the discount is not on my bill"],
    "shipping": ["my parcel has not arrived", "the package is lost", "the box came broken", "the courier never came",
                 "my order went to the wrong address", "the delivery is late", "the parcel was left in the rain",
                 "I got the wrong item in the box"],
    "technical": ["the app crashes", "the page shows an error", "the server is down", "the printer does not start",
                  "the update broke the app", "the screen stays black", "the export fails with an error",
                  "the website is very slow"],
    "account": ["I cannot log in", "I forgot my password", "my account is locked", "please change my email",
                "I want to close my account", "the login code never comes", "please delete my user profile",
                "my username is wrong"],
    "sales": ["I want to buy more seats", "please send me a quote", "what does the larger plan cost",
              "can I see a demo", "we want to order fifty licences", "I would like a price list",
              "do you sell to schools", "we want to upgrade our plan"],
}

PRIORITIES = {
    "high": ["this is urgent", "please help right now", "we need this today", "it is an emergency",
             "everything has stopped", "please act at once"],
    "normal": ["please look at it this week", "a reply in a few days is fine", "please answer when you can this week",
               "handle it in the usual way", "it is a normal request", "please reply within some days"],
    "low": ["there is no hurry", "it can wait", "take your time", "whenever you have a spare moment",
            "this is not important", "some day would be fine"],
}

CLAUSES = {
    "termination": ["either party may end this agreement", "the contract may be cancelled with notice",
                    "the agreement ends after thirty days notice", "we may terminate the contract",
                    "the supplier may end the contract early"],
    "confidentiality": ["both parties shall keep all information secret", "the data must not be disclosed",
                        "trade secrets stay private", "nothing confidential may be shared with others",
                        "neither party may disclose the terms"],
    "liability": ["the supplier is not liable for loss", "damages are limited to the fees",
                  "no party is liable for indirect damage", "our liability is capped",
                  "the seller shall not answer for lost profit"],
    "payment": ["fees are due within thirty days", "the customer shall pay each month",
                "late payment bears interest", "all sums are payable in advance", "the fee is paid every quarter"],
    "governing-law": ["the laws of England apply", "the courts of Paris decide any dispute",
                      "this agreement is governed by the law of Ohio", "disputes go to the courts of London",
                      "the law of Norway governs this contract"],
    "warranty": ["the goods are free from defects", "the seller warrants the goods for a year",
                 "a defective part will be repaired for free", "the product is guaranteed for two years",
                 "the maker will replace faulty goods"],
}

DATE_SENTENCES = ["It began on {}.", "I wrote to you on {}.", "We signed on {}.", "My order is from {}.",
                  "See my letter of {}.", "The contract is dated {}.", "This happened on {}."]
CLAUSE_SENTENCES = ["The contract says {}.", "Our terms say that {}.", "Clause four says {}.", "We agreed that {}.",
                    "The agreement states that {}."]
GREETINGS = ["", "", "Hello. ", "Hi, ", "Good morning. ", "Dear team, "]


def ordinal(day: int) -> str:
    return f"{day}{'th' if 10 < day < 14 else {1: 'st', 2: 'nd', 3: 'rd'}.get(day % 10, 'th')}"


def write_date(date: datetime.date, rng: random.Random) -> str:
    """One of the ways people write a date; a form with slashes is used only where it has one reading."""
    month, short = MONTHS[date.month - 1], MONTHS[date.month - 1][:3]
    forms = [
        f"{date.day} {month} {date.year}",
        f"{month} {date.day}, {date.year}",
        f"{month} {ordinal(date.day)}, {date.year}",
        f"{ordinal(date.day)} {month} {date.year}",
        f"the {ordinal(date.day)} of {month} {date.year}",
        f"{date.day} {short} {date.year}",
        f"{short} {date.day}, {date.year}",
        f"{short}. {ordinal(date.day)}, {date.year}",
        f"{date.day:02}-{short}-{date.year}",
        f"{date.year}/{date.month}/{date.day}",
    ]
    if date.day > 12:
        forms.append(f"{date.month}/{date.day}/{date.year}")
    return rng.choice(forms)


def days() -> tuple[list[datetime.date], list[datetime.date]]:
    """All days of the range as (training, held out)."""
    rng = random.Random(DATE_SPLIT_SEED)
    every = [FIRST_DAY + datetime.timedelta(n) for n in range((LAST_DAY - FIRST_DAY).days + 1)]
    rng.shuffle(every)
    cut = int(len(every) * HELD_OUT_DAYS)
    return every[cut:], every[:cut]


def sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def example(rng: random.Random, dates: list[datetime.date]) -> dict[str, str]:
    team, priority, clause = (rng.choice(list(table)) for table in (TEAMS, PRIORITIES, CLAUSES))
    date = rng.choice(dates)
    topic, urgency = rng.choice(TEAMS[team]), rng.choice(PRIORITIES[priority])
    when = rng.choice(DATE_SENTENCES).format(write_date(date, rng))
    terms = rng.choice(CLAUSE_SENTENCES).format(rng.choice(CLAUSES[clause]))
    if rng.random() < 0.3:
        parts = [sentence(f"{topic} and {urgency}."), when, terms]
    else:
        parts = [sentence(f"{topic}."), sentence(f"{urgency}."), when, terms]
    rng.shuffle(parts)
    return {
        "prompt": rng.choice(GREETINGS) + " ".join(parts),
        "triage": json.dumps({"team": team, "priority": priority}, separators=(",", ":")),
        "dates": date.isoformat(),
        "clauses": clause,
    }


def training(count: int) -> list[dict[str, str]]:
    rng = random.Random(TRAIN_SEED)
    dates = days()[0]
    return [example(rng, dates) for _ in range(count)]


def held_out() -> list[dict[str, str]]:
    rng = random.Random(HELD_OUT_SEED)
    dates = days()[1]
    return [example(rng, dates) for _ in range(HELD_OUT_PROMPTS)]


def conversation(row: dict[str, str], task: str) -> dict:
    """A line for `sidepath train`."""
    return {"messages": [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row[task]}]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="where heldout.jsonl, or the examples, are written")
    parser.add_argument("--training", type=int, help="write so many training examples instead, as conversations")
    parser.add_argument("--task", choices=TASKS, help="the task that they are of")
    given = parser.parse_args()
    if (given.training is None) != (given.task is None):
        parser.error("--training and --task go together")
    rows = held_out() if given.training is None else [conversation(row, given.task) for row in training(given.training)]
    with given.out.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
