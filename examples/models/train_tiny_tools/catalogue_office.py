"""More kinds of tools: facts about the world, money, people, messages, words, files and a platform of functions."""

from __future__ import annotations

from .catalogue import CITY, PERSON, PREFIX, TEXT_WORD, choice, lookup, number, value
from .kinds import Kind, Outcome, Parameter

COUNTRY = Parameter(
    "country|name|nation|land", "country", descriptions="Name of the country.|The country", key="country"
)
SYMBOL = Parameter(
    "symbol|ticker|stock|share", "symbol", descriptions="Ticker symbol.|The stock's symbol", key="symbol"
)
ITEM = Parameter("item|product|name|article", "word", descriptions="Name of the item.|The product", key="item")
ORDER = Parameter("order|order_id|id|number", "code", descriptions="Order number.|Id of the order", key="order")
FILE = Parameter("path|file|filename|name", "path", descriptions="Path of the file.|The file", key="file")
JOB = Parameter(
    "name|function|app|function_name", "identifier", descriptions="Name of the function.|The function", key="function"
)
AMOUNT = Parameter("amount|value|quantity", "decimal", "number", "The amount.|How much|Amount to convert.", "amount")
CAPITAL = lookup(
    "capital",
    COUNTRY,
    "capital|capital_of|get_capital|find_capital",
    "The capital of a country.|Find a country's capital city.",
    Outcome(value("city"), "The capital of {0} is {r}."),
    extra=("Which city is the capital of {0}?",),
)
POPULATION = lookup(
    "population",
    CITY,
    "population|population_of|get_population|inhabitants",
    "How many people live in a city.|Population of a city.",
    Outcome(number(1000, 90000), "{0} has {r} inhabitants."),
    extra=("How many people live in {0}?", "How many inhabitants does {0} have?"),
    held="How big is the population of {0}?",
)
STOCK = lookup(
    "stock price",
    SYMBOL,
    "stock_price|get_quote|share_price|quote",
    "Price of a stock.|Current price of a share.|Look up a share price by its symbol.",
    Outcome(value("decimal"), "{0} trades at {r}."),
    Outcome(
        lambda rng, v: {"price": float(value("integer")(rng, v)), "currency": value("currency")(rng, v)},
        "{0} trades at {r.price} {r.currency}.",
    ),
    extra=("(What|How much) does {0} trade at?", "What is {0} trading at?", "How much is a share of {0}?"),
)
PRICE = lookup(
    "price",
    ITEM,
    "price|get_price|price_of|product_price|cost_of",
    "Price of a product.|What an item costs in euros.|Look up the price of an item.",
    Outcome(value("decimal"), "The {0} costs {r}."),
    extra=("How much (is the|does the) {0}(| cost)?", "What does the {0} cost?"),
    held="How expensive is the {0}?",
)
INVENTORY = Kind(
    "stock|in_stock|inventory|units_left|stock_level",
    "How many units of an item are in stock.|Stock level of a product.|Units left in the warehouse.",
    (ITEM,),
    (
        "How many {0} units (are|do we have) in stock?",
        "(Check|check|Show me) the stock of {0}(.|)",
        "How many units of {0} are left?",
        f"{PREFIX}check how many {{0}} units are left(.|)",
    ),
    ("Is there any {0} in stock?",),
    (Outcome(number(), "There are {r} units of {0} in stock."),),
    group="stock level",
    noun="stock",
    result_key="units",
)
EMAIL = lookup(
    "email",
    PERSON,
    "email_of|get_email|find_email|email_address",
    "Email address of a person.|Find the email address of an employee.",
    Outcome(lambda rng, v: f"{v[0].lower()}@{value('word')(rng, v)}.com", "The email of {0} is {r}."),
    extra=("How do I reach {0} by email?",),
)
PHONE = lookup(
    "phone number",
    PERSON,
    "phone_of|get_phone|find_phone|phone_number",
    "Phone number of a person.|Find the phone number of an employee.",
    Outcome(lambda rng, v: f"{rng.randrange(10, 99)}-{rng.randrange(1000, 99999)}", "The phone number of {0} is {r}."),
    extra=("What number do I call for {0}?",),
)
MANAGER = lookup(
    "manager",
    PERSON,
    "manager_of|get_manager|boss_of|find_manager",
    "The manager of a person.|Who manages an employee.|Find someone's boss.",
    Outcome(value("person"), "The manager of {0} is {r}."),
    extra=("Who (manages|is the boss of) {0}?", "Who is the manager of {0}?"),
)
ORDER_STATUS = Kind(
    "order_status|track_order|get_order|order_state",
    "Status of an order.|Where an order is.|Track an order by its number.",
    (ORDER,),
    (
        "(What is the status of|Where is) (order|my order) {0}?",
        f"{PREFIX}(track|check) order {{0}}(.|?)",
        "Has order {0} (shipped|arrived)?",
    ),
    ("What happened to order {0}?",),
    (
        Outcome(choice("shipped|delivered|packed|cancelled|waiting|lost|on its way"), "Order {0}: {r}."),
        Outcome(
            lambda rng, v: {
                "status": choice("shipped|delivered|packed|waiting")(rng, v),
                "date": value("date")(rng, v),
            },
            "Order {0}: {r.status}, {r.date}.",
        ),
    ),
    group="order",
    noun="status",
    result_key="status",
    rare_names="order_info",
)
CURRENCY = Kind(
    "convert_currency|exchange|convert_money|convert",
    "Convert an amount from one currency to another.|Exchange money.",
    (
        AMOUNT,
        Parameter(
            "source|from_currency|have|base", "currency", descriptions="Currency of the amount.|From", key="from"
        ),
        Parameter("target|to_currency|want|into", "currency", descriptions="Currency to convert to.|To", key="to"),
    ),
    (
        "(How much|What) is {0} {1} in {2}?",
        "(Convert|convert|Change) {0} {1} (to|into) {2}(.|)",
        f"{PREFIX}convert {{0}} {{1}} to {{2}}(.|?)",
    ),
    ("How many {2} do I get for {0} {1}?",),
    (Outcome(value("decimal"), "{0} {1} is {r} {2}."),),
    group="convert",
    result_key="amount",
)
UNITS = Kind(
    "convert_units|unit_convert|convert_unit|convert",
    "Convert an amount from one unit to another.|Convert units of measure.",
    (
        AMOUNT,
        Parameter("source|from_unit|unit|base", "unit", descriptions="Unit of the amount.|From", key="from"),
        Parameter("target|to_unit|into|wanted", "unit", descriptions="Unit to convert to.|To", key="to"),
    ),
    (
        "(How many|What is) {0} {1} in {2}?",
        "(Convert|convert) {0} {1} (to|into) {2}(.|)",
        f"{PREFIX}convert {{0}} {{1}} to {{2}}(.|?)",
    ),
    ("How many {2} are {0} {1}?",),
    (Outcome(value("decimal"), "{0} {1} is {r} {2}."),),
    group="convert",
    result_key="amount",
)
REMINDER = Kind(
    "remind|set_reminder|add_reminder|create_reminder",
    "Set a reminder.|Remind the user of something at a time.",
    (
        Parameter("text|what|message|task", "task", descriptions="What to be reminded of.|The text", key="text"),
        Parameter("time|at|when", "clock", descriptions="Time of day.|When, as hh:mm", key="time"),
    ),
    (
        "Remind me to {0} at {1}(.|)",
        "(Set|set) a reminder at {1} to {0}(.|)",
        f"{PREFIX}remind me at {{1}} to {{0}}(.|?)",
    ),
    ("At {1} I have to {0}, remind me.",),
    (Outcome(choice("ok|done|saved|set"), "I will remind you at {1} to {0}."),),
    group="reminder",
    result_key="status",
)
MESSAGE = Kind(
    "send_message|message|send|tell|write_to",
    "Send a message to a person.|Write to somebody.",
    (
        Parameter("to|person|recipient|who", "person", descriptions="Who gets it.|The recipient", key="to"),
        Parameter("text|message|body|content", "task", descriptions="The text.|What to say", key="text"),
    ),
    ("(Tell|tell|Ask) {0} to {1}(.|)", "(Send|send|Write) {0} a message: {1}", f"{PREFIX}tell {{0}} to {{1}}(.|?)"),
    ("Let {0} know to {1}.",),
    (Outcome(choice("ok|done|sent|delivered"), "I told {0} to {1}."),),
    group="message",
    result_key="status",
)
PAY = Kind(
    "pay|send_money|transfer|pay_invoice",
    "Pay an invoice.|Pay somebody.|Send money to a person.",
    (
        Parameter("amount|euros|sum|value", "integer", "number", "Euros.|How much", "amount"),
        Parameter("to|person|recipient|who", "person", descriptions="Who is paid.|The recipient", key="to"),
    ),
    (
        "(Pay|pay|Send) {0} euros to {1}(.|)",
        "(Pay|pay|Give) {1} {0} euros(.|)",
        f"{PREFIX}(pay|transfer) {{0}} euros to {{1}}(.|?)",
    ),
    ("{1} should get {0} euros.",),
    (Outcome(choice("ok|done|paid|sent"), "I paid {0} euros to {1}."),),
    group="pay",
    result_key="status",
)
WORD_LENGTH = Kind(
    "word_length|length|count_letters|text_length|letters_in",
    "Count the letters of a word.|Length of a word.|How long a text is.",
    (TEXT_WORD,),
    (
        "How many letters (does {0} have|are in {0}|has {0})?",
        "How long is (the word|) {0}?",
        f"{PREFIX}count the letters (of|in) {{0}}(.|?)",
    ),
    ("What is the length of the word {0}?",),
    (Outcome(lambda rng, v: len(v[0]), "{0} has {r} letters."),),
    group="letters",
    noun="letters",
    result_key="letters",
)
TRANSLATE = Kind(
    "translate|translate_word|translation",
    "Translate a word.|Translate a text to another language.",
    (
        TEXT_WORD,
        Parameter("language|to|target|into", "language", descriptions="The language.|Target language", key="language"),
    ),
    (
        "(Translate|translate) {0} (to|into) {1}(.|)",
        "(What is|How do you say) {0} in {1}?",
        f"{PREFIX}translate {{0}} (to|into) {{1}}(.|?)",
    ),
    ("What do they call {0} in {1}?",),
    (Outcome(value("word"), "{0} in {1} is {r}."),),
    group="translate",
    result_key="translation",
)
REVERSE = Kind(
    "reverse|reverse_word|reverse_text|backwards",
    "Reverse a word.|Write a text backwards.",
    (TEXT_WORD,),
    (
        "(Reverse|reverse) (the word|) {0}(.|)",
        "What is {0} (backwards|reversed)?",
        f"{PREFIX}(reverse|spell backwards) {{0}}(.|?)",
    ),
    ("How does {0} read backwards?",),
    (Outcome(lambda rng, v: v[0][::-1], "{0} reversed is {r}."),),
    group="reverse",
    result_key="reversed",
)
FILE_SIZE = Kind(
    "file_size|size_of|get_size",
    "Size of a file in bytes.|How big a file is.",
    (FILE,),
    ("How (big|large) is {0}?", "(What is|Tell me) the size of {0}(?|)", f"{PREFIX}check the size of {{0}}(.|?)"),
    ("How many bytes does {0} take?",),
    (Outcome(number(10, 90000), "{0} has {r} bytes."),),
    group="file size",
    noun="size",
    result_key="bytes",
)
READ_FILE = Kind(
    "read_file|read|open_file|cat",
    "Read a file.|Return the text of a file.|Show what a file contains.",
    (FILE,),
    ("What (is in|does) {0}(| say)?", "(Read|read|Show) {0}(.|)", f"{PREFIX}(read|open) the file {{0}}(.|?)"),
    ("What does the file {0} contain?",),
    (Outcome(value("task"), "{0} says: {r}."),),
    group="read file",
    result_key="text",
)
PODS = Kind(
    "pods_of|count_pods|pod_count|running_pods",
    "How many pods a function has.|Number of running pods of a function.",
    (JOB,),
    (
        "How many pods does {0} have?",
        "How many pods (run|are running) for {0}?",
        f"{PREFIX}count the pods of {{0}}(.|?)",
    ),
    ("On how many pods does {0} run?",),
    (Outcome(number(2, 60), "{0} has {r} pods."),),
    group="pods",
    noun="pods",
    result_key="pods",
)
SCALE = Kind(
    "scale|set_pods|scale_function|resize",
    "Set the number of pods of a function.|Scale a function.",
    (JOB, Parameter("pods|count|replicas|n", "integer", "integer", "Number of pods.|How many pods", "pods")),
    (
        "(Scale|scale) {0} to {1} pods(.|)",
        "(Give|give) {0} {1} pods(.|)",
        f"{PREFIX}(scale|set) {{0}} to {{1}} pods(.|?)",
    ),
    ("{0} should run on {1} pods.",),
    (Outcome(choice("ok|done|scaled|scaling"), "{0} now has {1} pods."),),
    group="scale",
    result_key="status",
)
ECHO = Kind(
    "echo|repeat|say|print_text",
    "Repeat a word.|Say a text.|Echo the input.",
    (TEXT_WORD,),
    ("(Echo|echo|Repeat|Say) {0}(.|)", f"{PREFIX}(repeat|say) (the word|) {{0}}(.|?)"),
    ("I want you to say {0}.",),
    (Outcome(lambda rng, v: v[0], "{r}"),),
    group="echo",
    result_key="text",
)
ROLL = Kind(
    "roll|roll_dice|random_number|throw_dice",
    "Roll a die.|A random number.|Throw a die with some sides.",
    (Parameter("sides|size|max|n", "integer", "integer", "Number of sides.|The sides", "sides"),),
    ("(Roll|roll|Throw) a die with {0} sides(.|)", f"{PREFIX}roll a {{0}} sided die(.|?)"),
    ("I need a die with {0} sides rolled.",),
    (Outcome(lambda rng, v: rng.randrange(int(v[0])) + 1, "The die with {0} sides shows {r}."),),
    group="roll",
    result_key="shows",
)
TODAY = Kind(
    "today|get_date|current_date|date_today",
    "The date of today.|Today's date.|Current date.",
    (),
    (
        "(What is|What's) (the date today|today's date|the date)?",
        "(Which|What) day is (it|today)?",
        "(Tell|Show) me the date(.|)",
    ),
    ("What date do we have?",),
    (Outcome(value("date"), "Today is {r}."),),
    group="today",
    result_key="date",
)
LIST_PODS = Kind(
    "list_apps|get_apps|deployed_apps",
    "List the deployed apps.|Names of all apps.",
    (),
    ("(Which|What) apps are deployed?", "(List|Show me) (the|all) apps(.|)", f"{PREFIX}list the deployed apps(.|?)"),
    ("What apps do we run?",),
    (Outcome(lambda rng, v: [value("word")(rng, v) for _ in range(rng.choice((2, 3)))], "The apps are {r}."),),
    group="apps",
    result_key="apps",
)

LOOKUPS = (
    CAPITAL,
    POPULATION,
    STOCK,
    PRICE,
    INVENTORY,
    EMAIL,
    PHONE,
    MANAGER,
    ORDER_STATUS,
    WORD_LENGTH,
    FILE_SIZE,
    PODS,
)
ACTIONS = (CURRENCY, UNITS, REMINDER, MESSAGE, PAY, TRANSLATE, REVERSE, READ_FILE, SCALE, ECHO, ROLL, TODAY, LIST_PODS)
