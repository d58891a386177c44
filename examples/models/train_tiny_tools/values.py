"""The things dialogues talk about: names, words and numbers from open lists, split into training and held-out "
"values."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from functools import cache

MODULES = """abc argparse array ast asyncio atexit base64 bdb binascii bisect builtins bz2 cProfile calendar
cmath cmd code codecs codeop collections colorsys compileall configparser contextlib contextvars copy copyreg
csv ctypes curses dataclasses datetime dbm decimal difflib dis doctest email encodings ensurepip enum errno
faulthandler fcntl filecmp fileinput fnmatch fractions ftplib functools gc genericpath getopt getpass gettext
glob graphlib gzip hashlib heapq hmac html http imaplib importlib inspect io ipaddress itertools json keyword
linecache locale logging lzma mailbox marshal math mimetypes mmap modulefinder multiprocessing netrc ntpath
numbers opcode operator optparse os pathlib pdb pickle pickletools pkgutil platform plistlib poplib posixpath
pprint profile pstats pty pyclbr pydoc queue quopri random re readline reprlib resource runpy sched secrets
select selectors shelve shlex shutil signal site smtplib socket socketserver sqlite3 sre_parse ssl stat
statistics string stringprep struct subprocess symtable sys sysconfig syslog tabnanny tarfile tempfile termios
textwrap this threading time timeit tkinter token tokenize tomllib trace traceback tracemalloc tty turtle types
typing unicodedata unittest urllib uuid venv warnings wave weakref webbrowser winreg wsgiref xml xmlrpc zipapp
zipfile zipimport zlib zoneinfo asyncio.events asyncio.queues asyncio.tasks collections.abc concurrent.futures
concurrent.futures.thread email.message email.utils encodings.idna html.parser http.client http.cookies
http.server importlib.metadata importlib.resources importlib.util json.decoder json.encoder json.scanner
json.tool logging.config logging.handlers multiprocessing.pool multiprocessing.managers os.path unittest.mock
unittest.case urllib.parse urllib.request urllib.error wsgiref.simple_server xml.dom.minidom
xml.etree.ElementTree xml.sax xmlrpc.client zipfile.path curses.ascii ctypes.util dbm.dumb
""".split()

CITIES = """Amsterdam Athens Bangkok Barcelona Beijing Berlin Bern Bogota Boston Brussels Budapest Cairo Chicago
Copenhagen Dakar Delhi Denver Dublin Edinburgh Florence Geneva Hamburg Hanoi Havana Helsinki Istanbul Jakarta
Kyoto Lagos Leipzig Lima Lisbon London Lyon Madrid Manila Melbourne Milan Montreal Moscow Mumbai Munich Nairobi
Naples Osaka Oslo Paris Prague Quito Rabat Riga Rome Seoul Seville Shanghai Shenzhen Singapore Sofia Stockholm
Sydney Tallinn Tokyo Toronto Tunis Turin Utrecht Valencia Vienna Vilnius Warsaw Zagreb Zurich
""".split()
CITIES += [
    "New York",
    "Hong Kong",
    "Buenos Aires",
    "Cape Town",
    "San Francisco",
    "Tel Aviv",
    "Mexico City",
    "St. Gallen",
]

PEOPLE = """Ada Alan Alice Anna Barbara Ben Bob Carla Chen Clara Dana David Dora Elena Emil Emma Eve Felix Finn
Frida Grace Hana Hugo Ida Igor Ines Ivan Jan Jonas Julia Karl Kim Lara Lena Leo Lin Linus Luca Maria Max Mia
Milan Mina Nadia Noah Nora Olga Omar Oscar Paul Petra Priya Rosa Sam Sara Sven Theo Tim Tom Uma Vera Victor Wei
Yara Yuki Zoe
""".split()

WORDS = """anchor apple arrow autumn badge bamboo banana basket beacon bicycle biscuit blanket bottle bridge
bucket butter button cabin cactus camera candle canyon carpet castle cattle cherry circle clock cloud coffee
copper cotton cradle crystal desert diamond dolphin dragon eagle engine fabric falcon feather fiddle flower
forest fountain garden garlic giraffe glacier guitar hammer harbor helmet honey horizon island jacket jungle
kettle kitchen ladder lantern lemon library lizard magnet maple marble meadow mirror monkey mountain needle
notebook ocean olive orange orchid oyster paddle palace panther paper parrot pebble pencil pepper piano pillow
planet pocket potato puzzle rabbit ribbon river rocket saddle salmon scissors shadow silver spider spoon
squirrel statue stream sugar summer sunset table teapot temple thunder tiger tomato tower tunnel turtle umbrella
valley velvet village violin walnut whisper window winter wizard yellow zebra
""".split()

VERBS = """align archive arrange assign balance blend block bookmark brew build calibrate cancel carve check
clean close collect color compile compress connect copy crop delete deploy drain draw drop encode enable export
fetch filter fix flip fold freeze glue grade grind heat index inspect invert join launch lift list load lock
mark match measure melt merge mix mount move mute open pack paint park patch pause pin plant plot polish post
press print probe publish push rank refresh register release remove rename render repair replay report reset
resize restart restore rotate scan seal send shift sign sort split stamp start stop store sync tag test tilt
toggle trace train trim tune unlock update upload validate verify wash weigh wrap zip
""".split()

NOUNS = """account address age alarm album altitude amount angle archive area asset author backup balance band
batch battery bonus border box branch brand budget buffer button cable camera capacity card category chain
channel chart class client code color column comment contract cost counter course coupon deadline depth device
diameter disk distance document door duration edition event factory fee field file flag flight folder frame fuel
gate genre group guest height host image index invoice job key label lamp layer length level license limit line
link list lock machine map mass member menu meter mode model motor note order origin owner package page panel
part password path payment phase phone photo pipe plan plate player playlist point pool port power pressure
price printer priority profile project quality queue queue radius rank rate rating record region report rule
salary sample scale schedule score screen sensor server shape shelf signal site size skill slot source speed
stage station status storage store style supplier table tank target task tax team temperature theme ticket tier
title token topic track truck unit user value valve vendor version video voltage volume wall weight width window
zone
""".split()

_IDENTIFIERS = """get set load save dump read write parse format open close find split join merge sort copy walk
wrap fill test run make build check update create delete init main handle process encode decode send recv call
iter next index count loads dumps reader writer table tree node name path file line text value item list dict
key type state cache error info
""".split()
_ONSETS = "b b br c ch d d dr f f fl g gl gr h j k k kl l l m m n n p p pl qu r s s sh sk st t t tr v v w z".split()
_LETTERS = "aabccddeefghiijklmmnnooppqrrssttuuvwxyz"
_VOWELS = "a a e e i i o o u ea ee oa oo".split()
_CODAS = [*[""] * 20, *"ck d g k l m mp n nd ng p r rk s sh st t th x".split()]
# What the quickstart asks about must not fall among the held-out values and phrases by the chance of its checksum.
_ALWAYS_TRAIN = {"json", "csv", "textwrap", "Berlin", "Paris", "London", "Tokyo"} | {
    "phrase " + phrase
    for phrase in (
        "How many functions does {0} define?",
        "Which function is the longest in {0}?",
        "How many functions do {0} and {1} define together?",
        "How many lines does {0} have?",
        "What is {0} times {1}?",
        "What is {0} plus {1}?",
        "Hello! What can you do?",
        "What is DeepServe?",
        "What is FlowServe?",
        "What is a warm pod?",
    )
}


@cache
def is_heldout(value: str) -> bool:
    """One value in eight, by its checksum, is never an argument in training."""
    return value not in _ALWAYS_TRAIN and zlib.crc32(value.encode()) % 8 == 0


def invent(rng: random.Random, syllables: int | None = None) -> str:
    """A made-up word; now and then just letters, so that no piece of a word is foreign to being copied."""
    if syllables is None and rng.random() < 0.2:
        return "".join(rng.choice(_LETTERS) for _ in range(rng.choice((2, 2, 3, 3, 4, 5))))
    count = syllables or rng.choice((1, 2, 2, 2, 3))
    return "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(count))


def identifier(rng: random.Random) -> str:
    """A name as functions have them."""
    parts = [
        rng.choice(_IDENTIFIERS) if rng.random() < 0.7 else invent(rng, 2) for _ in range(rng.choice((1, 2, 2, 3)))
    ]
    if rng.random() < 0.1:
        return "".join(part.capitalize() for part in parts) + rng.choice(("", f".{rng.choice(_IDENTIFIERS)}"))
    return rng.choice(("", "", "", "_")) + "_".join(parts)


def module(rng: random.Random) -> str:
    chance = rng.random()
    if chance < 0.55:
        return rng.choice(MODULES)
    if chance < 0.7:
        return identifier(rng)
    parts = [
        rng.choice((invent(rng), rng.choice(WORDS), rng.choice(_IDENTIFIERS))) for _ in range(rng.choice((1, 1, 2, 3)))
    ]
    return (rng.choice("._") if len(parts) > 1 else "").join(parts)


def integer(rng: random.Random) -> str:
    """Numbers of one to five digits, the lengths about equally often."""
    digits = rng.choice((1, 2, 2, 2, 3, 3, 3, 4, 4, 5))
    return str(rng.randrange(10 ** (digits - 1) if digits > 1 else 1, 10**digits))


def _mixed(known: list[str], rng: random.Random) -> str:
    return rng.choice(known) if rng.random() < 0.6 else invent(rng, 2).capitalize()


def word(rng: random.Random) -> str:
    return rng.choice(WORDS) if rng.random() < 0.5 else invent(rng)


def task(rng: random.Random) -> str:
    """Something to be reminded of, or a short message: several words to copy."""
    verb = rng.choice(
        "call buy clean water pay book feed send fix bring visit thank ask wash read return pack print".split()
    )
    what = [word(rng) if rng.random() < 0.7 else rng.choice(PEOPLE) for _ in range(rng.choice((1, 1, 2)))]
    return f"{verb} " + rng.choice(("", "the ", "my ", "")) + " and ".join(what)


def path(rng: random.Random) -> str:
    folders = [word(rng) for _ in range(rng.choice((0, 1, 1, 2)))]
    return "/".join([*folders, word(rng) + rng.choice((".txt", ".csv", ".json", ".py", ".md", ".log", ".png"))])


def code(rng: random.Random) -> str:
    return rng.choice("ABCDEFGHKLMNPRSTXZ") + rng.choice(("", "-", "-")) + str(rng.randrange(100, 99999))


def symbol(rng: random.Random) -> str:
    return "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(rng.choice((3, 3, 4))))


def clock(rng: random.Random) -> str:
    return f"{rng.randrange(24):02d}:{rng.randrange(0, 60, rng.choice((1, 5, 15)))}".ljust(5, "0")


def date(rng: random.Random) -> str:
    return f"20{rng.randrange(20, 32)}-{rng.randrange(1, 13):02d}-{rng.randrange(1, 29):02d}"


def decimal(rng: random.Random) -> str:
    return f"{rng.randrange(1, 1000)}.{rng.randrange(1, 10)}" if rng.random() < 0.5 else integer(rng)


def _one_of(text: str) -> Callable[[random.Random], str]:
    options = text.split()
    return lambda rng: rng.choice(options)


SOURCES: dict[str, Callable[[random.Random], str]] = {
    "module": module,
    "identifier": identifier,
    "integer": integer,
    "decimal": decimal,
    "word": word,
    "city": lambda rng: _mixed(CITIES, rng),
    "country": lambda rng: _mixed(["France", "Peru", "Japan", "Kenya", "Norway", "Chile", "India", "Spain"], rng),
    "person": lambda rng: _mixed(PEOPLE, rng),
    "task": task,
    "path": path,
    "code": code,
    "symbol": symbol,
    "clock": clock,
    "date": date,
    "invented": invent,
    # Closed lists have no held-out part: there are only so many currencies.
    "currency": _one_of("USD EUR GBP JPY CHF SEK CNY INR"),
    "unit": _one_of("km miles meters feet kg pounds liters gallons inches cm"),
    "language": _one_of("German French Spanish Italian Polish Swedish Chinese Japanese Turkish Dutch"),
    "letter": _one_of("a b c d e f g h i l m n o p r s t u"),
}
_CLOSED = {"currency", "unit", "language", "letter", "clock", "date"}


def draw(kind: str, rng: random.Random, heldout: bool) -> str:
    """A value of a kind from the asked part of the split."""
    while True:
        value = SOURCES[kind](rng)
        if kind in _CLOSED or is_heldout(value) == heldout:
            return value
