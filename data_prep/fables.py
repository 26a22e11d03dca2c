"""Fables: an endless corpus of children's stories whose probability is known exactly.

Every choice in a story is uniform over a finite list and shows in the text at once, so a story has one derivation and
p(story) = 1 / (n1 * n2 * ... * nk). The mean of `nats` over a set of stories is therefore the loss of the perfect model
on them: any other can be below it only by luck. The end of a story follows from its text, hence costs nothing.

The grammar is the text below, in this notation:
    [thing]        some thing: a word of that table which this story has not chosen before
    {thing}        the thing: chosen like [thing] where it is first mentioned, and the same word ever after; {thing2} is
                   another thing, and {hero} and {friend} are names
    {friend.he}    what goes with the friend: column "he" of the row chosen; {he}, {him} and {his} are the hero's
    (this|that)    one of these passages; each opens with text, and no opening begins another
    <friends>      the passage of that name, as it stands
    /              a new paragraph
A capital ({He}, [Soon]) capitalises the word, and "a" before a word becomes "an" where it must.
"""

import random
import re
from collections.abc import Collection, Iterator, Sequence
from itertools import count, pairwise
from math import log
from typing import NamedTuple

GIRLS = "Anna Bella Clara Daisy Ella Fern Grace Hazel Ivy Jane Kate Lucy Mia Nora Olive Penny Ruby Sophie Tess Zoe"
BOYS = "Arlo Ben Charlie Dan Eddie Finn George Hugo Isaac Jack Leo Max Ned Oscar Peter Ralph Sam Toby Victor Paul"
NAMES = [f"{girl}/she/her/her" for girl in GIRLS.split()] + [f"{boy}/he/him/his" for boy in BOYS.split()]

