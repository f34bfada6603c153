"""Kinds of shops in which different signals decide, for measuring what carries over.

Each is made by a rule that some simple rival is built on, so that the rival is at its best there:
fashion (what is popular just now), grocery (what this user had before), listings (category and
brand of things that sell once), longtail (what was seen together), playlist (what came next),
pair (two users and nobody else), drifting (none of it lasts).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import accumulate
from random import Random

from agents.errors import UsageError
from agents.simulate.catalogue import BRANDS, CATEGORIES
from agents.simulate.visits import KindOfShop
from streams.events import Item


class _Kind:
    """Category and brand of each item by chance; a subclass says what they mean, if anything."""

    n_open = 40
    deed = "click"

    def __init__(self, n_users: int, n_items: int, seed: int) -> None:
        self.n_users = n_users
        self.n_items = n_items
        self.draw = Random(f"{type(self).__name__} {seed}")
        n_categories = len(CATEGORIES)
        self.category = [self.draw.randrange(n_categories) for _ in range(n_items)]
        self.brand = [self.draw.randrange(len(BRANDS)) for _ in range(n_items)]

    def tick(self, number: int) -> None:
        """Nothing changes."""

    def item(self, row: int) -> Item:
        """Category and brand; the title says nothing more."""
        category = CATEGORIES[self.category[row]]
        brand = BRANDS[self.brand[row]]
        title = f"{brand} {category[1]}"
        return Item(item_id=f"i{row}", title=title, category=list(category), brand=brand)

    def length(self, mean: float) -> int:
        """Length of a visit: 1 and more, geometric."""
        n = 1
        while self.draw.random() > 1 / mean:
            n += 1
        return n


class Fashion(_Kind):
    """A new item each 16 events, popular for some hundred events, then gone.

    A few are hits. Three of four looks go to what everybody looks at; the others are for the same
    fashion in one of the visitor's two categories. Releases start anew at the end of the catalogue.
    """

    release_every = 16
    lifetime = 40.0
    """Mean age of an item looked at, in releases."""
    patience = 1_000_000
    """Draws for one look of a style. Shops of 1,000 and more items were seen to need 55,000."""

    def __init__(self, n_users: int, n_items: int, seed: int) -> None:
        super().__init__(n_users, n_items, seed)
        self._appeal = [self.draw.random() ** 6 for _ in range(n_items)]
        self._style: list[tuple[int, ...] | None] = [
            tuple(self.draw.sample(range(len(CATEGORIES)), 2)) for _ in range(n_users)
        ]
        self._released = 0

    def tick(self, number: int) -> None:
        """Release an item when its time has come."""
        self._released = number // self.release_every + int(4 * self.lifetime)

    def visit(self, user: int) -> Iterator[int]:
        """About three looks; who finds nothing of a style has none from now on."""
        for _ in range(self.length(3.0)):
            style = self._style[user] if self.draw.random() < 0.25 else None
            row = self._look(style)
            if row is None and style is not None:
                self._style[user] = None
                row = self._look(None)
            if row is not None:
                yield row

    def _look(self, style: tuple[int, ...] | None) -> int | None:
        """None: there is nothing of that style."""
        for _ in range(self.patience):
            age = int(self.draw.expovariate(1 / self.lifetime))
            row = (self._released - age) % self.n_items
            if self.draw.random() < self._appeal[row] and (
                style is None or self.category[row] in style
            ):
                return row
        return None


class Grocery(_Kind):
    """Baskets: four of five things are the buyer's staples, each as often as it is used up.

    The rest is something else of a staple's category, or what everybody buys. With each basket one
    staple in thirty is given up for another.
    """

    n_open = 10
    deed = "purchase"

    def __init__(self, n_users: int, n_items: int, seed: int) -> None:
        super().__init__(n_users, n_items, seed)
        order = self.draw.sample(range(n_items), n_items)
        self._order = order
        self._cumulated = list(accumulate(1 / (rank + 5) for rank in range(n_items)))
        self._shelf: list[list[int]] = [[] for _ in CATEGORIES]
        for row in order:
            self._shelf[self.category[row]].append(row)
        self._staples = [
            list(dict.fromkeys(self._popular() for _ in range(self.draw.randint(12, 40))))
            for _ in range(n_users)
        ]

    def visit(self, user: int) -> Iterator[int]:
        """A basket of about eight different things."""
        staples, draw = self._staples[user], self.draw
        if draw.random() < len(staples) / 30:
            staples[draw.randrange(len(staples))] = self._popular()
        basket: set[int] = set()
        for _ in range(self.length(8.0)):
            what = draw.random()
            # The square makes the first staples daily bread and the last ones rare.
            staple = staples[int(len(staples) * draw.random() ** 2)]
            if what < 0.8:
                row = staple
            elif what < 0.92:
                row = draw.choice(self._shelf[self.category[staple]])
            else:
                row = self._popular()
            if row not in basket:
                basket.add(row)
                yield row

    def _popular(self) -> int:
        return self.draw.choices(self._order, cum_weights=self._cumulated)[0]


class Listings(_Kind):
    """Things that there is one of: a new one each fifth event, gone after a few looks.

    A visitor wants one category and mostly one brand, today and in the weeks to come; half of what
    is listed nobody wants.
    """

    release_every = 5
    lifetime = 60.0
    """Mean age of a thing looked at, in releases."""

    def __init__(self, n_users: int, n_items: int, seed: int) -> None:
        super().__init__(n_users, n_items, seed)
        self._dud = [self.draw.random() < 0.5 for _ in range(n_items)]
        self._wants = [self._want() for _ in range(n_users)]
        self._released = 0

    def tick(self, number: int) -> None:
        """List a thing when its time has come."""
        self._released = number // self.release_every + int(20 * self.lifetime)

    def visit(self, user: int) -> Iterator[int]:
        """About five looks; one visit in ten is for something else from now on."""
        if self.draw.random() < 0.1:
            self._wants[user] = self._want()
        category, brand = self._wants[user]
        for _ in range(self.length(5.0)):
            only = brand if self.draw.random() < 0.7 else None
            row = self._look(category if self.draw.random() < 0.9 else None, only)
            if row is not None:
                yield row

    def _want(self) -> tuple[int, int]:
        return self.draw.randrange(len(CATEGORIES)), self.draw.randrange(len(BRANDS))

    def _look(self, category: int | None, brand: int | None) -> int | None:
        """None: there is nothing of that sort now."""
        for _ in range(3_000):
            age = int(self.draw.expovariate(1 / self.lifetime))
            row = (self._released - age) % self.n_items
            if not self._dud[row] and (
                (category is None or self.category[row] == category)
                and (brand is None or self.brand[row] == brand)
            ):
                return row
        return None


class LongTail(_Kind):
    """Many items, each looked at now and then, in subjects of 25 that its category doesn't tell."""

    subject_size = 25

    def __init__(self, n_users: int, n_items: int, seed: int) -> None:
        super().__init__(n_users, n_items, seed)
        self._n_subjects = max(1, n_items // self.subject_size)
        self._order = self.draw.sample(range(n_items), n_items)
        self._subjects = [
            [self.draw.randrange(self._n_subjects) for _ in range(3)] for _ in range(n_users)
        ]

    def visit(self, user: int) -> Iterator[int]:
        """About six items of one subject, sometimes of the next one."""
        subject = self.draw.choice(self._subjects[user])
        for _ in range(self.length(6.0)):
            if self.draw.random() < 0.1:
                subject = (subject + 1) % self._n_subjects
            first = subject * self.subject_size
            size = min(self.subject_size, self.n_items - first)
            yield self._order[first + int(size * self.draw.random() ** 1.5)]


class Playlist(_Kind):
    """Albums of twelve in their order; the next track follows three times in five."""

    album_size = 12
    artist_size = 48

    def __init__(self, n_users: int, n_items: int, seed: int) -> None:
        super().__init__(n_users, n_items, seed)
        self._n_artists = max(1, n_items // self.artist_size)
        self._order = self.draw.sample(range(n_items), n_items)
        self._likes = [
            [int(self._n_artists * self.draw.random() ** 2) for _ in range(4)]
            for _ in range(n_users)
        ]

    def visit(self, user: int) -> Iterator[int]:
        """About ten tracks."""
        draw = self.draw
        track = self._of(draw.choice(self._likes[user]))
        for _ in range(self.length(10.0)):
            yield self._order[track]
            what = draw.random()
            last = track % self.album_size == self.album_size - 1 or track + 1 == self.n_items
            if what < 0.6 and not last:
                track += 1
            elif what < 0.85:
                track = self._of(track // self.artist_size)
            else:
                track = self._of(draw.choice(self._likes[user]))

    def _of(self, artist: int) -> int:
        first = artist * self.artist_size
        return first + self.draw.randrange(min(self.artist_size, self.n_items - first))


class Pair(_Kind):
    """Few users, each with own habits: after each item mostly the same one of three others."""

    n_open = 2

    def __init__(self, n_users: int, n_items: int, seed: int) -> None:
        super().__init__(n_users, n_items, seed)
        self._after = [
            [tuple(self.draw.randrange(n_items) for _ in range(3)) for _ in range(n_items)]
            for _ in range(n_users)
        ]
        self._at = [self.draw.randrange(n_items) for _ in range(n_users)]

    def visit(self, user: int) -> Iterator[int]:
        """About eight items, from where the last visit ended."""
        for _ in range(self.length(8.0)):
            what = self.draw.random()
            after = self._after[user][self._at[user]]
            place = 0 if what < 0.55 else 1 if what < 0.75 else 2
            at = after[place] if what < 0.85 else self.draw.randrange(self.n_items)
            self._at[user] = at
            yield at


class Drifting(_Kind):
    """Popular items, subjects and tastes change for ever, nothing comes back by rule.

    Each hundredth event an item moves to another subject and gets another appeal, so that half of
    the default shop is another one after 140,000 events; a visitor takes up a subject now and then.
    """

    move_every = 100
    subject_size = 25

    def __init__(self, n_users: int, n_items: int, seed: int) -> None:
        super().__init__(n_users, n_items, seed)
        n_subjects = max(1, n_items // self.subject_size)
        self._members: list[list[int]] = [[] for _ in range(n_subjects)]
        self._subject = [row % n_subjects for row in range(n_items)]
        for row, subject in enumerate(self._subject):
            self._members[subject].append(row)
        self._appeal = [self.draw.random() ** 3 for _ in range(n_items)]
        self._likes = [[self.draw.randrange(n_subjects) for _ in range(3)] for _ in range(n_users)]

    def tick(self, number: int) -> None:
        """Move an item when it is time; no subject loses its last one."""
        if number % self.move_every:
            return
        row = self.draw.randrange(self.n_items)
        if len(self._members[self._subject[row]]) == 1:
            return
        self._members[self._subject[row]].remove(row)
        self._subject[row] = self.draw.randrange(len(self._members))
        self._members[self._subject[row]].append(row)
        self._appeal[row] = self.draw.random() ** 3

    def visit(self, user: int) -> Iterator[int]:
        """About six items, mostly of one subject."""
        draw = self.draw
        if draw.random() < 0.05:
            self._likes[user][draw.randrange(3)] = draw.randrange(len(self._members))
        subject = draw.choice(self._likes[user])
        for _ in range(self.length(6.0)):
            if draw.random() < 0.15:
                subject = draw.choice(self._likes[user])
            members = self._members[subject]
            row = draw.choice(members)
            for _ in range(50):
                if draw.random() < self._appeal[row]:
                    break
                row = draw.choice(members)
            yield row


LEAST_ITEMS = {"fashion": 100, "listings": 100}
"""Of fewer, it may be that nobody wants any: their visits would all be empty."""

_MAKERS: dict[str, tuple[Callable[[int, int, int], KindOfShop], int, int]] = {
    "fashion": (Fashion, 2_000, 4_000),
    "grocery": (Grocery, 400, 1_500),
    "listings": (Listings, 1_500, 10_000),
    "longtail": (LongTail, 2_000, 10_000),
    "playlist": (Playlist, 800, 3_000),
    "pair": (Pair, 2, 300),
    "drifting": (Drifting, 1_000, 2_000),
}
"""What makes each, and how many users and items it has by default."""

KINDS_OF_SHOPS = tuple(_MAKERS)


def kind_of_shop(name: str, n_users: int | None, n_items: int | None, seed: int) -> KindOfShop:
    """A shop's kind by its name; None: as many as it has by default. Raises UsageError.

    >>> kind_of_shop("pair", None, None, seed=0).n_users
    2
    """
    if name not in _MAKERS:
        raise UsageError(f"--shop {name}: there are {', '.join(('mixed', *_MAKERS))}")
    make, users, items = _MAKERS[name]
    least = LEAST_ITEMS.get(name, 1)
    if n_items is not None and n_items < least:
        raise UsageError(f"--items {n_items}: --shop {name} needs {least} and more")
    return make(n_users or users, n_items or items, seed)
