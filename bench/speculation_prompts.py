"""What `bench/speculation.py` asks for: texts that copy, edit or convert what stands in the prompt, and ordinary chat."""

STORY = (
    "The lighthouse keeper climbed the narrow stairs every evening at six, carrying a lamp, a loaf of bread and the logbook in "
    "which forty years of storms were written down. He never missed a night. When the ships came in from the north, they would "
    "sound their horns twice, and he would answer with the great bell above the gallery. In winter the ice covered the "
    "windows, and he scraped it off with a kitchen knife that had belonged to his mother."
)
PROGRAM = """```python
def average(values):
    total = 0
    for value in values:
        total += value
    return total / len(values)


def median(values):
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2


def variance(values):
    mean = average(values)
    return sum((value - mean) ** 2 for value in values) / len(values)
```"""
TABLE = """| city | country | population | mayor |
| --- | --- | --- | --- |
| Lisbon | Portugal | 545000 | Carlos Moedas |
| Vienna | Austria | 1897000 | Michael Ludwig |
| Ghent | Belgium | 262000 | Mathias De Clercq |
| Turin | Italy | 848000 | Stefano Lo Russo |
| Malmo | Sweden | 351000 | Katrin Stjernfeldt |
| Porto | Portugal | 231000 | Rui Moreira |"""

COPIES = [
    f"Repeat the following text word for word:\n\n{STORY}",
    f"{STORY}\n\nPlease write this text again, exactly as it is.",
    f"Here is a text:\n\n{STORY}\n\nCopy the text, but call the keeper Martin.",
    f"Correct the spelling in this text and show all of it:\n\n{STORY}",
    f"Here is a Python program:\n\n{PROGRAM}\n\nWrite the same program again, without any change.",
    f"{PROGRAM}\n\nRename the function `average` to `mean_of`, change nothing else, and show the whole program.",
    f"{TABLE}\n\nWrite this table as JSON, a list of objects with the keys city, country, population and mayor.",
    f"{TABLE}\n\nWrite this table as CSV.",
    f"{TABLE}\n\nRepeat the table.",
]
CHAT = [
    "Why is the sky blue?",
    "Tell me a story about a dog and a train.",
    "Give me five tips for learning to cook.",
    "Explain how a bicycle stays upright.",
    "Write a letter to my landlord about a broken heater.",
    "What is the difference between a virus and a bacterium?",
    "Plan a weekend in Rome for two friends.",
    "Describe the sea to somebody who has never seen it.",
]
RANDOM_WORDS = [
    "river chair seven copper although quickly Norway paint under eleven violin grey market hollow sugar before",
    "lamp either walnut forty beneath carry orange Lima thunder slow paper nobody engine blue candle reach",
    "twelve across button wolf gently iron window Peru maybe salt whisper north basket copper yellow arrive",
    "garden eight pull marble Tuesday often needle fog bright Kenya hammer seldom butter angle climb purple",
]