# One table: its name and other columns, then its rows, with "_" for a space. An indented line continues the last one.
WORDS = f"""
name/he/him/his: {" ".join(NAMES)}
elder: mother father grandmother grandfather aunt uncle sister brother cousin teacher neighbor godmother
animal: bear fox rabbit mouse badger otter beaver deer owl duck goose frog toad turtle mole lamb goat pony kitten puppy
    piglet calf donkey monkey koala panda camel zebra lion tiger wolf lizard hen swan crow parrot seal llama moose snail
    robin cat dog rat bat hare lynx emu yak ox horse cow newt gecko hippo rhino crab wren dove stork heron sloth
trait: kind clever shy gentle quiet funny silly sleepy tiny young busy lively plump little sweet jolly humble tidy eager
    merry chatty cuddly daring giggly hungry lazy loyal modest noisy proud timid wise bouncy grumpy bold calm fair slim
    quick slow tall messy witty peppy spry short strong tough wild cheery smart meek keen nice neat nimble polite
color: red blue green yellow pink purple orange white black brown silver golden gray violet scarlet teal lilac cream
    ivory amber copper indigo navy tan coral lime plum beige rosy ruby jade mint bronze olive pearl rust
quality: shiny lovely pretty old new fancy plain big small strange dusty simple sturdy magic heavy smooth rusty perfect
    rare crooked neat wide striped painted bumpy faded huge light round square funny cheap costly curious dainty famous
    giant glossy grand long lucky mighty odd quaint royal solid spotted thin wobbly nice fine soft clean bent thick
tasty: fresh ripe juicy sweet warm crunchy tasty sour salty crisp soft spicy hot cold sticky yummy dried baked little
    big tiny round fine fried sugary creamy tender smoky wild good grilled minty nutty chewy lumpy flaky iced
weather: sunny cloudy windy rainy foggy chilly bright misty breezy gray mild cool crisp damp dull gloomy hazy pleasant
    stormy drizzly dreary dry wet glorious blustery murky quiet fine fair fresh lovely calm sultry pale mellow
day: morning afternoon evening day Monday Tuesday Wednesday Thursday Friday Saturday Sunday holiday weekend noon
month: January February March April May June July August September October November December
soon: soon right_then suddenly presently shortly later just_then by_and_by before_long at_once at_last in_time
place: river lake pond hill meadow forest garden market beach village farm orchard bridge well barn mill cave harbor
    library bakery school tower castle swamp station inn museum stable canal valley stream temple dock cliff quarry
    palace park bay dune marsh chapel shop fort pier grove glen creek moor mine lodge circus maze zoo hut dairy
under: under behind near beside by beneath next_to close_to
bed: bed door stove chair sofa piano table desk oven bench stairs shelf rug sink bath gate fence shed oak hedge ladder
    barrel chest wall cart porch stool closet bush pump tree window cradle curtain tub log bin mat rock mailbox
thing: kite drum ball hat scarf book lamp bell flute whistle teapot mirror spoon ring crown button ribbon marble puzzle
    wagon cup clock doll purse harp vase pillow box fan comb key lantern medal sled bucket broom flag pencil apron jar
    bowl jug mask tent top wand coin card cane belt boat brush saw rake net pin mug cap coat vest bag pan
dish: cup vase teapot plate jar bowl jug bottle dish mug pitcher saucer goblet tray pot urn kettle flask basin glass
tool: nails rope planks glue straw bricks string paint clay wire cloth moss stones tape sticks wax wool leather paper
food: apples pears plums berries cherries grapes nuts acorns carrots beans turnips pancakes cookies muffins biscuits
    buns pies tarts waffles crackers peaches figs rolls radishes mushrooms lemons olives onions oranges melons peppers
    noodles cupcakes almonds raisins dates peas chips scones bagels leeks limes mangoes yams beets pickles tacos
flavor: apple cherry honey carrot lemon chocolate banana walnut plum pear pumpkin ginger mint peach fig rose nut
number: two three four five six seven eight nine ten eleven twelve thirteen fifteen twenty thirty forty fifty
pair/half: four/two six/three eight/four ten/five twelve/six twenty/ten thirty/fifteen forty/twenty
hobby: draw sing read dance swim knit juggle whistle skate hum row paint climb sail cook sew camp jog nap chat write
    sled surf hike fish play race bake dive float bowl weave rhyme drum box yodel picnic tumble skip explore spin dig
chore/did: feed_the_hens/fed_the_hens water_the_roses/watered_the_roses sweep_the_floor/swept_the_floor
    wash_the_dishes/washed_the_dishes chop_the_wood/chopped_the_wood make_the_beds/made_the_beds
    rake_the_leaves/raked_the_leaves mend_the_fence/mended_the_fence scrub_the_pots/scrubbed_the_pots
    pull_the_weeds/pulled_the_weeds fetch_the_milk/fetched_the_milk dust_the_shelves/dusted_the_shelves
fear/cure: the_dark/lit_a_lamp thunder/sang_a_song deep_water/held_on_to_a_log heights/climbed_step_by_step
    bees/sat_very_still shadows/made_funny_shapes strangers/said_hello ghosts/told_a_ghost_story
    spiders/counted_their_legs bad_dreams/drew_a_picture loud_noises/beat_a_drum falling/held_on_tight
    getting_lost/drew_a_map the_wind/flew_a_paper_bird snakes/learned_their_names crowds/took_a_deep_breath
trouble/rescue: had_fallen_into_a_hole/let_down_a_rope was_caught_in_a_thorn_bush/cut_the_thorns
    was_tangled_in_a_net/cut_the_net was_drifting_away_in_a_boat/pulled_the_boat_ashore
    was_trapped_under_a_log/rolled_the_log_away was_stuck_in_the_mud/pulled_with_a_stick
    was_locked_in_a_hut/broke_the_lock was_hanging_from_a_wall/piled_up_some_boxes
    had_slipped_into_cold_water/stretched_out_a_pole had_a_foot_in_a_trap/opened_the_trap
damage/part: blew_my_roof_away/the_roof broke_my_window/the_window knocked_down_my_chimney/the_chimney
    carried_off_my_door/the_door cracked_my_wall/the_wall washed_away_my_steps/the_steps split_my_floor/the_floor
walked: walked ran hurried skipped hopped went hiked crept danced jogged strode roamed raced dashed rushed sped zoomed
    leaped trotted marched strolled wandered tiptoed plodded ambled pranced waddled galloped tramped drifted trudged
said: said cried called yelled gasped sang sighed piped stated whispered shouted murmured squeaked mumbled chirped
    muttered breathed blurted croaked cooed declared exclaimed yelped peeped babbled drawled hooted hummed
softly: softly gently kindly warmly calmly gladly proudly sweetly eagerly politely bravely happily firmly merrily wisely
    boldly brightly nicely fondly lightly grandly briskly shyly quickly slowly smartly keenly breezily
sadly: sadly weakly faintly glumly meekly dully grimly feebly bitterly shakily tiredly timidly wearily uneasily gloomily
    tearfully nervously anxiously sourly crossly limply numbly hoarsely lamely dolefully wanly drearily woefully
glad: happy glad proud joyful merry pleased excited thankful hopeful content lucky jolly relieved brave strong warm
    amazed thrilled great free fine good blessed safe better cheerful calm snug grand cozy wise
sad: sad upset lonely scared cross gloomy nervous sorry unhappy afraid troubled anxious confused hurt tired helpless
    lost puzzled shaken tearful uneasy weary weak foolish glum low bitter sulky awful blue worried
kindness: kindness friendship love care sharing a_kind_word a_warm_heart a_true_friend good_company a_good_deed
honesty: honesty the_truth saying_sorry a_clear_heart owning_up an_open_word being_honest good_faith
wow: hooray hurrah wow yippee splendid bravo amazing superb great lovely perfect terrific whoopee yay gosh golly goody
    whee aha how_nice what_luck oh_joy oh_my yes cheers well_well how_fun whoa ooh my_my dandy neat sweet
alas: alas bother mercy drat rats help yikes oops phooey ugh crumbs oh_no oh_dear dear_me good_grief how_awful poor_me
    not_again bad_luck blast ouch goodness eek how_sad no_no uh_oh heavens shucks woe yuck
"""

