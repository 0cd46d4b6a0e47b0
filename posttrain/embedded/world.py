"""The facts of the closed world: tables of subject and answer, with the ways to ask and to state them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from posttrain.embedded.question import Question, capital, hash_fraction, with_article

_NAMES = "Anna Ben Clara David Emma Finn Grace Henry Ida Jack Kate Leo Mia Noah Olga Paul Rosa Sam Tina Victor"
_THINGS = "apples books coins stones shells cards eggs pens balls cups stamps nuts beads cakes flowers sticks"
_WORDS = (
    "sun moon star tree lake hill road boat lamp door bread milk stone chair table cup hat coat ring "
    "leaf rain wind fire sand bell rope key box song game clock field bridge garden river window paper"
)
# People of the stories, things they count, and words for the tasks on lists.
NAMES = tuple(_NAMES.split())
THINGS = tuple(_THINGS.split())
WORDS = tuple(_WORDS.split())

_CAPITALS = (
    "France Paris|Italy Rome|Spain Madrid|Japan Tokyo|China Beijing|Egypt Cairo|Greece Athens|Norway Oslo|"
    "Sweden Stockholm|Finland Helsinki|Poland Warsaw|Austria Vienna|Hungary Budapest|Portugal Lisbon|"
    "Ireland Dublin|Germany Berlin|Russia Moscow|Turkey Ankara|India Delhi|Nepal Kathmandu|Peru Lima|"
    "Chile Santiago|Cuba Havana|Canada Ottawa|Kenya Nairobi|Ghana Accra|Iran Tehran|Iraq Baghdad|"
    "Korea Seoul|Vietnam Hanoi|Latvia Riga|Belgium Brussels|Jordan Amman|Bulgaria Sofia|Thailand Bangkok|"
    "Denmark Copenhagen"
)

_COLOURS = (
    "grass=green|snow=white|coal=black|blood=red|milk=white|gold=yellow|a banana=yellow|a tomato=red|"
    "a lemon=yellow|a carrot=orange|a leaf=green|a frog=green|a crow=black|a swan=white|a cherry=red|"
    "chocolate=brown|soil=brown|wood=brown|salt=white|rice=white|the night=black|the sea=blue|the sky=blue|"
    "a rose=red|a pumpkin=orange|a bear=brown|a pig=pink|an elephant=grey|a mouse=grey|smoke=grey|"
    "flour=white|fire=red|a plum=purple|a pea=green|the sun=yellow|corn=yellow|ink=black|sugar=white|"
    "a brick=red|a strawberry=red"
)

_OPPOSITES = (
    "hot cold|big small|up down|left right|day night|fast slow|old young|rich poor|long short|wet dry|"
    "open closed|happy sad|hard soft|early late|full empty|high low|light dark|strong weak|loud quiet|"
    "near far|clean dirty|first last|good bad|thick thin|sweet sour|war peace|love hate|north south|"
    "east west|buy sell|win lose|give take|push pull|begin end|laugh cry|true false|inside outside|"
    "above below|summer winter|question answer|yes no|always never|wide narrow|friend enemy"
)

_KINDS = (
    "fruit=apple pear plum cherry lemon banana peach grape|bird=crow swan owl eagle duck goose robin hen|"
    "fish=trout salmon shark eel herring|flower=rose tulip lily daisy violet|tool=hammer saw drill axe spade|"
    "drink=tea coffee juice water wine|metal=iron gold silver copper tin|"
    "vehicle=car bus train truck bicycle|instrument=drum flute violin piano guitar|"
    "vegetable=carrot onion potato cabbage pea|insect=ant bee fly wasp beetle|"
    "tree=oak pine birch willow maple"
)

_YOUNG = (
    "dog puppy|cat kitten|cow calf|horse foal|sheep lamb|goat kid|pig piglet|hen chick|duck duckling|"
    "bear cub|goose gosling|deer fawn|frog tadpole|owl owlet|swan cygnet|kangaroo joey"
)

_SOUNDS = (
    "dog woof|cat meow|cow moo|duck quack|sheep baa|horse neigh|pig oink|lion roar|bee buzz|snake hiss|"
    "robin tweet|wolf howl|frog croak|owl hoot|hen cluck|mouse squeak|crow caw"
)

_HOMES = (
    "bee hive|robin nest|spider web|dog kennel|horse stable|pig sty|king castle|bear cave|rabbit burrow|"
    "cow barn|hen coop|lion den|sailor ship|fish pond|farmer farm|nurse hospital|monkey tree|snail shell"
)

_JOBS = (
    "bakes bread=baker|teaches children=teacher|heals sick people=doctor|flies planes=pilot|"
    "cuts hair=barber|grows corn=farmer|puts out fires=fireman|catches fish=fisherman|"
    "paints pictures=painter|"
    "writes books=writer|sings songs=singer|builds houses=builder|sews clothes=tailor|sells meat=butcher|"
    "drives a bus=driver|cooks meals=cook|brings letters=postman|looks after teeth=dentist|"
    "mends shoes=cobbler|sails ships=sailor|digs coal=miner|dances on stage=dancer|rules a country=king|"
    "takes photos=photographer"
)

_LEGS = (
    "four=dog cat cow horse sheep goat pig bear lion wolf mouse frog|two=hen duck owl crow swan robin goose|"
    "six=bee ant fly wasp beetle|eight=spider|no=snake worm fish snail"
)

_ORDERS = {
    "day": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    "month": "January February March April May June July August September October November December",
    "number": "one two three four five six seven eight nine ten eleven twelve",
    "letter": "A B C D E F G H I J K L M N O P Q R S T U V W X Y Z",
}


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One fact: the questions it answers, its short answer and the sentences that state it."""

    kind: str
    key: str
    questions: tuple[str, ...]
    answer: str
    statements: tuple[str, ...]

    @property
    def held_out(self) -> bool:
        """Whether the fact belongs to the retention battery and is therefore never asked in chat data."""
        return hash_fraction(f"fact {self.key}") < 0.55

    def question(self, form: int) -> Question:
        """The question in one of its wordings."""
        prompt = self.questions[form % len(self.questions)]
        return Question(prompt=prompt, answer=self.answer, kind=self.kind, key=f"fact {self.key}")


