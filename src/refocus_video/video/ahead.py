"""Work done in the background while its earlier results are used."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

_END = object()


@contextmanager
def ahead(items: Iterator[T]) -> Iterator[Iterator[T]]:
    """Give an iterator's items while a thread prepares the next one: at most one item waits.

    An error of the iterator is raised where its item would have come. On leaving early the thread finishes the item
    that it is at, and the iterator is not asked again.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as pool:
        yield _items(pool, items)


def _items(pool: ThreadPoolExecutor, items: Iterator[T]) -> Iterator[T]:
    waiting = pool.submit(next, items, _END)
    while (item := waiting.result()) is not _END:
        waiting = pool.submit(next, items, _END)
        yield item  # type: ignore[misc]  # not the end mark, so an item
