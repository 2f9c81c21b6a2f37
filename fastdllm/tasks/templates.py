"""The sentences that the arithmetic problems are written in.

`QUESTION[step]` holds the wordings of one kind of step: `trained` ones, used by the splits train and test, and
`held_out` ones, used by the split wordings and by nothing else. Fields: {n} and {m} are people, {x} and {y} things,
{a} {b} {c} numbers. `ANSWER[step]` holds the lines of the worked answer, {e} being an equation such as `12+5=17`.
"""

from __future__ import annotations

from dataclasses import dataclass

NAMES = ("Emma", "Sam", "Mia", "Leo", "Ava", "Ben", "Zoe", "Max", "Lily", "Tom", "Anna", "Jack")
THINGS = ("apples", "pens", "books", "cards", "coins", "shells", "stamps", "eggs", "toys", "cups", "balls", "stones")
DAYS = ("Monday", "Tuesday", "Friday", "Sunday")


@dataclass(frozen=True)
class Wordings:
    """The ways to say one kind of step."""

    trained: tuple[str, ...]
    held_out: tuple[str, ...]


QUESTION: dict[str, Wordings] = {
    # chain: one person's things
    "has": Wordings(
        ("{n} has {a} {x}.", "{n} owns {a} {x}.", "{n} starts with {a} {x}.", "At first {n} has {a} {x}.",
         "There are {a} {x} in the bag of {n}.", "In the morning {n} has {a} {x}."),
        ("In the bag {n} has {a} {x}.", "At first there are {a} {x} in the bag of {n}."),
    ),
    "gain": Wordings(
        ("{n} buys {b} more.", "Then {n} finds {b} {x}.", "A friend gives {n} {b} {x}.", "{n} gets {b} more {x}.",
         "{n} adds {b}.", "Later {n} picks up {b} more {x}."),
        ("Later a friend gives {n} {b} more.", "Then {n} buys {b} {x}."),
    ),
    "lose": Wordings(
        ("{n} gives away {b}.", "Then {n} loses {b} {x}.", "{n} sells {b} {x}.", "A friend takes {b} from {n}.",
         "{n} uses {b} of the {x}.", "Later {n} drops {b}."),
        ("Later {n} gives away {b} {x}.", "Then a friend takes {b} of the {x} from {n}."),
    ),
    "multiply": Wordings(
        ("Then {n} has {b} times as many.", "Soon {n} owns {b} times as many {x}.", "{n} makes it {b} times as many.",
         "{n} gets {b} times that number.", "The number of {x} grows {b} times."),
        ("Soon the number grows {b} times.", "Later {n} has {b} times that number of {x}."),
    ),
    "share": Wordings(
        ("{n} splits them into {b} equal parts and keeps one.", "{n} keeps one of {b} equal parts.",
         "{b} friends share them equally with one part for {n}.", "{n} makes {b} equal piles and takes one.",
         "Only one of {b} equal piles stays with {n}."),
        ("{n} splits them into {b} equal piles and takes one.", "Only one of {b} equal parts stays."),
    ),
    "ask_has": Wordings(
        ("How many {x} does {n} have now?", "How many {x} are left with {n}?", "How many does {n} have in the end?",
         "What number of {x} does {n} have?", "Count the {x} that {n} has now."),
        ("What number of {x} are left with {n} in the end?", "Count the {x} of {n} in the end."),
    ),
    # compare: several people's things
    "first": Wordings(
        ("At first {n} has {a} {x}.", "There are {a} {x} in the bag of {n}.", "In the morning {n} has {a} {x}.",
         "We know that {n} has {a} {x}.", "Say that {n} owns {a} {x}."),
        ("At first there are {a} {x} in the bag of {n}.", "We know that {n} owns {a} {x}."),
    ),
    "more": Wordings(
        ("{n} has {b} more than {m}.", "{n} has {b} more {x} than {m}.", "{n} owns {b} {x} more than {m} has.",
         "With {b} more than {m}, {n} comes next.", "To {m}'s {x}, add {b} for {n}."),
        ("{n} owns {b} more {x} than {m}.", "With {b} {x} more than {m}, {n} comes next."),
    ),
    "fewer": Wordings(
        ("{n} has {b} fewer than {m}.", "{n} has {b} fewer {x} than {m}.", "{n} owns {b} {x} fewer than {m} has.",
         "With {b} fewer than {m}, {n} comes next.", "From {m}'s {x}, take {b} for {n}."),
        ("{n} owns {b} fewer {x} than {m}.", "With {b} {x} fewer than {m}, {n} comes next."),
    ),
    "times": Wordings(
        ("{n} has {b} times as many as {m}.", "{n} owns {b} times as many {x} as {m}.",
         "{n} has {b} times the {x} of {m}.", "With {b} times as many as {m}, {n} comes next.",
         "For {n}, take {b} times the number of {m}."),
        ("{n} has {b} times as many {x} as {m}.", "With {b} times the {x} of {m}, {n} comes next."),
    ),
    "ask_one": Wordings(
        ("How many {x} does {n} have?", "How many does {n} own?", "What is the number of {x} of {n}?",
         "Count the {x} of {n}.", "How many {x} are with {n}?"),
        ("How many {x} does {n} own?", "What is the number for {n}?"),
    ),
    "ask_two": Wordings(
        ("How many {x} do {n} and {m} have together?", "How many do {n} and {m} own in all?",
         "What is the total of {n} and {m}?", "Count the {x} of {n} and {m} together.",
         "{n} and {m} put their {x} together. How many are there?"),
        ("What is the total number of {x} of {n} and {m}?", "How many are there with {n} and {m} together?"),
    ),
    "ask_all": Wordings(
        ("How many {x} do they have together?", "How many do they own in all?", "What is the total?",
         "Count all the {x}.", "They put their {x} together. How many are there?"),
        ("What is the total number of {x}?", "How many {x} are there together?"),
    ),
    "ask_gap": Wordings(
        ("How many more {x} does {n} have than {m}?", "How many more than {m} does {n} own?",
         "How far is {n} ahead of {m}?", "By how many {x} does {n} beat {m}?",
         "What is the gap from {m} to {n}?"),
        ("How many {x} is {n} ahead of {m}?", "By how many does {n} beat {m}?"),
    ),
    # shop: prices in dollars
    "buy": Wordings(
        ("{n} buys {a} {x} for {b} dollars each.", "{n} takes {a} {x} at {b} dollars each.",
         "{x} cost {b} dollars each and {n} buys {a}.", "At {b} dollars each, {n} buys {a} {x}.",
         "{n} pays {b} dollars each for {a} {x}."),
        ("At {b} dollars each, {n} takes {a} {x}.", "{x} cost {b} dollars each. {n} takes {a}."),
    ),
    "fee": Wordings(
        ("Sending costs {b} dollars more.", "{n} also pays {b} dollars for a bag.", "The shop adds {b} dollars.",
         "Wrapping adds {b} dollars.", "{n} gives {b} dollars on top."),
        ("Wrapping costs {b} dollars more.", "The shop adds {b} dollars for sending."),
    ),
    "coupon": Wordings(
        ("A coupon takes off {b} dollars.", "{n} uses a coupon for {b} dollars.", "The shop takes {b} dollars off.",
         "{n} saves {b} dollars with a card.", "A friend pays {b} dollars of it."),
        ("With a coupon {n} saves {b} dollars.", "A coupon pays {b} dollars of it."),
    ),
    "ask_cost": Wordings(
        ("How many dollars does {n} pay?", "What does {n} pay in all?", "How much is it in total?",
         "What is the cost for {n}?", "Count the dollars that {n} pays."),
        ("How much does {n} pay in total?", "What is the total cost in dollars?"),
    ),
    "ask_change": Wordings(
        ("{n} had {b} dollars. How much is left?", "How much change does {n} get from {b} dollars?",
         "{n} pays with {b} dollars. What is the change?", "What is left of the {b} dollars of {n}?",
         "Of {b} dollars, how many stay with {n}?"),
        ("{n} had {b} dollars. What is the change?", "Of {b} dollars, how much is left with {n}?"),
    ),
    # rate: so many per hour
    "rate": Wordings(
        ("On {d} {n} makes {a} {x} an hour for {b} hours.", "On {d}, for {b} hours, {n} makes {a} {x} per hour.",
         "{n} works {b} hours on {d} at {a} {x} an hour.", "Each hour of {d} {n} makes {a} {x}, for {b} hours.",
         "In {b} hours on {d}, {n} makes {a} {x} per hour."),
        ("On {d} {n} works {b} hours and makes {a} {x} per hour.", "At {a} {x} an hour, {n} works {b} hours on {d}."),
    ),
    "goal": Wordings(
        ("{n} needs {a} {x}.", "{n} wants to make {a} {x}.", "{n} must make {a} {x}.",
         "A shop orders {a} {x} from {n}.",
         "The goal of {n} is {a} {x}."),
        ("A shop wants {a} {x} from {n}.", "The goal is to make {a} {x} for {n}."),
    ),
    "ready": Wordings(
        ("{b} are ready.", "{n} has {b} ready.", "{b} {x} are done.", "Of these, {b} are made.",
         "{n} finds {b} of them."),
        ("Of these, {n} has {b} ready.", "{b} {x} are made."),
    ),
    "ask_hours": Wordings(
        ("At {b} per hour, how many hours does {n} need?", "{n} makes {b} an hour. How many hours are left?",
         "How long does {n} work at {b} per hour?", "How many hours is that at {b} an hour?",
         "Each hour gives {b} more. How many hours are needed?"),
        ("At {b} an hour, how long does {n} work?", "Each hour gives {b}. How many hours does {n} need?"),
    ),
    "ask_made": Wordings(
        ("How many {x} does {n} make?", "How many {x} are made in all?", "What is the total of {n}?",
         "How many does {n} have in the end?", "Count the {x} that {n} has."),
        ("How many {x} does {n} make in all?", "What is the total in the end?"),
    ),
    # box: packed things
    "boxes": Wordings(
        ("There are {a} boxes with {b} {x} each.", "{n} has {a} boxes of {b} {x}.",
         "{n} fills {a} boxes with {b} {x} each.",
         "Each of {a} boxes holds {b} {x}.", "A shop gets {a} boxes with {b} {x} in each."),
        ("{n} gets {a} boxes with {b} {x} in each.", "There are {a} boxes. Each holds {b} {x}."),
    ),
    "broken": Wordings(
        ("{b} {x} are broken.", "{b} of them are sold.", "{n} throws away {b}.", "{b} are lost on the way.",
         "{n} keeps {b} {x} out."),
        ("{b} {x} are lost.", "On the way {b} of them are broken."),
    ),
    "added": Wordings(
        ("{b} more are added.", "{n} brings {b} more {x}.", "{n} puts in {b} more.", "Then {b} {x} are added.",
         "{b} more {x} come later."),
        ("Later {b} more are added.", "Then {n} brings {b} {x}."),
    ),
    "pack": Wordings(
        ("They go into bags of {b}.", "{n} packs bags of {b} {x}.", "{n} puts {b} into each bag.",
         "Every bag takes {b} {x}.", "They are packed by {b} into bags."),
        ("{n} packs {b} {x} into each bag.", "Every bag holds {b}."),
    ),
    "ask_bags": Wordings(
        ("How many bags are there?", "How many bags does {n} get?", "How many bags are full?", "Count the bags.",
         "What number of bags is that?"),
        ("What number of bags are full?", "Count the bags that {n} gets."),
    ),
    "ask_left": Wordings(
        ("How many {x} are there?", "How many {x} are left?", "How many is that?", "Count the {x}.",
         "What number of {x} stays?"),
        ("What number of {x} are left?", "How many {x} is that?"),
    ),
    "ask_price": Wordings(
        ("Each bag costs {b} dollars. What do they all cost?", "{n} sells each bag for {b} dollars. How much is it?",
         "How many dollars does {n} get at {b} dollars a bag?", "What are all bags worth at {b} dollars each?",
         "A bag brings {b} dollars. How much is that in all?"),
        ("Each bag brings {b} dollars. What are they all worth?",
         "At {b} dollars a bag, how many dollars is it in all?"),
    ),
}

