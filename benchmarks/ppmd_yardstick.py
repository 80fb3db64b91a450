"""Price of the held-out parts under PPMd variant H (order 6 to 12, the best on the validation parts).

pyppmd is under the LGPL, so it is no dependency of the project: install it beside the project's packages in an
environment of your own (`pip install pyppmd==1.3.1`) and run `python benchmarks/ppmd_yardstick.py`. The coder is
adaptive: bits(training text + part) - bits(training text), so it goes on learning while it reads the part.
Writes benchmarks/ppmd_yardstick.json. No times are measured, the result does not depend on the machine.
"""

from importlib import import_module

import recording

from lib.common import data, record
from lib.language import corpus

pyppmd = import_module("pyppmd")  # not a requirement of the project: see above
ORDERS, MEMORY = range(6, 13), 64 << 20
BOOKS = ("alice29", "hamlet")


def bits(train: str, text: str, order: int) -> float:
    sizes = []
    for book in (train, train + text):
        encoder = pyppmd.Ppmd7Encoder(order, MEMORY)
        sizes.append(len(encoder.encode(book.encode()) + encoder.flush()))
    return 8.0 * (sizes[1] - sizes[0]) / len(text)


def main() -> None:
    library = corpus.load({book: data.books()[book] for book in BOOKS})
    train, out = library.train_text, {}
    by_order = {n: sum(bits(train, library.parts[b]["val"], n) for b in BOOKS) / 2 for n in ORDERS}
    order = min(by_order, key=by_order.get)
    for book, short in zip(BOOKS, ("alice", "hamlet"), strict=True):
        text = library.parts[book]["test"]
        out[f"ppmd_bpc_{short}"] = record.metric(
            bits(train, text, order),
            unit="bpc",
            n=len(text),
            headline=True,
            what=f"PPMd, order {order}, adaptive, {short} test part",
        )
        print(f"{book}: {out[f'ppmd_bpc_{short}']['value']:.3f} bpc at order {order}")
    run = {"profile": "sample", "device": "cpu", "seed": 0, "threads": 1}
    recording.write("ppmd_yardstick", out, run)


if __name__ == "__main__":
    main()