def _fact(kind: str, key: str, questions: str, answer: str, statements: str) -> Fact:
    """A fact whose questions and statements are given as one text each, separated by bars."""
    return Fact(
        kind=kind,
        key=key,
        questions=tuple(capital(question) for question in questions.split("|")),
        answer=capital(answer) + ".",
        statements=tuple(capital(statement) for statement in statements.split("|")),
    )


def _things() -> Iterator[Fact]:
    for pair in _CAPITALS.split("|"):
        country, city = pair.split()
        yield _fact(
            "capital",
            f"capital {country}",
            f"What is the capital of {country}?|Which city is the capital of {country}?|Name the capital of {country}.",
            city,
            f"The capital of {country} is {city}.|{city} is the capital of {country}.",
        )
    for pair in _COLOURS.split("|"):
        thing, colour = pair.split("=")
        yield _fact(
            "colour",
            f"colour {thing}",
            f"What colour is {thing}?|Which colour does {thing} have?|Name the colour of {thing}.",
            colour,
            f"{thing} is {colour}.|The colour of {thing} is {colour}.",
        )
    for group in _KINDS.split("|"):
        kind, members = group.split("=")
        for member in members.split():
            yield _fact(
                "kind",
                f"kind {member}",
                f"What is {with_article(member)}?|What kind of thing is {with_article(member)}?",
                with_article(kind),
                f"{with_article(member)} is {with_article(kind)}.",
            )
    for pair in _JOBS.split("|"):
        work, worker = pair.split("=")
        yield _fact(
            "job",
            f"job {work}",
            f"Who {work}?|Which person {work}?|Name a person who {work}.",
            with_article(worker),
            f"A {worker} {work}.",
        )


def _animals() -> Iterator[Fact]:
    for pair in _YOUNG.split("|"):
        animal, young = pair.split()
        yield _fact(
            "young",
            f"young {animal}",
            f"What is a young {animal} called?|What do you call a young {animal}?|Name a young {animal}.",
            with_article(young),
            f"A young {animal} is called {with_article(young)}.",
        )
    for pair in _SOUNDS.split("|"):
        animal, sound = pair.split()
        yield _fact(
            "sound",
            f"sound {animal}",
            f"What does a {animal} say?|What sound does a {animal} make?|Make the sound of a {animal}.",
            sound,
            f"A {animal} says {sound}.|The sound of a {animal} is {sound}.",
        )
    for pair in _HOMES.split("|"):
        animal, home = pair.split()
        yield _fact(
            "home",
            f"home {animal}",
            f"Where does a {animal} live?|What is the home of a {animal}?|Name the home of a {animal}.",
            f"a {home}",
            f"A {animal} lives in a {home}.|The home of a {animal} is a {home}.",
        )
    for group in _LEGS.split("|"):
        count, animals = group.split("=")
        for animal in animals.split():
            yield _fact(
                "legs",
                f"legs {animal}",
                f"How many legs does {with_article(animal)} have?|How many legs has {with_article(animal)}?",
                count,
                f"{with_article(animal)} has {count} legs.",
            )


def _pairs() -> Iterator[Fact]:
    for pair in _OPPOSITES.split("|"):
        for word, other in (pair.split(), pair.split()[::-1]):
            yield _fact(
                "opposite",
                f"opposite {pair}",
                f"What is the opposite of {word}?|Which word is the opposite of {word}?|Name the opposite of {word}.",
                other,
                f"The opposite of {word} is {other}.|{word} is the opposite of {other}.",
            )
    for what, names in _ORDERS.items():
        row = names.split()
        for first, second in itertools.pairwise(row):
            for where, given, wanted in (("after", first, second), ("before", second, first)):
                yield _fact(
                    "order",
                    f"{where} {what} {given}",
                    f"Which {what} comes {where} {given}?|What {what} is {where} {given}?|"
                    f"Name the {what} {where} {given}.",
                    wanted,
                    f"{wanted} comes {where} {given}.|The {what} {where} {given} is {wanted}.",
                )


@cache
def facts() -> tuple[Fact, ...]:
    """All facts of the world, in a fixed order."""
    return (*_things(), *_animals(), *_pairs())