# The lines of the worked answer: more than one way to say it, so that a decoder that fills two places at once can
# contradict itself. Problems of four and five steps take the short ways.
ANSWER: dict[str, tuple[str, ...]] = {
    "own": ("{n} has {e} {x}.", "Now {n} has {e} {x}.", "That makes {e} {x}."),
    "short": ("{e}.", "So {e}.", "Then {e}."),
    "person": ("From {m} to {n}: {e} {x}.", "To {n} from {m}: {e} {x}."),
    "person_short": ("From {m} to {n}: {e}.", "To {n} from {m}: {e}."),
    "sum": ("Together {e}.", "In all {e}."),
    "sum_two": ("For {n} and {m}: {e}.", "With {m} and {n}: {e}."),
    "sum_next": ("Add {n}: {e}.", "And {n}: {e}."),
    "cost": ("The {x} cost {e} dollars.", "{n} pays {e} dollars for {x}."),
    "cost_short": ("{x}: {e}.", "{e} for {x}."),
    "money": ("That is {e} dollars.", "So {e} dollars."),
    "day": ("On {d} {n} makes {e} {x}.", "{d} gives {e} {x}."),
    "day_short": ("{d}: {e}.", "{e} on {d}."),
    "time": ("It takes {e} hours.", "That is {e} hours."),
    "things": ("There are {e} {x}.", "That makes {e} {x}."),
    "bags": ("There are {e} bags.", "That makes {e} bags."),
}
