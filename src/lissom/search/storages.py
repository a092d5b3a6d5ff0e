"""The database that trials are kept in, reached by its URL."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Literal

from lissom.errors import StorageError, first_line

if TYPE_CHECKING:
    import optuna

CONNECT_SECONDS = 10
"""A server that does not answer is given up after this; the system's own limit is minutes."""
_DRIVER = "postgresql+psycopg"
"""What the extra `postgresql` brings; SQLAlchemy's own default is its predecessor."""


def reached(held: contextlib.ExitStack, storage: str, name: str, objectives: int) -> optuna.Study:
    """The study of that name, new or as it is; its connections are closed when `held` is.

    Raises:
        StorageError: the storage cannot be reached or read, or its driver is not installed.
    """
    import optuna
    from sqlalchemy.exc import IntegrityError, ProgrammingError, SQLAlchemyError

    def made() -> optuna.Study:
        opened = optuna.storages.RDBStorage(*_engine(storage))
        held.callback(opened.engine.dispose)
        held.callback(opened.remove_session)
        directions: list[Literal["minimize"]] = ["minimize"] * objectives
        return optuna.create_study(storage=opened, study_name=name, directions=directions, load_if_exists=True)

    try:
        try:
            return made()
        except (IntegrityError, ProgrammingError):  # two machines that begin together both make the tables: one fails
            return made()
    except (SQLAlchemyError, optuna.exceptions.OptunaError, ImportError, ValueError, RuntimeError) as wrong:
        raise StorageError(
            f"The storage {without_password(storage)!r} cannot be used: {first_line(wrong)}. {_way_out(wrong)}"
        ) from wrong


def lost(storage: str, wrong: Exception) -> StorageError:
    """What to say of a storage that answered at first and no longer does."""
    return StorageError(
        f"The storage {without_password(storage)!r} no longer answers: {first_line(wrong)}. What it was told is kept "
        "in it: start it again, and the same command continues."
    )


def without_password(storage: str) -> str:
    """The URL as it may be shown."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(storage).render_as_string(hide_password=True)
    except ArgumentError:
        return storage


def _engine(storage: str) -> tuple[str, dict[str, Any]]:
    """The URL with its driver, and how connections are made."""
    scheme, sign, rest = storage.partition("://")
    if scheme not in ("postgresql", "postgres", "postgresql+psycopg", "postgresql+psycopg2") or not sign:
        return storage, {}
    # A connection that a server or a firewall has closed while a candidate was trained is made anew.
    options: dict[str, Any] = {"pool_pre_ping": True, "connect_args": {"connect_timeout": CONNECT_SECONDS}}
    driven = storage if "+" in scheme else f"{_DRIVER}://{rest}"
    return driven, options


def _way_out(wrong: Exception) -> str:
    if isinstance(wrong, ImportError):
        return 'For PostgreSQL, pip install "lissom[postgresql]"; an SQLite file needs nothing.'
    return (
        "Give a URL such as sqlite:///search.db in a folder that exists, start the database, or leave storage out: "
        "trials are then kept in the run folder. --fallback does that by itself."
    )