# How a story may begin; the plot goes on in the same paragraph.
OPENING = """(Once, by the [place],|Long ago, near the [place],|Far beyond the [place]|Next to the [place]|In a
[quality] house|On a [quality] island) lived a [trait] [color] {animal} named {hero}."""

# Passages that several plots share.
PASSAGES = {
    "friends": """(From then on,|Ever after,|Every [month],|From that {day} on,) {hero} and {friend} (loved to|liked
to|met to) [hobby] and [hobby] (at the [place]|near the [place]|by the [place]|on [weather] days).""",
    "dream": """That night {hero} dreamed of a [trait] [color] [animal] (who could [hobby]|with [number] [food]).""",
    "than": """is (better|sweeter|worth more) than [tasty] [food]""",
}

# Each begins with words that no other begins with: they tell which plot was chosen.
PLOTS = {
    "lost and found": """Of all {his} things, {he} loved a {quality} {color2} {thing} best.
/ One [weather] [month] {day}, it was gone! {He} looked [under] the [bed], [under] the [bed] and [under] the [bed], but
found only [number] [tasty] [food]. "[Alas]!" the {animal} [said] [sadly].
/ (Then {friend}, a [trait] [color] [animal], found it [under] the [bed]. "[Wow]! Thank you," {hero} [said] [softly].
|At the [place] {he} met {friend}, a [trait] [color] [animal] with a {color2} {thing}. "I found it [under] the [bed],"
{friend} [said] [softly]. {hero} felt [glad] and gave {friend.him} [number] [tasty] [food].
|So {he} put up a sign: "Lost, one {color2} {thing}!" [Soon], a [trait] [color] [animal] named {friend} [walked] up with
it. "[Wow]! My {quality} {thing}," {hero} [said] [softly].) <friends>""",
    "a new friend": """Still, {he} had no friends and felt [sad] and [sad].
/ One [weather] [month] {day}, {he} [walked] to the [place] and met a [trait] [color] {animal2} with a {quality}
{thing}. "I am {hero}," {he} [said] [softly]. "I am {friend}," [said] the {animal2}.
/ ("Let us {hobby}," {hero} [said] [softly]. So they went to {hobby} [under] the [bed] and ate [number] [tasty] [food].
|Then {hero} found {pair} [tasty] {food} [under] the [bed]. "{Pair.half} for you and {pair.half} for me," {he} [said].
|"Be my friend, and you get my {thing}," {friend} [said]. "Keep your {quality} {thing}," said {hero} [softly]. "I like
you better than any [quality] [thing].") "[Wow]!" {friend} [said]. <friends>""",
    "the storm": """Dark clouds rolled over the [place] one [month] [day], and {he} felt [sad] and [sad].
/ [Soon], {friend}, a [trait] [color] [animal], [walked] in with a [quality] [thing]. "[Alas]! The storm {damage},"
{friend.he} [said] [sadly]. "Stay," said {hero} [softly] and brought a [color] quilt, [flavor] tea and [number] [food].
/ (At dawn they [walked] out and mended {damage.part} with [tool], [tool] and [tool].
|At midnight the lamp went out, and {hero} felt [sad]. So {friend} told {him} [softly] about a [trait] [color] [animal]
who could [hobby]. In the morning they mended {damage.part} with [tool] and [tool].
|All night they caught raindrops in a [quality] [color] [dish]. When the sun rose, they mended {damage.part} with
[tool], [tool] and [tool].) "[Wow]! Thank you," {friend} [said]. {hero} (learned|knew now) that [kindness] <than>.""",
    "sharing": """In {his} [color] basket {he} had {pair} [tasty] {food}.
/ One [weather] [month] {day}, {he} met {friend}, a [trait] [color] [animal] who looked [sad] and [sad] and had only a
{quality} {color2} {thing}. "May I have some {food}?" {friend} asked [softly].
/ ("You get {pair.half}, and I keep {pair.half}," {hero} [said] [softly]. They ate [under] the [bed]. "[Wow]!" {friend}
[said] and let {him} use the {quality} {thing}.
|"No! All {pair} are mine," {hero} [said]. {He} ate them [under] the [bed], and [soon], {he} felt [sad] and sick.
{friend} brought {him} [tasty] [flavor] tea. "Next time you get {pair.half}," said the {animal} [softly].
|"Only for your {quality} {thing}," {hero} [said]. {friend} looked so [sad] that the {animal} felt [sad]. "Keep it,"
{he} said [softly] and gave {friend.him} {pair.half} {food} and [flavor] tea.) <friends>""",
    "the race": """Every [month] there was a race to the {place} for a {quality} {color2} {thing}.
/ "I will win it," the {animal} [said] [softly]. "No, I will," [said] {friend}, a [trait] [color] [animal]. One
[weather] {day}, they [walked] past the [place], the [place] and the [place].
/ (At first {friend} led, but then {friend.he} stopped to eat [number] [tasty] [food]. {hero} [walked] on and won.
"[Wow]! The {thing} is mine," {he} [said] [softly]. {friend} felt [sad], so {hero} shared it.
|Then {friend} fell over a [quality] [color] [thing]. {hero} turned back to help, and they [walked] to the {place} side
by side. "[Wow]! The {thing} is ours," {he} [said] [softly].
|But {hero} had eaten [number] [tasty] [food] and grew slow, so {friend} won the {quality} {thing}. {hero} felt [sad],
but {he} clapped. "[Wow]! Well done," {he} [said] [softly].) <friends>""",
    "baking": """Best of all, {he} loved to bake.
/ One [weather] [month] [day], {he} mixed [number] eggs with [tasty] [food] and [tasty] [food] to make a {flavor} cake
for {his} {elder}. [Soon], the {animal} looked into the oven. "[Alas]!" {he} [said] [sadly].
/ (The cake was as black as coal! {friend}, a [trait] [color] [animal], helped {him} bake another with [color] icing.
|There was nothing but crumbs! {friend}, a [trait] [color] [animal], hid [under] the [bed]. "I felt so [sad],"
{friend.he} [said] [sadly]. They baked another with [tasty] [food] on top.
|How flat the cake was! {friend}, a [trait] [color] [animal], laughed [softly] and hid it under [number] [tasty]
[food].) "[Wow]! A {flavor} cake," {his} {elder} [said] [softly] and gave them a [quality] [color] [thing]. <dream>""",
    "a secret": """Nobody knew that {he} was afraid of {fear}.
/ One [weather] [month] [day], {friend}, a [trait] [color] [animal] with a [quality] [color] [thing], asked {him}
[softly] to {hobby} at the {place}. The {animal} felt [sad] and [sad].
/ ("I must [chore]," {he} lied [sadly], but {he} felt so [sad] that {he} [walked] after {friend.him} and told the truth.
|"I am ill," {he} lied [sadly]. {friend} brought [number] [food], and {he} felt so [sad] that {he} told the truth.
|"I am afraid of {fear}," {he} said [sadly]. {friend} did not laugh but gave {him} [number] [tasty] [food].) "I was
afraid, too, until I {fear.cure}," said {friend} [softly]. {hero} tried it [softly]. "[Wow]! I can do it," {he} [said],
and they [walked] to the {place} to {hobby}. <dream>""",
    "a brave deed": """One [weather] [month] {day}, {he} took [number] [tasty] [food] and a [thing] to {his} {elder}.
/ By the {place} {he} heard a cry. A [trait] [color] {animal2} {trouble}! "[Alas]!" the {animal2} [said] [sadly]. {hero}
felt [sad], too, but {he} was brave.
/ (At once {he} [softly] {trouble.rescue}.
|Alone {he} was too weak. With [name], a [trait] [color] [animal] from the [place], {he} {trouble.rescue}.
|Twice {he} tried [softly], and twice {he} failed. The third time {he} {trouble.rescue}.) "[Wow]! I am {friend}," the
{animal2} [said] [softly] and gave {hero} a [quality] [color] {thing}. {His} {elder} felt [glad] and put the {thing}
[under] the [bed]. <friends>""",
    "the broken thing": """Now, {his} {elder} had a [quality] {color2} {dish}.
/ One [weather] [month] [day], {he} tried to [hobby] with [number] [tasty] [food] and broke the {dish} into {number}
pieces! "[Alas]!" the {animal} [said] [sadly].
/ (Quickly {he} hid it {under} the {bed} and felt [sad] and [sad]. [Soon], {his} {elder} looked {under} the {bed}. "I am
sorry I hid it," {hero} [said] [softly].
|Right away {he} [walked] to {his} {elder}. "I broke your {color2} {dish}," {he} said [softly]. "I feel [sad]."
|First {he} lied: "{friend} the [trait] [animal] did it." Poor {friend} felt [sad]. [Soon], {hero} could bear it no
longer. "It was me," {he} said [softly] and gave {friend.him} [number] [tasty] [food].) They joined the {number} pieces
with [tool], [tool] and [tool]. "[Wow]! What a [quality] {dish}," {his} {elder} [said] [softly]. {hero} (learned|knew
now) that [honesty] <than>.""",
    "a promise": """Before {his} {elder} left one [weather] [month] [day], {he} promised to {chore} and {chore2}.
/ [Soon], {friend}, a [trait] [color] [animal], [walked] by with a [quality] [color] [thing]. "Come to the {place} to
{hobby}," {friend.he} [said] [softly].
/ ("I promised," {hero} [said]. So {he} {chore.did}, {friend} {chore2.did}, and they [walked] to the {place} to {hobby}.
|So the {animal} [walked] to the {place} and forgot {his} chores. At night {his} {elder} felt [sad]. "[Alas]! I am
sorry," {hero} [said]. Then {he} {chore.did}, {chore2.did} and even [chore.did].
|After {hero} {chore.did}, {he} [walked] to the {place}. At dark {he} felt [sad]. "[Alas]! I must still {chore2}," {he}
[said], and {he} did.) {hero} felt [glad], and {his} {elder} gave {him} [number] [tasty] [food]. <dream>""",
}


def fable(seed: int | str, index: int) -> str:
    """Story number `index` of the endless corpus `seed`: a function of both, the same on every machine."""
    writer = Writer(random.Random(f"fables {seed} {index}"))
    writer.tell(STORY)
    return "".join(writer.text)


def fables(seed: int | str, start: int = 0) -> Iterator[str]:
    """The corpus of `seed` from story number `start` on; it never ends."""
    return (fable(seed, index) for index in count(start))


def derivations(story: str) -> int:
    """The integer N for which p(story) = 1 / N; ValueError for a text that is not one whole fable."""
    reader = Reader(story)
    reader.tell(STORY)
    if reader.position < len(story):
        raise reader.error("the end")
    return reader.derivations


def nats(story: str) -> float:
    """-log p(story), the end of the story included."""
    return log(derivations(story))


class Word(NamedTuple):
    """A word of `table`, with a form for each of its rows; if it has a `name`, later mentions are of the same row."""

    forms: tuple[str, ...]
    table: str
    name: str | None


class Fork(NamedTuple):
    """Alternative passages: what each opens with, and how it goes on."""

    openings: tuple[str, ...]
    sequels: tuple["Passage", ...]


Passage = list[str | Word | Fork]


class Pen:
    """Tells one story by choices (a fixed text is a choice of one) and remembers them. A kind of pen is a way to
    `choose`: it puts down one of some options, none of which begins another, and returns its row, not one `taken`."""

    def __init__(self):
        self.named: dict[str, int] = {}
        self.taken: dict[str, set[int]] = {table: set() for table in TABLES}

    def tell(self, passage: Passage) -> None:
        for part in passage:
            if isinstance(part, str):
                self.choose((part,))
            elif isinstance(part, Fork):
                self.tell(part.sequels[self.choose(part.openings)])
            elif part.name in self.named:
                self.choose((part.forms[self.named[part.name]],))
            else:
                row = self.choose(part.forms, self.taken[part.table])
                self.taken[part.table].add(row)
                if part.name:
                    self.named[part.name] = row


class Writer(Pen):
    """The pen that makes a story up: it draws every choice evenly."""

    def __init__(self, generator: random.Random):
        super().__init__()
        self.generator = generator
        self.text: list[str] = []

    def choose(self, options: Sequence[str], taken: Collection[int] = ()) -> int:
        row = self.generator.randrange(len(options))
        while row in taken:
            row = self.generator.randrange(len(options))
        self.text.append(options[row])
        return row


class Reader(Pen):
    """The pen that follows a story: it sees what was chosen, and multiplies up what might have been."""

    def __init__(self, story: str):
        super().__init__()
        self.story = story
        self.position = 0
        self.derivations = 1

    def choose(self, options: Sequence[str], taken: Collection[int] = ()) -> int:
        ahead = self.story[self.position :]
        for row, option in enumerate(options):
            if ahead.startswith(option) and row not in taken:
                self.position += len(option)
                self.derivations *= len(options) - len(taken)
                return row
        raise self.error(f"{options[0]!r}, for one" if len(options) > 1 else repr(options[0]))

    def error(self, expected: str) -> ValueError:
        found = self.story[self.position : self.position + 30]
        return ValueError(f"not a fable: at character {self.position} it has {found!r} instead of {expected}")


def parse_tables(text: str) -> dict[str, dict[str, tuple[str, ...]]]:
    """The columns of each table, by table and column name; the first column has the table's own name."""
    tables = {}
    for heading, rows in re.findall(r"^(\S+): (.+(?:\n    .+)*)", text, re.MULTILINE):
        columns = heading.split("/")
        cells = zip(*(row.replace("_", " ").split("/") for row in rows.split()), strict=True)
        tables[columns[0]] = dict(zip(columns, cells, strict=True))
    return tables


def parse(text: str) -> Passage:
    """The grammar in `text`; ValueError if some story could be read in two ways."""
    text = re.sub(r"<(\w+)>", lambda name: PASSAGES[name[1]], text)
    text = re.sub(r"{(he|him|his)}", r"{hero.\1}", text, flags=re.IGNORECASE)
    text = re.sub(r"\s+([|)])", r"\1", text)
    text = re.sub(r"\s+/\s+", "\n\n", text.replace("\n", " "))
    # The space between an article and a word belongs to the word, which may want "n " instead.
    return parse_passage(iter(re.split(r"([(|)]|(?:(?<=\b[Aa]) )?[\[{][\w.]+[\]}])", text)))[0]


def parse_passage(tokens: Iterator[str]) -> tuple[Passage, str]:
    """The passage up to the next | or ) of its own or to the end, and which of them it was."""
    passage = []
    for token in tokens:
        if token in ("|", ")"):
            return passage, token
        if token == "(":
            passage.append(parse_fork(tokens))
        elif token.endswith(("]", "}")):
            passage.append(parse_word(token))
        elif token:
            passage.append(token)
    return passage, ""


def parse_fork(tokens: Iterator[str]) -> Fork:
    passages, end = [], "|"
    while end == "|":
        passage, end = parse_passage(tokens)
        passages.append(passage)
    return Fork(distinct([passage[0] for passage in passages]), tuple(passage[1:] for passage in passages))


def parse_word(token: str) -> Word:
    key = token.strip(" []{}")
    name, _, column = key.lower().partition(".")
    table = ROLES.get(name, name.rstrip("2"))
    forms = TABLES[table][column or table]
    if key != key.lower():
        forms = tuple(form[0].upper() + form[1:] for form in forms)
    if token[0] == " ":
        forms = tuple(("n " if form[0] in "aeiou" else " ") + form for form in forms)
    if column and "{" in token:
        return Word(forms, "", name)  # of no table: the row was chosen before
    return Word(distinct(forms), table, name if "{" in token else None)


def distinct(options: Sequence[str]) -> tuple[str, ...]:
    """The options; ValueError if one begins another, for where both may come a reader could not tell them apart."""
    for one, other in pairwise(sorted(options)):  # what begins any option begins the next one
        if other.startswith(one):
            raise ValueError(f"{one!r} begins {other!r}: a reader could not tell them apart")
    return tuple(options)


ROLES = {"hero": "name", "friend": "name"}
TABLES = parse_tables(WORDS)
STORY = parse(f"{OPENING} ({'|'.join(PLOTS.values())})")
